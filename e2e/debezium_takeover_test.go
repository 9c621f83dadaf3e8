package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// TestTakeOverFromDebezium stops Debezium and starts outboxd on the slot and the
// publication that Debezium made for itself, while transactions go on. Nothing is
// lost, and what arrives twice lies behind what Debezium had last confirmed to
// PostgreSQL, which is never ahead of Kafka.
func TestTakeOverFromDebezium(t *testing.T) {
	for name, test := range map[string]struct {
		autocreate string
		schema     string
	}{
		"publication of all tables": {"all_tables", "ALTER TABLE outbox REPLICA IDENTITY FULL"},
		"publication of the outbox": {"filtered", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.exec("CREATE TABLE other (id int PRIMARY KEY, text text)")
			if test.schema != "" {
				s.exec(test.schema)
			}
			options := s.connectorOptions(s.slotName)
			options["publication.autocreate.mode"] = test.autocreate
			options["publication.name"] = "dbz_own"
			options["transforms.outbox.route.by.field"] = "type"
			options["transforms.outbox.route.topic.replacement"] = s.topic + ".${routedByValue}"
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
			defer cancel()
			connect := connectWorker(t)
			if err := connect.Create(ctx, s.slotName, options); err != nil {
				t.Fatal(err)
			}
			waitFor(t, 2*time.Minute, func() (string, bool) {
				if err := connect.Check(ctx, s.slotName); err != nil {
					t.Fatal(err)
				}
				return "Debezium does not stream", s.value("SELECT count(*)::text FROM pg_replication_slots WHERE active AND slot_name = '"+s.slotName+"'") == "1"
			})
			admin := s.admin()
			arrived := func() int64 { return s.arrivedBy(admin) }
			l := s.startLoad(2, 5, 20*time.Millisecond, 7)
			waitFor(t, 2*time.Minute, func() (string, bool) { return "Debezium publishes nothing", arrived() > 50 })
			// What Debezium publishes beside the inserts is to be passed over.
			s.exec("INSERT INTO other SELECT i, 'x' FROM generate_series(1, 100) i")
			s.exec("UPDATE outbox SET type = type WHERE id % 7 = 0")
			s.exec("DELETE FROM outbox WHERE id = (SELECT min(id) FROM outbox)")
			if err := connect.Delete(ctx, s.slotName); err != nil {
				t.Fatal(err)
			}
			s.waitSlotFree()
			confirmed, before := s.confirmed(), arrived()
			published := before

			s.whole = strings.Replace(importDebezium(t, options), "headers: debezium\n", "headers: plain\n", 1)
			s.env = []string{"KAFKA_BROKERS=" + strings.Join(s.brokers, ","), "OUTBOXD_HTTP_LISTEN=", "OUTBOXD_LOG_FORMAT=json"}
			c := s.startStreaming()
			waitFor(t, 60*time.Second, func() (string, bool) { return "outboxd publishes nothing", arrived() > before+50 })
			l.stop()
			s.waitConfirmed(60 * time.Second)
			c.stop()

			var committed, distinct, repeated int64
			seen := make(map[string]int)
			for _, r := range s.read() {
				n := r.header("id")
				if seen[n]++; seen[n] == 2 {
					repeated++
				}
				// Only outboxd's records have a position; none lies before what was
				// confirmed when it took over.
				if r.header("position") != "" && r.commitLSN(t) < confirmed {
					t.Errorf("%v was published again although Debezium had confirmed %s", r, confirmed)
				}
			}
			distinct = int64(len(seen))
			committed = l.committed.Load()
			if distinct != committed {
				t.Errorf("%d events were committed, %d arrived", committed, distinct)
			}
			if repeated > published {
				t.Errorf("%d events came twice, Debezium had published %d", repeated, published)
			}
			t.Logf("%d events, %d by Debezium, %d of them again by outboxd", committed, published, repeated)
		})
	}
}

func (s *scenario) arrivedBy(admin *kadm.Client) (n int64) {
	s.t.Helper()
	s.endsBy(admin).Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// waitSlotFree waits until nobody streams from the slot.
func (s *scenario) waitSlotFree() {
	s.t.Helper()
	waitFor(s.t, 30*time.Second, func() (string, bool) {
		return "the slot is still in use", s.value("SELECT active::text FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"'") == "false"
	})
}
