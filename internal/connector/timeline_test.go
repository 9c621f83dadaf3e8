package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fakeTimeline is that of a standby.
type fakeTimeline struct {
	now  atomic.Int32
	fail atomic.Bool
	open atomic.Int32
	cut  atomic.Bool // the connection that asks is lost
	// asked counts questions that were not answered.
	asked atomic.Int32
}

func timelineAt(now int32) *fakeTimeline {
	f := new(fakeTimeline)
	f.now.Store(now)
	return f
}

func (f *fakeTimeline) Now(context.Context) (now int32, same bool, err error) {
	if f.fail.Load() {
		f.asked.Add(1)
		return 0, false, errors.New("no connection")
	}
	return f.now.Load(), f.open.Swap(1) == 1 && !f.cut.Swap(false), nil
}
func (f *fakeTimeline) Close() { f.open.Store(0) }

// A standby may be promoted after the connection was made, and before the slot is. What
// is stored first is of the new timeline; of the old one it would lie behind its end, and
// the next start would refuse it.
func TestPromotedBeforeTheStart(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, timelineAt(2)
	h.o.Store, h.server.timeline = store, timeline
	h.run()
	h.logged("timeline 2")
	h.server.update(func() { h.server.on = 2 })
	h.logged(`"message":"streaming"`)
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if store.saved == nil || store.saved.Timeline != 2 {
		t.Errorf("stored %v, want timeline 2", store.saved)
	}
	if timeline.open.Load() != 0 {
		t.Error("the connection that asks for the timeline is open still")
	}
}

// A promotion leaves connections alone. Behind a new connection can be a server that was
// made anew by pg_rewind, and what came of the old one was never of its history: at the
// same place in the WAL it has other events.
func TestTimelineOfAnotherServer(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, timelineAt(1)
	h.o.Store, h.server.timeline = store, timeline
	h.run()
	h.logged(`"message":"streaming"`)
	first := h.server.commit("1")
	h.until("the first event is stored", func() bool { return h.server.slotLSN() == first.end })
	timeline.cut.Store(true)
	timeline.now.Store(2)
	h.server.commit("2")
	h.logged("timeline 2")
	h.stop()
	_ = h.end() // it cannot be clean
	if store.saved == nil || store.saved.Timeline != 1 || store.saved.LSN != first.end {
		t.Errorf("stored %v on timeline %d, want %s on timeline 1", store.saved, store.saved.Timeline, first.end)
	}
}

// The same promotion, with the connection that asks alive.
func TestPromotedWhileStreaming(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, timelineAt(1)
	h.o.Store, h.server.timeline = store, timeline
	h.run()
	h.logged(`"message":"streaming"`)
	timeline.now.Store(2)
	tx := h.server.commit("1")
	h.until("the event is stored", func() bool { return h.server.slotLSN() == tx.end })
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if store.saved.Timeline != 2 || store.saved.LSN != tx.end {
		t.Errorf("stored %v on timeline %d, want %s on timeline 2", store.saved, store.saved.Timeline, tx.end)
	}
}

// lostStandby is a run whose standby has gone after it had delivered two events, of which no
// position is stored. The next one has neither; nobody can ask for its timeline at first.
func lostStandby(t *testing.T) (*harness, *memoryStore, *fakeTimeline) {
	t.Helper()
	h := newHarness(t)
	store, timeline := &memoryStore{}, timelineAt(1)
	h.o.Store, h.server.timeline, h.o.ConfirmEvery = store, timeline, time.Hour
	h.o.DrainTimeout = time.Hour // no test waits for it
	h.run()
	h.logged(`"message":"streaming"`)
	h.server.commit("1")
	h.server.commit("2")
	h.until("delivered", func() bool { return len(h.records()) == 2 })
	timeline.fail.Store(true)
	h.server.update(func() { h.server.txs, h.server.flush, h.server.ended = nil, fakeStart, io.ErrUnexpectedEOF })
	return h, store, timeline
}

