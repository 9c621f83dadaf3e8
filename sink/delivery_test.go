package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/record"
)

var committedAt = time.Date(2026, 7, 31, 12, 30, 0, 123456000, time.UTC)

func TestEveryEventIsAcknowledgedOnce(t *testing.T) {
	const events = 3000
	c := broker(t, 3, kfake.SeedTopics(1, "invoices"), kfake.SeedTopics(2, "carts"))
	topics := []string{testTopic, "invoices", "carts"}
	var mu sync.Mutex
	heard := make(map[string]int)
	k := open(t, c, func(o *Options) {
		o.OnAck = func(topic string, committed, acked time.Time) {
			mu.Lock()
			defer mu.Unlock()
			heard[topic]++
			if !committed.Equal(committedAt) || !acked.After(committed) {
				t.Errorf("committed %s, acknowledged %s", committed, acked)
			}
		}
	})
	s := &sender{t: t, k: k}
	for i := range events {
		s.send(topics[i%3], key(i%20), fmt.Sprint(i))
	}
	s.delivered()
	if k.Waiting() != 0 || k.Err() != nil {
		t.Errorf("with nothing in flight: waiting %s, error %v", k.Waiting(), k.Err())
	}
	for _, topic := range topics {
		if n := appended(t, c, topic); n != events/3 {
			t.Errorf("topic %s holds %d records, want %d", topic, n, events/3)
		}
		if heard[topic] != events/3 {
			t.Errorf("OnAck was called %d times for topic %s, want %d", heard[topic], topic, events/3)
		}
	}
	// Deliveries are used again, and carry nothing over.
	d := k.Next()
	if d.Receipt != nil || d.Memory != nil || d.Key != nil || d.Topic != "" && d.Record.Value != nil {
		t.Errorf("a used delivery comes back with %+v", d)
	}
}

// A delivered event is collected, although its delivery is kept to be used again: a
// view of one column would keep all of a large row.
func TestDeliveredEventsAreCollected(t *testing.T) {
	k := open(t, broker(t, 1))
	s := &sender{t: t, k: k}
	send := func() weak.Pointer[byte] {
		row := bytes.Repeat([]byte("x"), 500<<10)
		w := &witness{}
		d := k.Next()
		d.fill(1, row[32:])
		d.ID = row[:8]
		d.Topic, d.Key, d.Headers = testTopic, row[8:16], append(d.Headers, record.Header{Key: "id", Value: row[:8]})
		d.Receipt, d.Memory = w, w
		if err := k.Send(d); err != nil {
			t.Fatal(err)
		}
		s.sent = append(s.sent, w)
		return weak.Make(&row[0])
	}
	row := send()
	s.delivered()
	until(t, "the row is collected", func() bool {
		runtime.GC()
		return row.Value() == nil
	})
}

// Every request asks for all replicas and is numbered by an idempotent producer.
func TestRequestsAreSafe(t *testing.T) {
	c := broker(t, 1)
	var requests atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		requests.Add(1)
		produce := r.(*kmsg.ProduceRequest)
		if produce.Acks != -1 {
			t.Errorf("acks=%d, want all (-1)", produce.Acks)
		}
		eachBatch(t, produce, func(b kmsg.RecordBatch) {
			if b.ProducerID < 0 || b.FirstSequence < 0 {
				t.Errorf("producer id %d, sequence %d: not idempotent", b.ProducerID, b.FirstSequence)
			}
		})
		return nil, nil, false
	})
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "{}")
	s.delivered()
	if requests.Load() == 0 {
		t.Error("no request was seen")
	}
}

func eachBatch(t testing.TB, r *kmsg.ProduceRequest, f func(kmsg.RecordBatch)) {
	for _, topic := range r.Topics {
		for _, p := range topic.Partitions {
			var b kmsg.RecordBatch
			if err := b.ReadFrom(p.Records); err != nil {
				t.Errorf("read batch: %v", err)
				return
			}
			f(b)
		}
	}
}

