package connector

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// fakeTimeline is that of a standby.
type fakeTimeline struct {
	now  int32
	fail atomic.Bool
	open atomic.Int32
}

func (f *fakeTimeline) Now(context.Context) (int32, error) {
	if f.fail.Load() {
		return 0, errors.New("no connection")
	}
	f.open.Store(1)
	return f.now, nil
}
func (f *fakeTimeline) Close() { f.open.Store(0) }

// A standby may be promoted after the connection was made, and before the slot is. What
// is stored first is of the new timeline; of the old one it would lie behind its end, and
// the next start would refuse it.
func TestPromotedBeforeTheStart(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, &fakeTimeline{now: 2}
	h.o.Store, h.server.timeline = store, timeline
	h.run()
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

// While the timeline is not known nothing is stored.
func TestUnknownTimeline(t *testing.T) {
	h := newHarness(t)
	store, timeline := &memoryStore{}, &fakeTimeline{now: 2}
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
	if store.saved == nil || store.saved.Timeline != 2 {
		t.Errorf("stored %v, want timeline 2", store.saved)
	}
}
