package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"outboxd/internal/poison"
)

// letter is what `outboxd dead-letters --json` says of one.
type letter struct {
	Position, Kind, Reason, Topic, Resolved, Outcome, Error string
	ID                                                      *string
	Row                                                     map[string]any
}

// deadLetters runs the command with the scenario's configuration.
func (s *scenario) deadLetters(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	return invoke(s.t, append([]string{"dead-letters", "--config", s.configFile()}, args...)...)
}

// unresolved are the dead letters that are listed.
func (s *scenario) unresolved(args ...string) (letters []letter) {
	s.t.Helper()
	code, out, errs := s.deadLetters(append([]string{"list", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &letters); err != nil || code != 0 {
		s.t.Fatalf("dead-letters list: code %d, %v: %s%s", code, err, out, errs)
	}
	return letters
}

// poisonEvent is an event of a kind, and how a database gets it.
type poisonEvent struct {
	kind poison.Kind
	sql  string // statements of PL/pgSQL
}

// rawPoison are of TestDeadLetters, formattedPoison of TestDeadLettersOfFormats. Both are
// in the order of their dead letters; the last one of rawPoison leaves the table another.
var (
	rawPoison = []poisonEvent{
		{poison.IllegalTopic, `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 'order paid', '{}')`},
		{poison.ForbiddenTopic, `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 'secret', '{}')`},
		{poison.NoRoute, `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', NULL, '{}')`},
		{poison.NullKey, `INSERT INTO outbox (aggregateid, type, payload) VALUES (NULL, 't0', '{"n": 1}')`},
		{poison.Partition, `INSERT INTO outbox (aggregateid, type, payload, part) VALUES ('k', 't0', '{}', 99)`},
		{poison.Headers, `INSERT INTO outbox (aggregateid, type, payload, heads) VALUES ('k', 't0', '{}', '[1]')`},
		{poison.NullPayload, `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', NULL)`},
		{poison.Schema, `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't1', '{"n": "one"}')`},
		{poison.TooLarge, `INSERT INTO outbox (aggregateid, type, payload) SELECT 'k', 't0', jsonb_build_object('text', string_agg(md5(random()::text), '')) FROM generate_series(1, 4000)`},
		{poison.Timestamp, `INSERT INTO outbox (aggregateid, type, payload, happened) VALUES ('k', 't0', '{}', 'infinity')`},
		{poison.Undecodable, `PERFORM pg_logical_emit_message(true, 'dl', '{')`},
		{poison.ColumnMissing, `ALTER TABLE outbox DROP COLUMN extra; INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 2}')`},
	}
	formattedPoison = []poisonEvent{
		{poison.MissingField, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('t0', 'k', NULL, '{}')`},
		{poison.Mask, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('t0', 'k', 'paid', '{"card": "4111", "card": "4112"}')`},
		{poison.Encoding, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('t0', E'\xff', 'paid', '{}')`},
		{poison.Refused, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('compacted', 'k', 'paid', '{}')`},
	}
)

// Each kind of poison event has a case against real servers.
func TestEachKindOfPoison(t *testing.T) {
	var there []poison.Kind
	for _, e := range slices.Concat(rawPoison, formattedPoison) {
		there = append(there, e.kind)
	}
	want := slices.Clone(poison.Kinds)
	slices.Sort(there)
	if slices.Sort(want); !slices.Equal(there, want) {
		t.Errorf("cases of %q\nwant     %q", there, want)
	}
}

// mixed is a script that makes the events, each between two good ones.
func mixed(events []poisonEvent, good string) string {
	var script strings.Builder
	for _, e := range events {
		script.WriteString(good + ";" + e.sql + ";" + good + ";\n")
	}
	return "DO $$ BEGIN " + script.String() + " END $$"
}

// setAside demands these dead letters, in this order.
func (s *scenario) setAside(events []poisonEvent) {
	s.t.Helper()
	var want, got []string
	for _, e := range events {
		want = append(want, string(e.kind))
	}
	for _, l := range s.unresolved() {
		got = append(got, l.Kind)
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("kinds %q\nwant  %q", got, want)
	}
}

// One event of each kind that a database and a broker can make is set aside, beside
// good ones in the same transactions, and the stream goes on. Then, while it runs, what
// can be delivered by a corrected configuration is published, and the rest given up.
func TestDeadLetters(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.exec(`ALTER TABLE outbox ADD part int, ADD heads jsonb, ADD happened timestamptz, ADD extra text`)
			s.createTopic(s.topic+".t0", 3, nil)
			s.setMaxMessageBytes("t0", 50_000)
			schema := filepath.Join(t.TempDir(), "schema.json")
			if err := os.WriteFile(schema, []byte(`{"properties": {"n": {"type": "integer"}}}`), 0o600); err != nil {
				t.Fatal(err)
			}
			s.route = fmt.Sprintf(`{topic: "%s.{type}", partition: part, forbidden: ["*.secret"]}`, s.topic)
			s.extra = fmt.Sprintf(`delivery: {guarantee: %s, confirm_interval: 100ms, store: kafka, topic: %s-positions}
errors: {poison: dead_letter, dead_letter_topic: %s-dead, dead_letter_headers: connect}
outbox: {message_prefix: dl, headers: {x: extra}, headers_column: heads, columns: {timestamp: happened}}
value: {null_payload: error, schema: {t1: %q}}`, guarantee, s.topic, s.topic, schema)
			c := s.startStreaming()

			const good = `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 0}')`
			last := len(rawPoison) - 1
			s.exec(mixed(rawPoison[:last], good))
			s.exec("DO $$ BEGIN " + rawPoison[last].sql + "; END $$")
			s.waitConfirmed(30 * time.Second)
			s.setAside(rawPoison)
			if n := len(s.readCommitted()); n != 2*last {
				t.Errorf("%d good events, want %d", n, 2*last)
			}
			shown := s.unresolved("--kind", "too_large")[0]
			if code, out, errs := s.deadLetters("show", shown.Position); code != 0 || !strings.Contains(out, "max.message.bytes") || len(out) < 128_000 {
				t.Errorf("show: code %d, %d bytes, %s", code, len(out), errs)
			}

			// By a configuration that needs less, and a topic that takes more.
			s.setMaxMessageBytes("t0", 1_000_000)
			s.route = fmt.Sprintf(`{topic: "%s.t0", key: none}`, s.topic)
			s.extra = fmt.Sprintf(`delivery: {guarantee: %s, store: kafka, topic: %s-positions}
errors: {dead_letter_topic: %s-dead}
outbox: {message_prefix: dl}`, guarantee, s.topic, s.topic)
			before := s.readCommitted()
			if code, out, errs := s.deadLetters("retry", "--all", "--dry-run"); code != 1 || !strings.Contains(out, "11 events would be retried") {
				t.Errorf("a dry run: code %d: %s%s", code, out, errs)
			}
			if code, out, errs := s.deadLetters("retry", "--all"); code != 1 || !strings.Contains(out, "11 events retried") || !strings.Contains(errs, "1 event still cannot be delivered") {
				t.Errorf("retry: code %d: %s%s", code, out, errs)
			}
			retried := newer(before, s.readCommitted())
			for _, r := range retried {
				if r.header("dead_letter_retry") != "true" || r.position == "" {
					t.Errorf("retried: %v", r)
				}
			}
			if len(retried) != 11 {
				t.Errorf("%d records were published by the retry, want 11", len(retried))
			}
			if left := s.unresolved(); len(left) != 1 || left[0].Kind != "undecodable" {
				t.Errorf("left: %+v", left)
			}
			if code, out, _ := s.deadLetters("discard", "--kind", "undecodable"); code != 0 || !strings.Contains(out, "1 event discarded") {
				t.Errorf("discard: code %d: %s", code, out)
			}
			if left := s.unresolved(); len(left) != 0 {
				t.Errorf("left: %+v", left)
			}
			if !c.running() {
				t.Fatal("the connector has ended meanwhile")
			}
			c.stop()
		})
	}
}