// What the message says arrives, byte for byte.
func TestRecord(t *testing.T) {
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c)}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	headers := []record.Header{
		{Key: "id", Value: []byte("8f3a")},
		{Key: "empty", Value: []byte{}},
		{Key: "id", Value: all}, // names may repeat
		{Key: "größe", Value: []byte("\xff\xfe")},
	}
	if err := s.try(testTopic, "a\x00b", all, headers...); err != nil {
		t.Fatal(err)
	}
	if err := s.try(testTopic, "", []byte{}); err != nil {
		t.Fatal(err)
	}
	if err := s.try(testTopic, "k", nil); err != nil {
		t.Fatal(err)
	}
	s.delivered()
	records := consume(t, c, 3)
	first := records[0]
	if string(first.Key) != "a\x00b" || !bytes.Equal(first.Value, all) {
		t.Errorf("key %q, value %q", first.Key, first.Value)
	}
	if want := committedAt.Truncate(time.Millisecond); !first.Timestamp.Equal(want) {
		t.Errorf("timestamp %s, want the commit's, %s", first.Timestamp, want)
	}
	if !slices.EqualFunc(first.Headers, headers, func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("headers %q, want %q", first.Headers, headers)
	}
	if empty := records[1]; empty.Key == nil || empty.Value == nil {
		t.Errorf("empty key and value arrive as nil %t, %t", empty.Key == nil, empty.Value == nil)
	}
	if tombstone := records[2]; tombstone.Value != nil {
		t.Errorf("a NULL payload arrives as %q", tombstone.Value)
	}
}

func TestTimestampNow(t *testing.T) {
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c)}
	before := time.Now().Truncate(time.Millisecond)
	if err := s.at(record.SendTime, committedAt, time.Now()); err != nil {
		t.Fatal(err)
	}
	s.delivered()
	if at := consume(t, c, 1)[0].Timestamp; at.Before(before) || at.After(time.Now()) {
		t.Errorf("timestamp %s, sent after %s", at, before)
	}
}

func TestCompression(t *testing.T) {
	payload := strings.Repeat(`{"what": "compresses well"}`, 100)
	for codec, want := range map[string]int16{"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4} {
		t.Run(codec, func(t *testing.T) {
			c := broker(t, 1)
			got := make(chan int16, 1)
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				eachBatch(t, r.(*kmsg.ProduceRequest), func(b kmsg.RecordBatch) { got <- b.Attributes & 7 })
				c.DropControl()
				return nil, nil, false
			})
			s := &sender{t: t, k: open(t, c, func(o *Options) { o.Compression = codec })}
			s.send(testTopic, "k", payload)
			s.delivered()
			if got := <-got; got != want {
				t.Errorf("the batch has codec %d, want %d", got, want)
			}
			if v := consume(t, c, 1)[0].Value; string(v) != payload {
				t.Errorf("the value arrives as %q", v)
			}
		})
	}
	if _, err := New(Options{Brokers: []string{"localhost:9092"}, Compression: "rar"}); err == nil || !strings.Contains(err.Error(), "rar") {
		t.Errorf("an unknown codec: %v", err)
	}
}

// inOrder checks that each key's values arrived once each and in the order of
// sending, on one partition.
func inOrder(t *testing.T, records []*kgo.Record) {
	t.Helper()
	next, partition := make(map[string]int), make(map[string]int32)
	for _, r := range records {
		k := string(r.Key)
		if want := fmt.Sprint(next[k]); string(r.Value) != want {
			t.Fatalf("key %s: event %s arrives where %s should be", k, r.Value, want)
		}
		if p, seen := partition[k]; seen && p != r.Partition {
			t.Fatalf("key %s is on partitions %d and %d", k, p, r.Partition)
		}
		next[k]++
		partition[k] = r.Partition
	}
}

