package connector

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/router"
)

// silence makes the brokers answer nothing about the limits of topics until the
// returned function is called, and tells when they were asked.
func (h *harness) silence() (asked chan struct{}, answer func()) {
	asked, release := make(chan struct{}), make(chan struct{})
	h.kafka.ControlKey(int16(kmsg.DescribeConfigs), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(asked)
		h.kafka.SleepControl(func() {
			select {
			case <-release:
			case <-h.ended:
			}
		})
		return nil, nil, false
	})
	return asked, func() { close(release) }
}

// large returns a row that is not sent before the limits of its topic are known, for the
// id "large": it goes to a topic of its own.
func large(id string) []string {
	if id == "large" {
		return []string{id, "u", "a", "k", `"` + strings.Repeat("x", 64<<10) + `"`}
	}
	return []string{id, "t", "a", "k", "{}"}
}

// runKnowing starts a connector that knows one of two topics, and then the brokers fall
// silent.
func (h *harness) runKnowing() (asked chan struct{}, answer func()) {
	h.o.Rules.Overrides = []router.Override{{Type: "u", Topic: "u"}}
	h.run()
	tx := h.server.commit("first")
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	return h.silence()
}

// A stop while an event waits for its topic, in a transaction that is published in part,
// finishes the transaction: nothing is published again.
func TestStopFinishesATransactionThatWaits(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	asked, answer := h.runKnowing()
	tx := h.server.commitRows(large, "small", "large", "last")
	<-asked
	h.until("the event waits", h.server.serving)
	h.stop()
	time.Sleep(50 * time.Millisecond) // the stop has come to the stream
	answer()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if got := h.server.slotLSN(); got != tx.end {
		t.Errorf("confirmed up to %s, want %s", got, tx.end)
	}
	if ids := h.records(); !slices.Equal(ids, []string{"first", "small", "last"}) {
		t.Errorf("records %q", ids)
	}
}

// It waits no longer than a stop may take; and where nothing of the transaction is
// published, there is nothing to wait for.
func TestStopWhileATransactionWaits(t *testing.T) {
	for name, test := range map[string]struct {
		ids   []string
		clean bool
	}{"published in part": {[]string{"small", "large"}, false}, "nothing published": {[]string{"large", "small"}, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.o.DrainTimeout = time.Second
			if test.clean {
				h.o.DrainTimeout = time.Hour
			}
			asked, _ := h.runKnowing()
			before := h.server.slotLSN()
			h.server.commitRows(large, test.ids...)
			<-asked
			h.until("the event waits", h.server.serving)
			h.stop()
			if err := h.end(); (err == nil) != test.clean || err != nil && !errors.Is(err, ErrUnclean) {
				t.Errorf("the stop: %v", err)
			}
			if got := h.server.slotLSN(); got != before {
				t.Errorf("confirmed up to %s", got)
			}
		})
	}
}

// With exactly_once, while records go one by one, nothing is sent until the transaction has
// ended; PostgreSQL is served meanwhile.
func TestPostgreSQLIsServedAtTheGate(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.exactlyOnce()
	h.setsAside(nil)
	refusedToo := []string{"7", "8", "9"} // that one at least is refused with others
	row := func(id string) []string {
		payload := "{}"
		if slices.Contains(refusedToo, id) {
			payload = `"refuse me"`
		}
		return []string{id, "t", "a", "k", payload}
	}
	var ids, want []string
	for n := range 20 {
		id := fmt.Sprint(n)
		if ids = append(ids, id); !slices.Contains(refusedToo, id) {
			want = append(want, id)
		}
	}
	refused, letters := false, false
	var end atomic.Uint64 // of the last transaction
	var served atomic.Bool
	h.kafka.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		h.kafka.KeepControl()
		produce := r.(*kmsg.ProduceRequest)
		for _, topic := range produce.Topics {
			letters = letters || topic.TopicID == h.kafka.TopicInfo(letterTopic).TopicID
		}
		if refused && !letters && !served.Load() { // a dead letter may wait for its topic's limits
			// More for the flow, which has sent all the rest perhaps.
			id := fmt.Sprintf("later %d", len(want))
			want = append(want, id)
			end.Store(uint64(h.server.commitRows(row, id).end))
			h.kafka.SleepControl(func() {
				for i := 0; i < 20 && !served.Load(); i++ {
					served.Store(h.server.serving())
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		resp, err, handled := refuse(h, produce, "refuse me", letterTopic)
		refused = refused || handled
		return resp, err, handled
	})
	h.server.commitRows(row, ids...)
	h.run()
	h.until("confirmed", func() bool { return end.Load() > 0 && uint64(h.server.slotLSN()) == end.Load() })
	h.stop()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	if !served.Load() {
		t.Error("PostgreSQL was not served while the flow waited")
	}
	if got := h.committed(); !slices.Equal(got, want) {
		t.Errorf("published %q, want %q", got, want)
	}
}