// A standby that has not got what was delivered last may get it, and then that is published
// again: a stop says so, and does not wait for it. If it is promoted without it, what takes its
// place in the WAL is delivered.
func TestStandbyLacksWhatWasDelivered(t *testing.T) {
	h, store, timeline := lostStandby(t)
	h.logged("not streaming")
	timeline.fail.Store(false)
	h.until("it streams again", func() bool { return h.log.count(`"message":"streaming"`) == 2 })
	timeline.now.Store(2)
	tx := h.server.commit("3") // in the place of the first
	h.until("delivered", func() bool { return len(h.records()) == 3 })
	h.stop()
	if err := h.end(); !errors.Is(err, ErrUnclean) || !strings.Contains(err.Error(), "this server has not got what was published last") {
		t.Errorf("the stop: %v", err)
	}
	if store.saved.Timeline != 2 || store.saved.LSN != tx.end {
		t.Errorf("stored %v on timeline %d, want %s on timeline 2", store.saved, store.saved.Timeline, tx.end)
	}
}

// A stop that meets a standby that is away has its position stored over the next connection.
func TestStopWhileTheTimelineIsUnknown(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, timelineAt(1)
	h.o.Store, h.server.timeline, h.o.ConfirmEvery = store, timeline, time.Hour
	h.run()
	h.logged(`"message":"streaming"`)
	timeline.fail.Store(true)
	tx := h.server.commit("1")
	h.delivered()
	h.stop()
	h.until("it was asked", func() bool { return timeline.asked.Load() > 0 })
	timeline.fail.Store(false)
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if store.saved == nil || store.saved.LSN != tx.end || h.server.slotLSN() != tx.end {
		t.Errorf("stored %v, confirmed %s, want %s", store.saved, h.server.slotLSN(), tx.end)
	}
}

// While the timeline is not known nothing is stored.
func TestUnknownTimeline(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, timelineAt(1)
	timeline.fail.Store(true)
	h.o.Store, h.server.timeline = store, timeline
	h.run()
	h.logged("no connection")
	timeline.fail.Store(false)
	h.logged(`"message":"streaming"`)
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if store.saved == nil || store.saved.Timeline != 1 {
		t.Errorf("stored %v, want timeline 1", store.saved)
	}
}

// Where the slot is the store, it knows less than a process that has lost its standby before
// it could confirm, and the next standby's slot less than that one's.
func TestAnotherStandbyWithoutStore(t *testing.T) {
	h := newHarness(t)
	timeline := timelineAt(1)
	h.server.timeline = timeline
	h.run()
	first := h.server.commit("1")
	h.until("the first event is confirmed", func() bool { return h.server.slotLSN() == first.end })
	timeline.fail.Store(true)
	h.server.commit("2")
	h.until("the second event is there", func() bool { return len(h.records()) == 2 })
	h.server.update(func() { h.server.confirmed = fakeStart })
	h.logged("no connection")
	timeline.fail.Store(false)
	h.logged(fmt.Sprintf(`"lsn":"%s","slot":"outboxd","message":"streaming"`, first.end))
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if n := timeline.asked.Load(); n > 10 {
		t.Errorf("asked %d times for the timeline before another session begins", n)
	}
	if ids := h.records(); !slices.Equal(ids, []string{"1", "2", "2"}) {
		t.Errorf("records %q", ids)
	}
}

// Nobody knows whether a standby that is gone had been promoted, and what it sent last is of a
// timeline that no other server has: that is not passed over at the next one.
func TestDeliveredOnAnUnknownTimeline(t *testing.T) {
	h, _, timeline := lostStandby(t)
	h.server.commit("1 of the others")
	h.server.commit("2 of the others")
	h.logged("not streaming")
	timeline.fail.Store(false)
	h.until("delivered", func() bool { return len(h.records()) == 4 })
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if ids := h.records(); !slices.Equal(ids, []string{"1", "2", "1 of the others", "2 of the others"}) {
		t.Errorf("records %q", ids)
	}
}