// Faults that pass are waited for: nothing is lost, nothing is appended twice,
// and the order stays.
func TestFaultsThatPass(t *testing.T) {
	const events, keys = 400, 7
	tests := map[string]kfake.Fault{
		"not leader":                      {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.NotLeaderForPartition, Count: 5},
		"unknown topic":                   {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.UnknownTopicOrPartition, Count: 5},
		"leader not available":            {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.LeaderNotAvailable, Count: 5},
		"not enough replicas":             {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.NotEnoughReplicas, Count: 5},
		"not enough replicas, appended":   {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.NotEnoughReplicasAfterAppend, Count: 5},
		"timed out, appended":             {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.RequestTimedOut, Count: 5},
		"storage error":                   {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.KafkaStorageError, Count: 5},
		"one partition of several":        {Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Partitions: []int32{1}, Err: kerr.NotEnoughReplicas, Count: 5},
		"metadata does not know it yet":   {Keys: []kmsg.Key{kmsg.Metadata}, Topic: testTopic, Err: kerr.UnknownTopicOrPartition, Count: 10},
		"metadata has no leader yet":      {Keys: []kmsg.Key{kmsg.Metadata}, Topic: testTopic, Err: kerr.LeaderNotAvailable, Count: 5},
		"no producer id yet":              {Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.CoordinatorLoadInProgress, Count: 3},
		"the topic's limit is not told":   {Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.UnknownServerError, Count: 1},
		"the topic's limit is not for us": {Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: 1},
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := broker(t, 3)
			h := c.Fault(fault)
			s := &sender{t: t, k: open(t, c)}
			for i := range events {
				s.send(testTopic, key(i%keys), fmt.Sprint(i/keys))
			}
			s.delivered()
			if h.Hits() != fault.Count {
				t.Errorf("the fault struck %d times, want %d", h.Hits(), fault.Count)
			}
			inOrder(t, consume(t, c, events))
		})
	}
}

func TestBrokerClosesConnections(t *testing.T) {
	const events, keys = 400, 7
	c := broker(t, 3)
	var cuts atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if cuts.Add(1) <= 5 {
			c.KeepControl()
			return nil, errors.New("cut"), true
		}
		c.DropControl()
		return nil, nil, false
	})
	s := &sender{t: t, k: open(t, c)}
	for i := range events {
		s.send(testTopic, key(i%keys), fmt.Sprint(i/keys))
	}
	s.delivered()
	if cuts.Load() < 5 {
		t.Errorf("the connection was cut %d times, want 5", cuts.Load())
	}
	inOrder(t, consume(t, c, events))
}

// flaky closes connections as soon as they are accepted while it is shut, as a
// load balancer does that has no broker behind it.
type flaky struct {
	net.Listener
	shut    atomic.Bool
	refused atomic.Int32
	mu      sync.Mutex
	open    []net.Conn
}

// listen makes a broker's listener of it.
func (l *flaky) listen() kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		inner, err := net.Listen(network, address)
		l.Listener = inner
		return l, err
	})
}

func (l *flaky) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.shut.Load() {
			conn.Close()
			l.refused.Add(1)
			continue
		}
		l.mu.Lock()
		l.open = append(l.open, conn)
		l.mu.Unlock()
		return conn, nil
	}
}

// shutDown cuts what is open and lets nothing new in.
func (l *flaky) shutDown() {
	l.shut.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.open {
		conn.Close()
	}
	l.open = nil
}

func TestBrokerAcceptsAndCloses(t *testing.T) {
	l := &flaky{}
	c := broker(t, 1, l.listen())
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	s.delivered()

	l.shutDown()
	for i := 1; i < 100; i++ {
		s.send(testTopic, "k", fmt.Sprint(i))
	}
	until(t, "connections were refused, or the sink failed", func() bool { return l.refused.Load() >= 5 || s.k.Err() != nil })
	l.shut.Store(false)
	s.delivered()
	inOrder(t, consume(t, c, 100))
}

