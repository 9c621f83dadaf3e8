package sink

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outboxd/internal/record"
)

// spans are those of a test: what was asked, and what was ended.
type spans struct {
	sync.Mutex
	asked, ended []string
	at           []time.Time
}

// trace makes a span of each event but those whose value begins with "no".
func (s *spans) trace(r *record.Record) func(time.Time) {
	name := fmt.Sprintf("%s %d/%d %s", r.Topic, r.Partition, r.Offset, r.Value)
	s.Lock()
	defer s.Unlock()
	s.asked = append(s.asked, name)
	if strings.HasPrefix(string(r.Value), "no") {
		return nil
	}
	return func(at time.Time) {
		s.Lock()
		defer s.Unlock()
		s.ended, s.at = append(s.ended, name), append(s.at, at)
	}
}

// A span ends with the acknowledgement, before its receipt is told.
func TestSpans(t *testing.T) {
	var s spans
	var acked []time.Time
	k := &sender{t: t, k: open(t, broker(t, 1), func(o *Options) {
		o.Trace = s.trace
		o.OnAck = func(_ string, _, at time.Time) { acked = append(acked, at) }
	})}
	k.send(testTopic, "k", "a")
	k.send(testTopic, "k", "no b")
	k.send(testTopic, "k", "c")
	k.delivered()
	if want := []string{testTopic + " 0/0 a", testTopic + " 0/2 c"}; !slices.Equal(s.ended, want) {
		t.Errorf("ended: %q, want %q", s.ended, want)
	}
	if len(s.asked) != 3 || len(acked) != 3 || !s.at[0].Equal(acked[0]) || !s.at[1].Equal(acked[2]) {
		t.Errorf("asked for %q; ended at %v, acknowledged at %v", s.asked, s.at, acked)
	}
}

// With transactions a span ends with the commit, once; one of a transaction that is not
// committed never does.
func TestSpansOfTransactions(t *testing.T) {
	var s spans
	k := &sender{t: t, k: transactionalSink(t, transactionBroker(t), func(o *Options) { o.Trace = s.trace })}
	for i, events := range [][]string{{"a", "no b"}, {"c"}} {
		for _, value := range events {
			k.send(testTopic, "k", value)
		}
		if err := k.k.Flush(limited(t)); err != nil {
			t.Fatal(err)
		}
		if len(s.ended) != i {
			t.Errorf("ended before the commit: %q", s.ended)
		}
		before := time.Now()
		if err := commitWith(t, k.k, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if len(s.ended) != i+1 || s.at[i].Before(before) {
			t.Errorf("ended: %q at %v, the commit was begun at %s", s.ended, s.at, before)
		}
	}
	k.send(testTopic, "k", "never committed")
	if err := k.k.Flush(limited(t)); err != nil {
		t.Fatal(err)
	}
	k.k.Close()
	if len(s.ended) != 2 || len(s.asked) != 4 {
		t.Errorf("asked for %q, ended %q", s.asked, s.ended)
	}
}

// What the sink does with an acknowledgement allocates nothing, with tracing off and, as
// far as it is the sink's, with tracing on.
func TestAcknowledgementAllocatesNothing(t *testing.T) {
	for name, trace := range map[string]func(*record.Record) func(time.Time){
		"off": nil,
		"on":  func(*record.Record) func(time.Time) { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t, broker(t, 1), func(o *Options) {
				o.Trace = trace
				o.OnAck = func(string, time.Time, time.Time) {}
			})
			w, value := &witness{}, []byte("{}")
			if n := testing.AllocsPerRun(1000, func() {
				d := k.Next()
				d.fill(1, value)
				d.Topic, d.Receipt, d.Memory = testTopic, w, w
				d.Headers = append(d.Headers, record.Header{Key: "traceparent", Value: value})
				if err := k.prepare(d); err != nil {
					t.Fatal(err)
				}
				k.inFlight.Add(1)
				k.spares.busy() // as Send does
				k.finished(&d.Record.Record, nil)
			}); n != 0 {
				t.Errorf("%v allocations for each event", n)
			}
		})
	}
}
