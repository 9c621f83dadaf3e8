package connector

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/sink"
)

func onceOf(h *harness) *backfillOnce {
	h.o.BackfillTimeout, h.o.Status = time.Minute, status.New(time.Minute)
	p := New(h.o)
	h.t.Cleanup(p.closeSink)
	return &backfillOnce{p: p}
}

var backfillAt = offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x1000}

// A backfill is due until its position is committed, with a mark meanwhile; another process
// that sees the mark knows that a slot stands for nothing.
func TestBackfillOnceIsDue(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	store := h.exactlyOnce()
	a := onceOf(h)
	due := func(o *backfillOnce, want, marked bool) {
		t.Helper()
		if due, err := o.due(t.Context()); due != want || o.marked != marked || err != nil {
			t.Errorf("due %t, marked %t, %v", due, o.marked, err)
		}
	}
	due(a, true, false)
	if due, err := a.begin(t.Context(), backfillAt); !due || err != nil {
		t.Fatalf("%t, %v", due, err)
	}
	if at, err := store.Load(t.Context()); err != nil || at == nil || !at.Backfill || at.LSN != backfillAt.LSN {
		t.Fatalf("stored %+v, %v", at, err)
	}
	b := onceOf(h)
	if err := b.slotExists(t.Context()); !errors.Is(err, errBackfillAgain) {
		t.Errorf("a slot that stands for nothing: %v", err)
	}
	due(b, true, true)
	// One that has not seen the mark before its snapshot may not go on: the slot would stay.
	c := onceOf(h)
	if due, err := c.begin(t.Context(), backfillAt); due || !errors.Is(err, errBackfillAgain) {
		t.Errorf("%t, %v", due, err)
	}
	// On another system the mark is not ours to replace.
	c = onceOf(h)
	c.system = "1"
	due(c, false, false)

	if err := a.commit(backfillAt); err != nil {
		t.Fatal(err)
	}
	due(b, false, false)
	if err := b.slotExists(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who comes later takes the id, so that what the other has sent counts no more.
func TestBackfillOnceIsTakenOver(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.exactlyOnce()
	a := onceOf(h)
	if due, err := a.begin(t.Context(), backfillAt); !due || err != nil {
		t.Fatalf("%t, %v", due, err)
	}
	b := onceOf(h)
	b.marked = true
	if due, err := b.begin(t.Context(), backfillAt); !due || err != nil {
		t.Fatalf("%t, %v", due, err)
	}
	if err := a.commit(backfillAt); !errors.Is(err, sink.ErrFenced) {
		t.Errorf("the first one commits: %v", err)
	}
	if err := b.commit(backfillAt); err != nil {
		t.Error(err)
	}
}

// What a killed process has left open in the positions' topic, perhaps for as long as a
// backfill may take, is not waited for, but ended.
func TestBackfillOnceAfterAnOpenTransaction(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	store := h.exactlyOnce()
	a := onceOf(h)
	if due, err := a.begin(t.Context(), backfillAt); !due || err != nil {
		t.Fatalf("%t, %v", due, err)
	}
	killed, err := kgo.NewClient(append(h.o.Sink.Connection(), kgo.TransactionalID(h.o.Sink.TransactionalID), kgo.TransactionTimeout(time.Hour/4))...)
	if err != nil {
		t.Fatal(err)
	}
	defer killed.Close()
	if err := killed.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := killed.ProduceSync(t.Context(), store.Record(backfillAt)).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b := onceOf(h)
	if due, err := b.due(t.Context()); !due || !b.marked || err != nil {
		t.Fatalf("due %t, marked %t, %v", due, b.marked, err)
	}
	if due, err := b.begin(t.Context(), backfillAt); !due || err != nil {
		t.Fatalf("%t, %v", due, err)
	}
	if err := b.commit(backfillAt); err != nil {
		t.Error(err)
	}
}

// A time-out that the brokers do not allow names the keys. It is tried again: the brokers
// may be configured meanwhile.
func TestBackfillOnceTimeoutNotAllowed(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.exactlyOnce()
	h.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.InvalidTransactionTimeout, Count: -1})
	o := onceOf(h)
	due, err := o.begin(t.Context(), backfillAt)
	if due || err == nil || permanent(err) || side(err) != "kafka" {
		t.Fatalf("%t, %v", due, err)
	}
	for _, want := range []string{"1m0s", "outbox.backfill_timeout", "transaction.max.timeout.ms"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// A backfill that lasted longer than its transaction may would do so again.
func TestBackfillOnceExpired(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.exactlyOnce()
	o := onceOf(h)
	if due, err := o.begin(t.Context(), backfillAt); !due || err != nil {
		t.Fatalf("%t, %v", due, err)
	}
	d := o.p.sink.Next()
	d.ID, d.Position.CommitLSN, d.Position.Number, d.Topic, d.Record.Value = []byte("7"), 0xFFF, 1, "t", []byte("{}")
	d.Receipt, d.Memory = unheard{}, unheard{}
	if err := o.p.sink.Send(d); err != nil {
		t.Fatal(err)
	}
	if err := o.expired(sink.ErrExpired); !errors.Is(err, sink.ErrExpired) || permanent(err) {
		t.Errorf("before its time: %v", err)
	}
	o.p.o.BackfillTimeout = time.Nanosecond
	if err := o.expired(sink.ErrFenced); permanent(err) {
		t.Errorf("another error: %v", err)
	}
	err := o.expired(sink.ErrExpired)
	if !permanent(err) || !errors.Is(err, replication.ErrSetup) || !strings.Contains(err.Error(), "outbox.backfill_timeout") {
		t.Errorf("%v", err)
	}
}
