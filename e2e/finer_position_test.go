package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Killed inside one large transaction, again and again: with a store the connector
// goes on near where it was. What is repeated each time is what was acknowledged
// since the position was stored last, and what was in flight; from the slot alone
// it would be the whole transaction.
func TestRestartInsideLargeTransaction(t *testing.T) {
	t.Parallel()
	rows, kills := 60_000, 2
	if *soak {
		rows, kills = 300_000, 10
	}
	for _, store := range []string{"file", "kafka"} {
		t.Run(store, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.extra = fmt.Sprintf("delivery: {confirm_interval: 20ms, store: %s, file: %q, topic: %s-positions}",
				store, filepath.Join(t.TempDir(), "position.json"), s.topic)
			// Small, so that a session does not send it all at once.
			s.extra += fmt.Sprintf("\nkafka: {max_buffered: 4MiB, linger: 5ms, brokers: [%q]}", s.brokers[0])
			s.brokersInExtra = true
			s.startStreaming().kill()
			s.events(1, rows)
			for range kills {
				before := s.arrived()
				c := s.start()
				waitFor(t, 60*time.Second, func() (string, bool) {
					n := s.arrived()
					return fmt.Sprintf("%d records arrived", n), n >= before+int64(rows/(kills+3))
				})
				c.kill()
				s.checkpoint()
			}
			c := s.startStreaming()
			s.waitConfirmed(60 * time.Second)
			c.stop()
			s.checkpoint()
			r := s.verify()
			t.Logf("%d kills: %+v", kills, r)
			// From its beginning each time, it would be as much as the transaction
			// again, or more.
			if r.repeated > rows/2 {
				t.Errorf("%d of %d events were repeated by %d restarts inside their transaction", r.repeated, rows, kills)
			}
		})
	}
}

// A topic for positions that would lose them, or that holds something else, ends
// the process, and the last line says how to mend it.
func TestPositionTopicMisused(t *testing.T) {
	t.Parallel()
	compact := "compact"
	tests := []struct {
		name       string
		partitions int32
		configs    map[string]*string
		record     string
		says       []string
	}{
		{"several partitions", 3, map[string]*string{"cleanup.policy": &compact}, "", []string{"3 partitions", "delivery.topic"}},
		{"not compacted", 1, nil, "", []string{"cleanup.policy=delete", "kafka-configs.sh"}},
		{"foreign record", 1, map[string]*string{"cleanup.policy": &compact}, "hello", []string{"offset 0", "not a position"}},
	}
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		for _, test := range tests {
			t.Run(guarantee+" "+test.name, func(t *testing.T) {
				s := newScenario(t, nil, nil)
				topic := s.topic + "-positions"
				s.extra = fmt.Sprintf("delivery: {guarantee: %s, store: kafka, topic: %s}", guarantee, topic)
				s.createTopic(topic, test.partitions, test.configs)
				if test.record != "" {
					client := s.client()
					defer client.Close()
					r := &kgo.Record{Topic: topic, Key: []byte(s.slotName), Value: []byte(test.record)}
					if err := client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
				s.start().failsWith(1, append(test.says, topic)...)
			})
		}
	}
}
