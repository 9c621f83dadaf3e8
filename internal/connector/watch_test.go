package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/flow"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/router"
)

func (h *harness) untilReady() {
	h.t.Helper()
	h.until("ready", func() bool { return h.o.Status.NotReady() == nil })
}

// metric returns a metric's value, 0 when it is not there.
func (h *harness) metric(name, label string) float64 {
	h.t.Helper()
	families, err := h.o.Status.Metrics().Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (h *harness) retries(side string) float64 { return h.metric("outboxd_retries_total", side) }

// A second process stands by: it is ready, says so once, counts no retry, and takes
// over when the first ends.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	a := newHarness(t)
	a.run()
	tx := a.server.commit("1")
	a.until("confirmed", func() bool { return a.server.slotLSN() == tx.end })
	a.untilReady()

	b := newHarness(t)
	b.kafka, b.o.Sink.Brokers = a.kafka, a.kafka.ListenAddrs()
	b.server = a.server
	a.server.update(func() { a.server.exclusive = true })
	b.run()
	b.logged("standing by")
	b.untilReady()
	b.until("two more attempts", func() bool { return a.server.refusals() >= 3 })
	if n := b.log.count("slot is in use"); n != 1 {
		t.Errorf("%d lines while it stands by", n)
	}
	if role := b.o.Status.Role(); role != "standby" {
		t.Errorf("its role is %s", role)
	}
	if n := b.retries("postgres"); n != 0 {
		t.Errorf("%v retries counted", n)
	}
	a.stop()
	if err := a.end(); err != nil {
		t.Error(err)
	}
	b.logged(`"message":"streaming"`)
	tx = a.server.commit("2")
	b.until("confirmed", func() bool { return a.server.slotLSN() == tx.end })
	b.untilReady()
}

// Without a broker nothing is ready, also while there is nothing to publish.
func TestNoBroker(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.o.Sink.Brokers = []string{"127.0.0.1:1"}
	h.run()
	h.logged(`"message":"streaming"`)
	h.logged("Kafka does not answer")
	if h.o.Status.NotReady() == nil {
		t.Error("it is ready")
	}
}

// A store that does not take the position is named within seconds, as what it is.
func TestStoreThatHangs(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	store := &memoryStore{}
	h.o.Store = store
	h.run()
	h.untilReady()
	free := make(chan struct{})
	store.set(func(ctx context.Context) error {
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	h.server.commit("1")
	h.logged("positions are not stored")
	if h.o.Status.NotReady() == nil {
		t.Error("it is ready")
	}
	close(free)
	h.logged("positions are stored again")
	h.untilReady()
}

// Each side answers for its own faults.
func TestFaultsOfEachSide(t *testing.T) {
	for side, cause := range map[string]func(h *harness){
		"postgres": func(h *harness) { h.server.update(func() { h.server.ended = io.ErrUnexpectedEOF }) },
		"kafka": func(h *harness) {
			h.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: 1})
		},
		"store": func(h *harness) {
			once := make(chan struct{}, 1)
			once <- struct{}{}
			h.o.Store.(*memoryStore).set(func(context.Context) error {
				select {
				case <-once:
					return errors.New("disk full")
				default:
					return nil
				}
			})
		},
	} {
		t.Run(side, func(t *testing.T) {
			h := newHarness(t)
			h.o.Store = &memoryStore{}
			h.run()
			h.untilReady()
			cause(h)
			tx := h.server.commit("1")
			h.until("counted", func() bool { return h.retries(side) == 1 })
			h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
			for _, other := range []string{"postgres", "kafka", "store"} {
				if n := h.retries(other); other != side && n != 0 {
					t.Errorf("%v retries because of %s", n, other)
				}
			}
			h.untilReady()
		})
	}
}

// What is configured so that no stage can work ends the run, and is nobody's fault.
func TestConfigurationThatCannotWork(t *testing.T) {
	h := newHarness(t)
	h.o.Sink.Client = append(h.o.Sink.Client, kgo.ProducerLinger(2*time.Minute))
	h.run()
	<-h.ended
	if !errors.Is(h.err, ErrConfiguration) || h.retries("postgres") != 0 {
		t.Errorf("ended with %v after %v retries", h.err, h.retries("postgres"))
	}
}

// An event that a rule discards is counted, and confirmed with its transaction.
func TestDiscarded(t *testing.T) {
	h := newHarness(t)
	h.o.Rules.Overrides = []router.Override{{Type: "t"}}
	tx := h.server.commit("1", "2")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	if n := h.metric("outboxd_events_discarded_total", ""); n != 2 {
		t.Errorf("%v events discarded", n)
	}
}

