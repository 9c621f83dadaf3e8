package connector

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/jackc/pglogrepl"

	"outboxd/offsets"
)

// A position that an earlier configuration has left in another store is not passed
// over in silence, where events would be published again.
func TestStoreChanged(t *testing.T) {
	at := func(system, slot string, lsn pglogrepl.LSN) *offsets.Position {
		return &offsets.Position{SystemID: system, Timeline: 1, Slot: slot, LSN: lsn}
	}
	for name, test := range map[string]struct {
		there   *offsets.Position
		err     error
		refused bool
	}{
		"newer":             {at("7301", "outboxd", fakeStart+0x40), nil, true},
		"the same":          {at("7301", "outboxd", fakeStart), nil, false},
		"of another slot":   {at("7301", "other", fakeStart+0x40), nil, false},
		"of another system": {at("7302", "outboxd", fakeStart+0x40), nil, false},
		"beyond the WAL":    {at("7301", "outboxd", 0xFFFF_0000), nil, false},
		"none":              {nil, nil, false},
		"that is not known": {nil, io.ErrUnexpectedEOF, false},
	} {
		for _, accept := range []bool{false, true} {
			h := newHarness(t)
			h.server.commit("1")
			tx := h.server.commit("2")
			h.o.AcceptGap = accept
			h.o.Elsewhere = []offsets.Elsewhere{{Name: "the old topic", Peek: func(context.Context) (*offsets.Position, error) { return test.there, test.err }}}
			h.run()
			if test.refused && !accept {
				<-h.ended
				var refused *offsets.RefusedError
				if !errors.As(h.err, &refused) || !errors.Is(h.err, offsets.ErrOtherStore) {
					t.Errorf("%s: %v", name, h.err)
				}
				continue
			}
			h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
			if said := h.log.count("are published again (--accept-gap)") == 1; said != test.refused {
				t.Errorf("%s, accepted %t: said %t", name, accept, said)
			}
			h.stop()
			if err := h.end(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