// What a format, a mask and a broker refuse, in a database that holds any bytes.
func TestDeadLettersOfFormats(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.recreate("SQL_ASCII")
			s.exec(`CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload json)`)
			s.createTopic(s.topic+".t0", 1, nil)
			s.createTopic(s.topic+".compacted", 1, map[string]*string{"cleanup.policy": new("compact")})
			s.route = fmt.Sprintf(`{topic: "%s.{aggregate_type}", key: none}`, s.topic)
			s.extra = fmt.Sprintf(`delivery: {guarantee: %s, confirm_interval: 100ms, store: kafka, topic: %s-positions}
errors: {poison: dead_letter, dead_letter_topic: %s-dead, retry: {min: 50ms, max: 60s}}
value: {format: cloudevents, mask: [{path: $.card, how: remove}]}`, guarantee, s.topic, s.topic)
			c := s.startStreaming()
			s.exec(mixed(formattedPoison, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('t0', 'k', 'paid', '{}')`))
			s.waitConfirmed(60 * time.Second)
			c.stop()
			s.setAside(formattedPoison)
			ids := make(map[string]int)
			for _, r := range s.readCommitted() {
				ids[string(r.value)]++
			}
			if len(ids) != 2*len(formattedPoison) {
				t.Errorf("%d good events, want %d", len(ids), 2*len(formattedPoison))
			}
			for value, n := range ids {
				if n > 1 && guarantee == "exactly_once" {
					t.Errorf("%d times: %s", n, value)
				}
			}
		})
	}
}

// A real broker refuses records that were handed over: too large for a topic whose limit
// was lowered since it was asked, and without a key for a compacted topic. Exactly these
// are set aside, in the order of the rows; the others of their transaction arrive.
func TestLateRefusals(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.createTopic(s.topic+".t0", 1, nil)
			s.createTopic(s.topic+".t1", 1, map[string]*string{"cleanup.policy": new("compact")})
			s.route = fmt.Sprintf(`{topic: "%s.{type}", key: none}`, s.topic)
			s.extra = fmt.Sprintf(`delivery: {guarantee: %s, confirm_interval: 100ms, store: kafka, topic: %s-positions}
errors: {poison: dead_letter, dead_letter_topic: %s-dead, retry: {min: 50ms, max: 60s}}`, guarantee, s.topic, s.topic)
			c := s.startStreaming()
			s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 0}')`)
			s.waitConfirmed(30 * time.Second) // t0 and its limit are known
			s.setMaxMessageBytes("t0", 3_000)
			s.exec(`INSERT INTO outbox (aggregateid, type, payload)
				SELECT 'k', CASE WHEN i IN (31, 52) THEN 't1' ELSE 't0' END,
					jsonb_build_object('n', i, 'text', CASE WHEN i IN (10, 20, 40) THEN (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 200) j) END)
				FROM generate_series(1, 60) i`)
			s.waitConfirmed(60 * time.Second)
			c.stop()
			var got []string
			for _, l := range s.unresolved() {
				got = append(got, l.Kind+" "+*l.ID)
			}
			slices.Sort(got)
			if want := []string{"refused 32", "refused 53", "too_large 11", "too_large 21", "too_large 41"}; !slices.Equal(got, want) {
				t.Errorf("dead letters %q, want %q", got, want)
			}
			last, seen := int64(0), make(map[string]bool)
			for _, r := range s.readCommitted() {
				id, again := r.header("id"), false
				if again, seen[id] = seen[id], true; again {
					if guarantee == "exactly_once" {
						t.Errorf("event %s is there twice", id)
					}
					continue
				}
				if n, err := strconv.ParseInt(id, 10, 64); err != nil || n <= last {
					t.Errorf("event %q after %d: %v", id, last, err)
				} else {
					last = n
				}
			}
			if len(seen) != 56 {
				t.Errorf("%d events, want 56", len(seen))
			}
		})
	}
}

