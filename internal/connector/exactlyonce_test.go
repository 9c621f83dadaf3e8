package connector

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/flow"
	"outboxd/internal/guarantee"
	"outboxd/internal/positions"
	"outboxd/internal/status"
	"outboxd/router"
)

// exactlyOnce makes the harness deliver exactly once.
func (h *harness) exactlyOnce() *positions.Store {
	h.t.Helper()
	store, err := positions.New(positions.Options{Topic: "outboxd.positions", Slot: "outboxd", Log: h.o.Log, Client: h.o.Sink.Connection()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(store.Close)
	h.o.Positions, h.o.Sink.TransactionalID = store, "outboxd-outboxd"
	return store
}

// committed are the ids that a reader of committed records sees.
func (h *harness) committed() []string { return h.ids(kgo.ReadCommitted()) }

// With exactly_once a run commits events and position together, resumes at what is
// committed although PostgreSQL has it not, and repeats nothing.
func TestExactlyOnceResumes(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	store := h.exactlyOnce()
	tx := h.server.commit("1", "2")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	h.stop()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	at, err := store.Load(t.Context())
	if err != nil || at == nil || at.LSN != tx.end {
		t.Fatalf("stored %v, %v, want %s", at, err, tx.end)
	}
	h.server.update(func() { h.server.confirmed = fakeStart }) // as after a crash of the server
	h.o.Status = status.New(time.Minute)
	h.run()
	tx = h.server.commit("3")
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	h.stop()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	if ids := h.committed(); !slices.Equal(ids, []string{"1", "2", "3"}) {
		t.Errorf("committed %q", ids)
	}
}

// A process whose transactional id and slot another has taken publishes nothing more,
// and ends. One that finds the slot in use leaves the id alone.
func TestExactlyOnceTakeover(t *testing.T) {
	t.Parallel()
	a := newHarness(t)
	a.exactlyOnce()
	tx := a.server.commit("1")
	a.run()
	a.until("confirmed", func() bool { return a.server.slotLSN() == tx.end })

	b := newHarness(t)
	b.kafka, b.o.Sink.Brokers, b.server = a.kafka, a.kafka.ListenAddrs(), a.server
	b.exactlyOnce()
	a.server.update(func() { a.server.held = true })
	b.run()
	b.logged("standing by")
	tx = a.server.commit("2")
	a.until("confirmed", func() bool { return a.server.slotLSN() == tx.end })

	a.server.update(func() { a.server.held = false }) // the server thinks that a is gone
	b.logged(`"message":"streaming"`)
	tx = a.server.commit("3")
	b.until("confirmed", func() bool { return b.server.slotLSN() == tx.end })
	if err := a.end(); !errors.Is(err, guarantee.ErrTakenOver) {
		t.Errorf("the first process: %v", err)
	}
	b.stop()
	if err := b.end(); err != nil {
		t.Error(err)
	}
	if ids := b.committed(); !slices.Equal(ids, []string{"1", "2", "3"}) {
		t.Errorf("committed %q", ids)
	}
}

// Without a door the run ends before the event, with everything before it confirmed.
func TestPoisonEndsTheRun(t *testing.T) {
	t.Parallel()
	for name, exactly := range map[string]bool{"at least once": false, "exactly once": true} {
		h := newHarness(t)
		if exactly {
			h.exactlyOnce()
		}
		h.o.Rules.Overrides = []router.Override{{Type: "bad", Topic: "__no"}}
		before := h.server.commit("1")
		bad := h.server.commitRows(func(id string) []string { return []string{id, "bad", "a", "k", "{}"} }, "2")
		h.run()
		<-h.ended
		if !errors.Is(h.err, flow.ErrPoison) || !strings.Contains(h.err.Error(), `event id "2"`) || !strings.Contains(h.err.Error(), "--from-lsn "+(bad.commit+1).String()) {
			t.Errorf("%s: %v", name, h.err)
		}
		if got := h.server.slotLSN(); got != before.end {
			t.Errorf("%s: confirmed up to %s, want %s", name, got, before.end)
		}
	}
}
