package sink

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/event"
	"outboxd/internal/memory"
	"outboxd/internal/record"
)

const testTopic = "orders"

// patience bounds every wait; no test takes that long.
const patience = 30 * time.Second

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// broker starts an in-process cluster with testTopic in so many partitions.
func broker(t testing.TB, partitions int32, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	opts = append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)
	if partitions > 0 {
		opts = append(opts, kfake.SeedTopics(partitions, testTopic))
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// open makes a sink whose client looks around quickly. When the test ends it has to
// have given all memory back.
func open(t testing.TB, c *kfake.Cluster, change ...func(*Options)) *Kafka {
	t.Helper()
	o := Options{
		Brokers:     c.ListenAddrs(),
		ClientID:    "test",
		Compression: "none",
		Log:         zerolog.Nop(),
		Client:      []kgo.Opt{kgo.MetadataMinAge(10 * time.Millisecond)},
	}
	ledger := memory.New(1 << 40)
	o.Budget = ledger
	for _, f := range change {
		f(&o)
	}
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ledger.OnShortage(k.Shed)
	t.Cleanup(func() {
		k.Close()
		for deadline := time.Now().Add(10 * time.Second); ledger.Accounts() != (memory.Accounts{}); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("after the end of the sink memory is in use or kept: %s", ledger.Accounts())
				return
			}
		}
	})
	return k
}

// sender sends numbered events and counts what comes back for each.
type sender struct {
	t    testing.TB
	k    *Kafka
	sent []*witness
	// before is how many events of the transaction are not sent, lsn that of its commit,
	// 0: the usual one.
	before int
	lsn    pglogrepl.LSN
}

// witness is what one event's owner was told.
type witness struct {
	acknowledged, released atomic.Int32
	charged                atomic.Int64
}

// fill makes the delivery's record that of an event, the n-th of its transaction, as a
// format leaves it.
func (d *Delivery) fill(n int, value []byte) {
	d.Position = event.Position{CommitLSN: 0x100, Number: uint32(n)}
	d.CommittedAt, d.Timestamp, d.Record.Value = committedAt, committedAt, value
}

func (w *witness) Acknowledge() { w.acknowledged.Add(1) }
func (w *witness) Charge(n int) { w.charged.Add(int64(n)) }
func (w *witness) Release(n int) {
	w.released.Add(1)
	w.charged.Add(-int64(n))
}

// try hands over one event.
func (s *sender) try(topic, key string, payload []byte, headers ...record.Header) error {
	w := &witness{}
	d := s.k.Next()
	d.fill(s.before+len(s.sent)+1, payload)
	d.Position.CommitLSN = cmp.Or(s.lsn, d.Position.CommitLSN)
	d.Topic, d.Key = topic, []byte(key)
	d.Headers = append(d.Headers[:0], headers...)
	d.Receipt, d.Memory = w, w
	if err := s.k.Send(d); err != nil {
		if w.acknowledged.Load()+w.released.Load() != 0 {
			s.t.Errorf("an event that was not taken was answered: %d acknowledgements, %d releases", w.acknowledged.Load(), w.released.Load())
		}
		return err
	}
	s.sent = append(s.sent, w)
	return nil
}

func (s *sender) send(topic, key, payload string) {
	s.t.Helper()
	if err := s.try(topic, key, []byte(payload)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sender) acknowledged() (n int) {
	for _, w := range s.sent {
		n += int(w.acknowledged.Load())
	}
	return n
}

// settled waits until nothing is in flight.
func (s *sender) settled() {
	s.t.Helper()
	until(s.t, "everything is answered", func() bool { return s.k.InFlight() == 0 })
}

// delivered waits until everything is acknowledged, once each.
func (s *sender) delivered() {
	s.t.Helper()
	until(s.t, "everything is acknowledged", func() bool {
		if err := s.k.Err(); err != nil {
			s.t.Fatalf("the sink failed: %v", err)
		}
		return s.acknowledged() >= len(s.sent)
	})
	s.settled()
	for i, w := range s.sent {
		if a, r := w.acknowledged.Load(), w.released.Load(); a != 1 || r != 1 {
			s.t.Errorf("event %d of %d: acknowledged %d times, released %d times", i+1, len(s.sent), a, r)
		}
	}
}

// failed waits for the sink's failure and checks what every failure promises.
func (s *sender) failed() error {
	s.t.Helper()
	select {
	case <-s.k.Failed():
	case <-time.After(patience):
		s.t.Fatal("the sink did not fail")
	}
	s.settled()
	for i, w := range s.sent {
		if a, r := w.acknowledged.Load(), w.released.Load(); a > 1 || r != 1 {
			s.t.Errorf("event %d of %d: acknowledged %d times, released %d times", i+1, len(s.sent), a, r)
		}
	}
	return s.k.Err()
}

func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not say %q: %v", p, err)
		}
	}
}

// client returns a client, which the caller closes.
func client(t testing.TB, c *kfake.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.ListenAddrs()...))...)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// admin returns a client that lives as long as the test.
func admin(t testing.TB, c *kfake.Cluster) *kadm.Client {
	t.Helper()
	admin := kadm.NewClient(client(t, c))
	t.Cleanup(admin.Close)
	return admin
}

// appended returns how many records all partitions of a topic hold.
func appended(t testing.TB, c *kfake.Cluster, topic string) (n int64) {
	t.Helper()
	ends, err := admin(t, c).ListEndOffsets(limited(t), topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// consume reads so many records of testTopic, and fails if there are more.
func consume(t testing.TB, c *kfake.Cluster, want int) (records []*kgo.Record) {
	t.Helper()
	if n := appended(t, c, testTopic); n != int64(want) {
		t.Fatalf("the topic holds %d records, want %d", n, want)
	}
	client := client(t, c, kgo.ConsumeTopics(testTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	defer client.Close()
	ctx := limited(t)
	for len(records) < want {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		records = append(records, fetches.Records()...)
	}
	return records
}

// hold makes the broker keep produce requests unanswered until the returned
// function is called.
func hold(t testing.TB, c *kfake.Cluster) (release func()) {
	gate := make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-gate })
		return nil, nil, false
	})
	open := false
	release = func() {
		if !open {
			open = true
			close(gate)
		}
	}
	t.Cleanup(release)
	return release
}

func key(i int) string { return fmt.Sprintf("order-%d", i) }

// short returns a context that ends soon.
func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