// The command that the error names sets one event aside, wherever the position is kept:
// everything else is delivered, also the rest of its transaction. kill -9 in between
// loses nothing.
func TestRunDeadLetter(t *testing.T) {
	command := regexp.MustCompile("`outboxd run (--dead-letter) ([0-9A-F]{16}-[0-9A-F]{8}) --config ")
	for name, delivery := range map[string]string{"slot": "store: slot", "exactly once": "guarantee: exactly_once, topic: %s-positions"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.extra = "delivery: {confirm_interval: 100ms, " + strings.ReplaceAll(delivery, "%s", s.topic) + "}\nerrors: {dead_letter_topic: " + s.topic + "-dead}"
			c := s.startStreaming()
			s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT nullif('k' || i % 5, 'k3'), 't0', jsonb_build_object('n', i) FROM generate_series(1, 4) i`)
			s.events(5, 20)
			c.failsWith(1, `id "3"`, "-00000003")
			args := command.FindStringSubmatch(c.lastLine())
			if args == nil {
				t.Fatalf("no command in: %s", c.lastLine())
			}
			c = s.startStreaming(args[1:]...)
			c.kill() // wherever it was
			if name == "slot" {
				s.checkpoint()
			}
			c = s.startStreaming(args[1:]...)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if l := s.unresolved(); len(l) != 1 || *l[0].ID != "3" || l[0].Kind != "null_key" {
				t.Errorf("dead letters %+v", l)
			}
			rows := s.rows()
			delete(rows, "3")
			if name == "exactly once" {
				if n := len(s.readCommitted()); n != len(rows) {
					t.Errorf("%d events are committed, want %d", n, len(rows))
				}
				return
			}
			ids := make(map[string]bool)
			for _, r := range s.read() {
				ids[r.id] = true
			}
			if len(ids) != len(rows) || ids["3"] {
				t.Errorf("%d events, want %d", len(ids), len(rows))
			}
		})
	}
}

// newer are the records that were not there before.
func newer(before, now []record) (more []record) {
	there := make(map[string]bool)
	for _, r := range before {
		there[r.String()] = true
	}
	for _, r := range now {
		if !there[r.String()] {
			more = append(more, r)
		}
	}
	return more
}

// Rows of a backfill are set aside like events of the stream, and the backfill ends.
func TestDeadLettersOfABackfill(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.createTopic(s.topic+".t0", 3, nil)
	s.setMaxMessageBytes("t0", 50_000)
	s.extra = "errors: {poison: dead_letter, dead_letter_topic: " + s.topic + "-dead}\noutbox: {backfill: existing}\ndelivery: {confirm_interval: 100ms}"
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT nullif('k' || i % 5, 'k3'), 't0', jsonb_build_object('n', i) FROM generate_series(1, 9) i;
		INSERT INTO outbox (aggregateid, type, payload) SELECT 'k', 't0', jsonb_build_object('text', string_agg(md5(random()::text), '')) FROM generate_series(1, 4000)`)
	c := s.startStreaming()
	s.events(11, 14) // behind the backfill, with one more
	s.waitConfirmed(30 * time.Second)
	c.stop()
	var got []string
	for _, l := range s.unresolved() {
		got = append(got, l.Kind+" "+*l.ID)
	}
	if want := []string{"null_key 3", "null_key 8", "too_large 10"}; !slices.Equal(got, want) {
		t.Errorf("dead letters %q, want %q", got, want)
	}
	if n := len(s.read()); n != 7+4 {
		t.Errorf("%d events, want 11", n)
	}
}

// Too many dead letters in a time stop the run: the last line has how many, of which kind,
// and the first of them. What was set aside is listed.
func TestTooManyDeadLetters(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.extra = fmt.Sprintf(`delivery: {guarantee: %s, confirm_interval: 100ms, topic: %s-positions}
errors: {poison: dead_letter, dead_letter_topic: %s-dead, max_dead_letters: {count: 2, within: 10m}}`, guarantee, s.topic, s.topic)
			c := s.startStreaming()
			s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES (NULL, 't0', '{}'), (NULL, 't0', '{}')`)
			s.waitConfirmed(30 * time.Second)
			s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES (NULL, 't0', '{}'), ('k', 't0', '{}')`)
			c.failsWith(1, "errors.max_dead_letters", "null_key", `id "1"`)
			if n := len(s.unresolved()); n < 2 {
				t.Errorf("%d dead letters are listed", n)
			}
		})
	}
}
