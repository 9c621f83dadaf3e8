package connector

import (
	"context"
	"testing"

	"outboxd/offsets"
)

// slotless is a connection to a server without the slot.
type slotless struct {
	fakeConn
	made bool
}

func (c *slotless) Prepare(_ context.Context, first bool) (offsets.Server, error) {
	server := offsets.Server{SystemID: "7301", Timeline: 1, SlotName: "outboxd"}
	if c.made = c.made || first; first {
		server.Slot = &offsets.Slot{Name: "outboxd"}
	}
	return server, nil
}

// A process that found nothing stored, and then waited while another one had the slot,
// looks again before it makes a slot that is missing: found by the simulator.
func TestSlotIsNotMadeAgain(t *testing.T) {
	h := newHarness(t)
	stored := &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x100}
	for _, test := range []struct {
		shared bool
		saved  *offsets.Position
		made   bool
	}{{true, stored, false}, {true, nil, true}, {false, nil, true}} {
		p := &Connector{o: Options{Store: &memoryStore{saved: test.saved}}, log: h.o.Log, loaded: true, shared: test.shared}
		conn := &slotless{fakeConn: fakeConn{h.server}}
		if _, err := p.prepare(t.Context(), conn); err != nil || conn.made != test.made || p.known != test.saved {
			t.Errorf("%+v: made %t, known %v, %v", test, conn.made, p.known, err)
		}
	}
}
