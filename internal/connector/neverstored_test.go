package connector

import (
	"context"
	"errors"
	"testing"

	"outboxd/offsets"
)

// A position that was never stored, because the first save failed, is not said to be
// gone: found by the simulator.
func TestPositionNeverStored(t *testing.T) {
	h := newHarness(t)
	store := &memoryStore{}
	failing := errors.New("disk full")
	store.set(func(context.Context) error { return failing })
	h.o.Store = store
	h.run()
	h.logged("disk full")
	h.until("a second attempt", func() bool { return h.log.count("not streaming") > 1 })
	store.set(nil)
	h.logged(`"message":"streaming"`)
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
	if h.log.count("the stored position is gone") != 0 {
		t.Error("it says that the position is gone")
	}
	p := &Connector{o: Options{Store: store}, log: h.o.Log, known: &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}}
	store.saved = nil
	if err := p.load(t.Context()); err != nil || !p.lost || h.log.count("the stored position is gone") != 0 {
		t.Errorf("lost %t, %v", p.lost, err)
	}
}
