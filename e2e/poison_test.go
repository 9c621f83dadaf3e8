package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// An event that can never be delivered as it is stops the connector: what comes
// before it is delivered and confirmed, nothing behind it is, and once its cause
// is mended the rest arrives in order.
func TestPoisonEvent(t *testing.T) {
	t.Parallel()
	incompressible := `(SELECT jsonb_build_object('n', 13, 'text', string_agg(md5(random()::text), '')) FROM generate_series(1, 4000))`
	for name, test := range map[string]struct {
		// The row, as SQL.
		key, typ, payload string
		env               []string // configuration from the start
		says              []string // in the last line, beside id and position
		mend              func(s *scenario)
		// want is what the mended configuration makes of the rows from the bad
		// one on.
		want func(r *row)
		// alone: the mended configuration sends rows to other partitions, so
		// none may be sent before and after. The bad one has its transaction to
		// itself.
		alone bool
	}{
		"NULL key": {
			key: "NULL", typ: "'t0'", payload: `'{"n": 13}'`,
			says: []string{"aggregate_id", "route.key", "NULL"},
			mend: func(s *scenario) { s.env = []string{"OUTBOXD_ROUTE_KEY=none"} },
			want: func(r *row) { r.key = "" }, alone: true,
		},
		"NULL type": {
			key: "'k3'", typ: "NULL", payload: `'{"n": 13}'`,
			says: []string{"type", "NULL"},
			mend: func(s *scenario) { s.env = []string{"OUTBOXD_ROUTE_TOPIC=" + s.topic + ".t0"} },
			want: func(r *row) { r.typ = "t0" },
		},
		"illegal topic name": {
			key: "'k3'", typ: "'order paid'", payload: `'{"n": 13}'`,
			says: []string{"topic name", "order paid"},
			mend: func(s *scenario) { s.env = []string{"OUTBOXD_ROUTE_TOPIC=" + s.topic + ".t0"} },
			want: func(r *row) { r.typ = "t0" },
		},
		"NULL payload": {
			key: "'k3'", typ: "'t0'", payload: "NULL",
			env:  []string{"OUTBOXD_VALUE_NULL_PAYLOAD=error"},
			says: []string{"payload is NULL", "value.null_payload"},
			mend: func(s *scenario) { s.env = nil },
			want: func(*row) {},
		},
		"larger than the topic takes": {
			key: "'k3'", typ: "'t0'", payload: incompressible,
			says: []string{".t0", "50000", "max.message.bytes"},
			mend: func(s *scenario) { s.setMaxMessageBytes("t0", 1_000_000) },
			want: func(*row) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.createTopic(s.topic+".t0", 3, nil)
			s.setMaxMessageBytes("t0", 50_000)
			s.env = test.env
			c := s.startStreaming()
			s.events(1, 10)
			// Good events on both sides of the bad one, in its transaction and
			// in others.
			number, commit := "-00000003", ""
			if test.alone {
				number, commit = "-00000001", "COMMIT;"
			}
			s.exec(`DO $$ BEGIN
				INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(11, 12) i;
				` + commit + `
				INSERT INTO outbox (aggregateid, type, payload) VALUES (` + test.key + `, ` + test.typ + `, ` + test.payload + `);
				` + commit + `
				INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(14, 15) i;
			END $$`)
			after := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			s.events(16, 25)
			says := append(slices.Clone(test.says), "poison event", `id "13"`, number, "nothing after it is confirmed")
			c.failsWith(1, says...)

			confirmed := s.confirmed()
			if confirmed >= after {
				t.Errorf("the slot is at %s, the bad event's transaction ends before %s", confirmed, after)
			}
			records := s.read()
			for _, r := range records {
				if n, _ := strconv.Atoi(r.id); n > 12 {
					t.Errorf("published behind the bad event: %v", r)
				} else if n <= 10 && r.commitLSN(t) >= confirmed {
					t.Errorf("published before the bad event and not confirmed (the slot is at %s): %v", confirmed, r)
				}
			}
			if len(records) != 12 {
				t.Errorf("%d records before the bad event, want 12", len(records))
			}

			// Without a change it is the first thing that a start meets; what
			// came before it is not lost and not confirmed meanwhile.
			s.checkpoint()
			c = s.start()
			c.failsWith(1, says...)
			if got := s.confirmed(); got >= after {
				t.Errorf("the second start confirmed the bad event's transaction: the slot is at %s", got)
			}

			s.checkpoint()
			test.mend(s)
			rows := s.rows()
			for id, r := range rows {
				if n, _ := strconv.Atoi(id); n >= 13 {
					test.want(&r)
					rows[id] = r
				}
			}
			c = s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if r := s.verifyRows(rows, nil); r.repeated > 4 {
				t.Errorf("more than the begun transaction is repeated: %+v", r)
			}
		})
	}
}