// The positions' topic is deleted under a run. Where each position stands for itself it
// is stored again; with exactly_once the outcome of the last transaction is lost with it
// (guarantee.TestPositionThatVanished).
func TestPositionsTopicDeleted(t *testing.T) {
	h := newHarness(t)
	store, err := positions.New(positions.Options{Topic: "outboxd.positions", Slot: "outboxd", Log: h.o.Log, Client: h.o.Sink.Connection()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	known := &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}
	p := &Connector{o: Options{Store: store}, log: h.o.Log, known: known, stored: true}
	if err := p.load(t.Context()); err != nil || p.known != known || !p.lost {
		t.Errorf("known %v, lost %t, %v", p.known, p.lost, err)
	}
	if h.log.count("the stored position is gone") != 1 {
		t.Error("not a word of it")
	}
}

// A row that the server cannot send ends the stream each time at the same place. The
// third time it is poison, and the way past it is named; in between nothing but the
// same error counts.
func TestDecodingErrorThatComesBack(t *testing.T) {
	h := newHarness(t)
	tx := h.server.commit("1")
	var bad fakeTx
	h.server.update(func() {
		bad = fakeTx{commit: h.server.flush + 0x10, end: h.server.flush + 0x40, ids: []string{"2"},
			fail: fmt.Errorf("read replication stream: %w", &replication.ServerError{PgError: &pgconn.PgError{Severity: "ERROR", Code: "XX000", Message: "invalid memory alloc request size",
				Where: `slot "outboxd", output plugin "pgoutput", in the change callback, associated LSN 0/1234`}, LSN: 0x1234})}
		h.server.flush += 0x40
		h.server.txs = append(h.server.txs, bad)
	})
	h.run()
	<-h.ended
	if !errors.Is(h.err, flow.ErrPoison) {
		t.Fatalf("ended with %v", h.err)
	}
	for _, part := range []string{"invalid memory alloc", "associated LSN 0/1234", "run --from-lsn " + (bad.commit + 1).String() + " --accept-gap"} {
		if !strings.Contains(h.err.Error(), part) {
			t.Errorf("does not say %q: %v", part, h.err)
		}
	}
	if got := h.server.slotLSN(); got != tx.end {
		t.Errorf("confirmed up to %s, want %s", got, tx.end)
	}
	if n := h.retries("postgres"); n != repeatsAllowed-1 {
		t.Errorf("%v retries", n)
	}

	var r repeated
	same := &replication.ServerError{PgError: &pgconn.PgError{Code: "XX000"}}
	for i, step := range []struct {
		err    error
		at     pglogrepl.LSN
		poison bool
	}{
		{same, 1, false}, {same, 1, false}, {same, 2, false}, {same, 2, false}, {io.EOF, 2, false}, {same, 2, false}, {same, 2, false},
		{&replication.ServerError{PgError: &pgconn.PgError{Code: "57P01"}}, 2, false}, {same, 2, false}, {same, 2, false}, {same, 2, true},
	} {
		if err := r.decoding(step.err, step.at, 0); errors.Is(err, flow.ErrPoison) != step.poison {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

// The advised command gets past a poison event in one step, and loses nothing else.
func TestPastPoison(t *testing.T) {
	h := newHarness(t)
	h.server.commit("1")
	bad := h.server.commit("bad")
	last := h.server.commit("3")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == last.end })
	h.stop()
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	// The same outbox again, from behind the event in the middle.
	h.server.update(func() { h.server.confirmed = fakeStart })
	h.o.From, h.o.AcceptGap = bad.commit+1, true
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == last.end })
	if ids := h.records(); !slices.Equal(ids, []string{"1", "bad", "3", "3"}) {
		t.Errorf("records %q", ids)
	}
}

// Time in which the process was suspended is held against nobody.
func TestSuspensionIsNoStall(t *testing.T) {
	w := &watcher{awake: time.Now()}
	if d := w.waited(time.Hour); d > stallAfter {
		t.Errorf("awake just now, and Kafka has been waited for for %s", d)
	}
	w.awake = time.Now().Add(-time.Minute)
	if d := w.waited(time.Hour); d < time.Minute || d > time.Hour {
		t.Errorf("awake for a minute, and Kafka has been waited for for %s", d)
	}
	if d := w.waited(2 * time.Second); d != 2*time.Second {
		t.Errorf("%s instead of two seconds", d)
	}
}
