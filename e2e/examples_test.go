package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

type handler func(ctx context.Context, db *pgx.Conn, r *kgo.Record, effect func(pgx.Tx) error) (repeated bool, err error)

// The writer and consumers of the manual do what it says: outboxd is killed again and
// again, the consumers crash before they commit their offsets, and each event has
// its effect once, in order.
func TestExamples(t *testing.T) {
	const orders = 60
	s := newScenario(t, nil, nil)
	s.exec(`CREATE TABLE orders (id text PRIMARY KEY, cents bigint, paid boolean DEFAULT false);
		CREATE TABLE consumed (topic text, partition int, position text, PRIMARY KEY (topic, partition));
		CREATE TABLE inbox (id text PRIMARY KEY, received timestamptz DEFAULT now());
		CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, consumer text, order_id text, type text, cents bigint)`)
	s.route = fmt.Sprintf(`{topic: %s.orders}`, s.topic)
	s.extra = "delivery: {confirm_interval: 30s}" // so that every kill repeats much
	s.startStreaming().stop()
	s.createTopic(s.topic+".orders", 3, nil)

	consumers := []*exampleConsumer{{s: s, name: "position", handle: handleByPosition, next: map[int32]int64{}},
		{s: s, name: "inbox", handle: handleByID, next: map[int32]int64{}}}
	for _, c := range consumers {
		c.start()
	}
	db := s.connect()
	for round := range 3 {
		outboxd := s.startStreaming()
		for i := round * orders / 3; i < (round+1)*orders/3; i++ {
			o := order{fmt.Sprintf("order-%d", i), int64(100 + i)}
			if err := placeOrder(t.Context(), db, o); err != nil {
				t.Fatal(err)
			}
			// What is not committed has no event.
			if err := placeOrder(t.Context(), db, o); err == nil {
				t.Fatal("the same order twice")
			}
			if err := payOrder(t.Context(), db, o); err != nil {
				t.Fatal(err)
			}
		}
		arrived := int64(2 * orders / 3 * (round + 1))
		waitFor(t, 60*time.Second, func() (string, bool) { return "events arrive", s.arrived() >= arrived })
		outboxd.kill()
		for _, c := range consumers {
			c.stop() // without its last offsets
			c.start()
		}
	}
	s.env = []string{"OUTBOXD_DELIVERY_CONFIRM_INTERVAL=50ms"}
	outboxd := s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	outboxd.stop()
	total := s.arrived()
	if total < 2*orders+2*orders/3 {
		t.Errorf("%d records of %d events: too few are repeated to mean anything", total, 2*orders)
	}
	for _, c := range consumers {
		waitFor(t, 60*time.Second, func() (string, bool) {
			n := c.reached()
			return fmt.Sprintf("%s has come to %d of %d records", c.name, n, total), n == total
		})
		c.stop()
		once := s.value(fmt.Sprintf(`SELECT count(*) || ' orders, ' || coalesce(sum((types = ARRAY['OrderPlaced', 'OrderPaid'] AND same)::int), 0) || ' right' FROM (
			SELECT order_id, array_agg(type ORDER BY n) AS types, bool_and(e.cents = o.cents) AS same
			FROM effects e JOIN orders o ON o.id = e.order_id WHERE consumer = '%s' GROUP BY order_id) AS effects`, c.name))
		if want := fmt.Sprintf("%d orders, %[1]d right", orders); once != want {
			t.Errorf("%s: %s, want %s", c.name, once, want)
		}
		if c.repeated.Load() == 0 {
			t.Errorf("%s: nothing was repeated", c.name)
		}
		t.Logf("%s: %d records seen, %d of them repeated", c.name, c.seen.Load(), c.repeated.Load())
	}
}

// What an operator publishes again reaches the consumer that goes by position, once for
// each id, and does not move its mark.
func TestExampleOfRecordsPublishedAgain(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec(`CREATE TABLE consumed (topic text, partition int, position text, PRIMARY KEY (topic, partition));
		CREATE TABLE inbox (id text PRIMARY KEY, received timestamptz DEFAULT now())`)
	db := s.connect()
	const older, newer = "0000000001507C60-00000001", "0000000001507C60-00000002"
	for i, step := range []struct {
		id, header, position string
		repeated             bool
	}{
		{"2", "", newer, false},
		{"2", "", newer, true},
		{"1", "", older, true}, // behind the mark: as after a crash
		{"1", "dead_letter_retry", older, false},
		{"1", "dead_letter_retry", older, true},
		{"3", "replayed", "", false}, // from the table
		{"3", "replayed", "", true},
		{"2", "replayed", newer, true}, // from the WAL: it was seen
	} {
		r := &kgo.Record{Topic: "orders", Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(step.id)}}}
		if step.position != "" {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "position", Value: []byte(step.position)})
		}
		if step.header != "" {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: step.header, Value: []byte("true")})
		}
		had := false
		repeated, err := handleByPosition(t.Context(), db, r, func(pgx.Tx) error { had = true; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if repeated != step.repeated || had == repeated {
			t.Errorf("record %d: repeated is %t, and it had its effect: %t", i, repeated, had)
		}
		if mark := s.value("SELECT position FROM consumed"); mark != newer {
			t.Errorf("record %d moved the mark to %s", i, mark)
		}
	}
}

// exampleConsumer reads with a group of its own, and commits its offsets only now
// and then.
type exampleConsumer struct {
	s      *scenario
	name   string
	handle handler

	cancel         context.CancelFunc
	done           chan struct{}
	seen, repeated atomic.Int64

	mu   sync.Mutex
	next map[int32]int64 // offsets by partition
}

// reached is the sum of its offsets.
func (c *exampleConsumer) reached() (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, offset := range c.next {
		n += offset
	}
	return n
}

func (c *exampleConsumer) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.done = cancel, make(chan struct{})
	client := c.s.client(kgo.ConsumeTopics(c.s.topic+".orders"), kgo.ConsumerGroup(c.s.topic+"-"+c.name), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	db := c.s.connect()
	go func() {
		defer close(c.done)
		defer db.Close(context.Background())
		defer client.Close()
		for polls := 1; ; polls++ {
			fetches := client.PollFetches(ctx)
			if ctx.Err() != nil {
				return
			}
			fetches.EachRecord(func(r *kgo.Record) { c.one(db, r) })
			if polls%5 == 0 {
				_ = client.CommitUncommittedOffsets(ctx)
			}
		}
	}()
	c.s.t.Cleanup(c.stop)
}

func (c *exampleConsumer) one(db *pgx.Conn, r *kgo.Record) {
	repeated, err := c.handle(context.Background(), db, r, func(tx pgx.Tx) error {
		var o order
		if err := json.Unmarshal(r.Value, &o); err != nil {
			return err
		}
		_, err := tx.Exec(context.Background(), `INSERT INTO effects (consumer, order_id, type, cents) VALUES ($1, $2, $3, $4)`, c.name, o.ID, header(r, "type"), o.Cents)
		return err
	})
	if err != nil {
		c.s.t.Errorf("%s: %v", c.name, err)
	}
	c.seen.Add(1)
	c.mu.Lock()
	c.next[r.Partition] = max(c.next[r.Partition], r.Offset+1)
	c.mu.Unlock()
	if repeated {
		c.repeated.Add(1)
	}
}

// stop ends it as a crash would, without its last offsets, but leaves its group.
func (c *exampleConsumer) stop() {
	c.cancel()
	<-c.done
}