// The operator may give a bad event up: the command that the error names gets past it
// in one step, wherever the position is kept. What is lost is the rest of its
// transaction, and nothing else.
func TestPoisonEventSkippedByHand(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`outboxd run (--from-lsn) ([0-9A-F]+/[0-9A-F]+) (--accept-gap)`)
	for name, delivery := range map[string]string{
		"slot": "store: slot", "file": "store: file, file: " + filepath.Join(t.TempDir(), "position.json"),
		"kafka": "store: kafka, topic: %s-positions", "exactly once": "guarantee: exactly_once, topic: %s-positions",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.extra = "delivery: {confirm_interval: 100ms, " + strings.ReplaceAll(delivery, "%s", s.topic) + "}"
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT nullif('k' || i % 5, 'k3'), 't0', jsonb_build_object('n', i) FROM generate_series(11, 14) i`)
			s.events(15, 20)
			c.failsWith(1, `id "13"`, "-00000003")
			args := command.FindStringSubmatch(c.lastLine())
			if args == nil {
				t.Fatalf("no command in: %s", c.lastLine())
			}
			// Without the consent nothing is skipped.
			s.start(args[1], args[2]).failsWith(3, "events would be skipped", "--accept-gap")
			c = s.startStreaming(args[1:]...)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			// The next start needs no more of it.
			c = s.startStreaming()
			s.events(21, 30)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			rows := s.rows()
			delete(rows, "13")
			delete(rows, "14")
			if name == "exactly once" {
				// Of the records in between some are the markers of transactions.
				if n := len(s.readCommitted()); n != len(rows) {
					t.Errorf("%d events are committed, want %d", n, len(rows))
				}
				return
			}
			r := s.verifyRows(rows, nil)
			if want := 28; r.records-r.repeated != want || name != "slot" && r.repeated != 0 {
				t.Errorf("%+v, want %d", r, want)
			}
		})
	}
}

// A bad event behind a great number of good ones that Kafka has not acknowledged
// yet: they are waited for.
func TestPoisonEventBehindBacklog(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.startStreaming().kill()
	for i := range 20 {
		s.events(1+500*i, 500+500*i)
	}
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES (NULL, 't0', '{"n": 10001}')`)
	c := s.start()
	c.failsWith(1, `id "10001"`)
	confirmed := s.confirmed()
	for _, r := range s.read() {
		if r.commitLSN(t) >= confirmed {
			t.Fatalf("published before the bad event and not confirmed (the slot is at %s): %v", confirmed, r)
		}
	}
	s.checkpoint()
	rows := s.rows()
	delete(rows, "10001")
	if r := s.verifyRows(rows, nil); r.records != 10_000 {
		t.Errorf("%+v", r)
	}
}

// setMaxMessageBytes returns when the broker itself says so.
func (s *scenario) setMaxMessageBytes(suffix string, n int) {
	s.t.Helper()
	const key = "max.message.bytes"
	admin, topic, value := s.admin(), s.topic+"."+suffix, fmt.Sprint(n)
	answers, err := admin.AlterTopicConfigs(context.Background(), []kadm.AlterConfig{{Name: key, Value: &value}}, topic)
	if err == nil {
		_, err = answers.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		s.t.Fatalf("alter %s: %v", topic, err)
	}
	waitFor(s.t, 10*time.Second, func() (string, bool) {
		configs, err := admin.DescribeTopicConfigs(context.Background(), topic)
		if err != nil {
			return err.Error(), false
		}
		config, err := configs.On(topic, nil)
		for _, c := range config.Configs {
			if c.Key == key {
				return c.MaybeValue(), strings.EqualFold(c.MaybeValue(), value)
			}
		}
		return fmt.Sprint(err), false
	})
}
