package connector

import (
	"context"
	"testing"

	"outboxd/offsets"
)

// slotless is a connection to a server without the slot.
type slotless struct {
	fakeConn
	made    bool
	making  func() // what happens meanwhile
	looked  bool
	another bool // another process makes the slot after the first look
}

func (c *slotless) Prepare(_ context.Context, first bool) (offsets.Server, error) {
	server := offsets.Server{SystemID: "7301", Timeline: 1, SlotName: "outboxd"}
	if c.made = c.made || first; first {
		if c.making != nil {
			c.making()
		}
		server.Slot = &offsets.Slot{Name: "outboxd"}
	}
	if c.another && c.looked {
		server.Slot = &offsets.Slot{Name: "outboxd"}
	}
	c.looked = true
	return server, nil
}

// A process that found nothing stored looks again before it makes a slot that is missing:
// another may have had it meanwhile. Found by the simulator.
func TestSlotIsNotMadeAgain(t *testing.T) {
	h := newHarness(t)
	stored := &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}
	for _, test := range []struct {
		shared bool
		saved  *offsets.Position
		made   bool
	}{{true, stored, false}, {true, nil, true}, {false, nil, true}, {false, stored, false}} {
		p := &Connector{o: Options{Store: &memoryStore{saved: test.saved}}, log: h.o.Log, loaded: true, shared: test.shared}
		conn := &slotless{fakeConn: fakeConn{h.server}}
		if _, err := p.prepare(t.Context(), conn); err != nil || conn.made != test.made || p.known != test.saved {
			t.Errorf("%+v: made %t, known %v, %v", test, conn.made, p.known, err)
		}
	}
}

// What another process has stored is late: its slot is gone already, and it had acknowledged
// events when the new slot was made. The start sees it, and refuses the slot.
func TestStoredWhileTheSlotIsMade(t *testing.T) {
	h := newHarness(t)
	store := &memoryStore{}
	stored := &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}
	p := &Connector{o: Options{Store: store}, log: h.o.Log, loaded: true}
	conn := &slotless{fakeConn: fakeConn{h.server}, making: func() { store.saved = stored }}
	if _, err := p.prepare(t.Context(), conn); err != nil || !conn.made || p.known != stored {
		t.Errorf("made %t, known %v, %v", conn.made, p.known, err)
	}
}

// Two processes start together. What the one has stored is not held to what the other saw
// of the server before.
func TestSlotThatAnotherMakes(t *testing.T) {
	h := newHarness(t)
	stored := &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: fakeStart}
	p := &Connector{o: Options{Store: &memoryStore{saved: stored}}, log: h.o.Log, loaded: true}
	conn := &slotless{fakeConn: fakeConn{h.server}, another: true}
	server, err := p.prepare(t.Context(), conn)
	if err != nil || conn.made || server.Slot == nil || server.FlushLSN != fakeStart {
		t.Errorf("made %t, %+v, %v", conn.made, server, err)
	}
}