func TestTopicThatComesLate(t *testing.T) {
	c := broker(t, 0)
	s := &sender{t: t, k: open(t, c)}
	for i := range 50 {
		s.send(testTopic, "k", fmt.Sprint(i))
	}
	asked := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: testTopic, Observe: true, Count: -1})
	// The client gives up after a few tries unless it is told not to.
	if err := asked.Wait(limited(t), 8); err != nil {
		t.Fatal(err)
	}
	if err := s.k.Err(); err != nil || s.acknowledged() != 0 {
		t.Fatalf("without a topic: error %v, %d acknowledged", err, s.acknowledged())
	}
	says(t, s.k.Diagnose(limited(t)), testTopic, "does not exist", "auto.create.topics.enable")
	// The cluster itself answers: the topic may be about to be created.
	if err := s.k.Reach(limited(t)); err != nil {
		t.Errorf("the cluster answers, and Reach says %v", err)
	}

	if _, err := admin(t, c).CreateTopic(limited(t), 2, 1, nil, testTopic); err != nil {
		t.Fatal(err)
	}
	s.delivered()
	inOrder(t, consume(t, c, 50))
	if err := s.k.Diagnose(limited(t)); err != nil {
		t.Errorf("all is well, and Diagnose says %v", err)
	}
}

// The broker's own rule decides whether a missing topic is made.
func TestTopicThatTheBrokerMakes(t *testing.T) {
	c := broker(t, 0, kfake.AllowAutoTopicCreation())
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	s.delivered()
	inOrder(t, consume(t, c, 1))
}

func TestDiagnose(t *testing.T) {
	tests := []struct {
		name  string
		fault kfake.Fault
		says  []string
	}{
		{"no right", kfake.Fault{Err: kerr.TopicAuthorizationFailed}, []string{testTopic, "grant", "Write"}},
		{"no such topic", kfake.Fault{Err: kerr.UnknownTopicOrPartition}, []string{testTopic, "does not exist"}},
		{"another reason", kfake.Fault{Err: kerr.InvalidTopicException}, []string{testTopic, "INVALID_TOPIC"}},
		{"no leader", kfake.Fault{Err: kerr.LeaderNotAvailable, Partitions: []int32{1}}, []string{testTopic, "partition 1", "LEADER_NOT_AVAILABLE"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := broker(t, 2)
			s := &sender{t: t, k: open(t, c)}
			s.send(testTopic, "k", "0")
			s.delivered()
			if err := s.k.Diagnose(limited(t)); err != nil {
				t.Fatalf("all is well, and Diagnose says %v", err)
			}
			test.fault.Keys, test.fault.Topic, test.fault.Count = []kmsg.Key{kmsg.Metadata}, testTopic, -1
			c.Fault(test.fault)
			var err error
			// What the client has asked a moment ago it does not ask again.
			until(t, "Diagnose says why", func() bool {
				err = s.k.Diagnose(limited(t))
				return err != nil
			})
			says(t, err, test.says...)
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		c := broker(t, 1)
		k := open(t, c)
		c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		says(t, k.Diagnose(ctx), "ask the brokers")
	})
}

func TestWaiting(t *testing.T) {
	c := broker(t, 1)
	k := open(t, c)
	s := &sender{t: t, k: k}
	s.send(testTopic, "k", "0")
	s.delivered()
	release := hold(t, c)
	for i := 1; i < 10; i++ {
		s.send(testTopic, "k", fmt.Sprint(i))
	}
	if k.InFlight() != 9 {
		t.Errorf("%d events in flight, want 9", k.InFlight())
	}
	if topics := k.UnackedTopics(); len(topics) != 1 || topics[0] != testTopic {
		t.Errorf("in flight on topics %q", topics)
	}
	for range 2 { // it grows while nothing is acknowledged
		before := k.Waiting()
		until(t, "it waits longer", func() bool { return k.Waiting() > before })
	}
	release()
	s.delivered()
	if k.Waiting() != 0 {
		t.Errorf("waiting %s with nothing in flight", k.Waiting())
	}
	if topics := k.UnackedTopics(); topics != nil {
		t.Errorf("in flight on topics %q", topics)
	}
}
