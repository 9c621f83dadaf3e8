package connector

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"weak"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/sink"
)

// A sink that has failed is given up with its memory: nothing of the run holds it.
func TestFailedSinksAreFreed(t *testing.T) {
	const failures = 8
	h := newHarness(t)
	h.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: failures})
	var mu sync.Mutex
	seen := make(map[weak.Pointer[sink.Kafka]]bool)
	h.server.onNext = func(*fakeStream) {
		mu.Lock()
		defer mu.Unlock()
		seen[weak.Make(h.p.sink)] = true
	}
	tx := h.server.commit("1", "2", "3")
	h.run()
	h.until("delivered after the failures", func() bool { return h.server.slotLSN() == tx.end })
	reachable := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for p := range seen {
			if p.Value() != nil {
				n++
			}
		}
		return n
	}
	if n := len(seen); n <= failures {
		t.Fatalf("%d sinks, and not more than %d failures", n, failures)
	}
	h.until("the failed sinks are freed", func() bool {
		runtime.GC()
		return reachable() == 1
	})
	h.stop()
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

// Nothing in flight takes no bytes, whatever the reader keeps at hand.
func TestNothingInFlightTakesNothing(t *testing.T) {
	h := newHarness(t)
	tx := h.server.commit("1", "2", "3")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	if n := h.metric("outboxd_in_flight_bytes", ""); n != 0 {
		t.Errorf("%v bytes in flight", n)
	}
}

// A panic that an event causes ends the run, names the event, and confirms nothing
// behind it.
func TestPanicNamesTheEvent(t *testing.T) {
	h := newHarness(t)
	h.o.Rules.Partition = 99
	h.server.commit("first")
	h.run()
	<-h.ended
	if !errors.Is(h.err, ErrPanic) || !permanent(h.err) {
		t.Fatalf("ended with %v", h.err)
	}
	for _, part := range []string{`"first"`, "0000000000001010-00000001", "report", "--from-lsn 0/1011 --accept-gap"} {
		if !strings.Contains(h.err.Error(), part) {
			t.Errorf("does not say %s: %v", part, h.err)
		}
	}
	if got := h.server.slotLSN(); got != fakeStart {
		t.Errorf("confirmed up to %s", got)
	}
}
