package e2e

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka answers nothing for three times wal_sender_timeout, under a steady load of
// small transactions: the server process stays the same, and as soon as Kafka is back
// everything that waited flows. The segments of such a load overflow a socket that is
// not read.
func TestKafkaStallUnderSteadyLoad(t *testing.T) {
	t.Parallel()
	stalls := []time.Duration{30 * time.Second}
	if *soak {
		stalls = append(stalls, 70*time.Second, 300*time.Second)
	}
	for _, stall := range stalls {
		t.Run(stall.String(), func(t *testing.T) {
			t.Parallel() // it is mostly waiting
			s := newScenario(t, nil, nil)
			s.patience("10s")
			stalled, brokers := stallingKafka(t, s.topic)
			s.extra = fmt.Sprintf("kafka: {max_buffered: 2MiB, brokers: [%q]}", brokers)
			s.brokersInExtra = true
			s.route = "{topic: " + s.topic + "}"
			s.exec(`CREATE PROCEDURE load(seconds int) LANGUAGE plpgsql AS $$
				DECLARE began timestamptz := clock_timestamp(); i int := 0;
				BEGIN
					SET synchronous_commit = off;
					WHILE clock_timestamp() < began + seconds * interval '1 second' LOOP
						i := i + 1;
						INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', jsonb_build_object('n', i, 'text', repeat('x', 200)));
						COMMIT;
						PERFORM pg_sleep(extract(epoch FROM began + i * interval '1 second' / 1200 - clock_timestamp()));
					END LOOP;
				END $$`)
			c := s.startStreaming()
			server := func(what string) string {
				return s.value("SELECT coalesce((SELECT " + what + "::text FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = '" + s.slotName + "'), 'none')")
			}
			var loading sync.WaitGroup
			defer loading.Wait()
			loading.Go(func() { s.exec("CALL load($1)", int(stall.Seconds()+6)) })
			time.Sleep(3 * time.Second)
			before, confirmed := server("pid"), s.confirmed()
			stalled.Lock()
			time.Sleep(stall)
			healed := time.Now()
			stalled.Unlock()
			waiting := server("sent_lsn")
			waitFor(t, 20*time.Second, func() (string, bool) {
				return "the server has sent nothing since it was " + waiting, server("sent_lsn") != waiting
			})
			t.Logf("%s after Kafka was back the server sends", time.Since(healed).Round(10*time.Millisecond))
			if d := time.Since(healed); d > 10*time.Second {
				t.Errorf("%s after Kafka was back the server sends again", d)
			}
			if after := server("pid"); after != before || before == "none" {
				t.Errorf("the server process was %s, and is %s", before, after)
			}
			loading.Wait()
			s.waitConfirmed(60 * time.Second)
			if s.confirmed() <= confirmed {
				t.Error("nothing was confirmed")
			}
			c.stop()
			events, err := strconv.Atoi(s.value("SELECT count(*)::text FROM outbox"))
			if err != nil {
				t.Fatal(err)
			}
			readSerial(t, brokers, s.topic, events)
			t.Logf("%d events", events)
		})
	}
}

// stallingKafka is a broker in this process that answers nothing while the lock is
// held, and has the topic with one partition.
func stallingKafka(t *testing.T, topic string) (stalled *sync.RWMutex, broker string) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	stalled = new(sync.RWMutex)
	cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		stalled.RLock()
		defer stalled.RUnlock()
		return nil, nil, false
	})
	return stalled, cluster.ListenAddrs()[0]
}

// readSerial demands that a topic of one partition has the events 1 to n, in order and
// none twice.
func readSerial(t *testing.T, broker, topic string, n int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for want := 1; want <= n; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after event %d of %d: %v", want-1, n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == "id" && string(h.Value) != strconv.Itoa(want) {
					t.Fatalf("event %s at offset %d, want %d", h.Value, r.Offset, want)
				}
			}
			want++
		})
	}
}
