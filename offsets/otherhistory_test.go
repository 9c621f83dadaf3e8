package offsets

import (
	"math"
	"testing"

	"github.com/jackc/pglogrepl"
)

// What was delivered on a history that the server has left counts up to there only: the same
// positions are other events' now, which would be passed over and confirmed, and so be
// lost. Found by the simulator: another process had stored a position of the new
// timeline meanwhile.
func TestDeliveredOnAnotherHistory(t *testing.T) {
	behind, before := Event{CommitLSN: 0x2F0, Number: 3}, Event{CommitLSN: 0x1F0, Number: 3}
	left := Event{CommitLSN: 0x1FF, Number: math.MaxUint32} // what was before it needs nothing more
	for _, test := range []struct {
		name      string
		on        History
		delivered Event
		skip      Event
	}{
		{"the same", History{"7301", 2}, behind, behind},
		{"left before it", History{"7301", 1}, behind, left},
		{"left after it", History{"7301", 1}, before, before},
		{"left where it begins", History{"7301", 1}, Event{CommitLSN: 0x200, Number: 1}, left},
		{"another system", History{"7302", 1}, before, Event{}},
		{"not known", History{"7301", 3}, before, Event{}},
		// A standby that is behind may be promoted while it is streamed from, and a server can
		// have lost its newest WAL: other transactions take the places of those that follow.
		{"the server does not have it", History{"7301", 2}, Event{CommitLSN: 0x300, Number: 1}, Event{CommitLSN: 0x2FF, Number: math.MaxUint32}},
	} {
		d, err := Decide(Situation{
			Server: Server{SystemID: "7301", Timeline: 2, FlushLSN: 0x300, SlotName: "a", Slot: &Slot{Name: "a", ConfirmedFlush: 0x100},
				Switches: map[int32]pglogrepl.LSN{1: 0x200}},
			Known: &Position{SystemID: "7301", Timeline: 2, Slot: "a", LSN: 0x210}, Store: true, Verified: true,
			ID: HeldID, Delivered: test.delivered, On: test.on,
		})
		if err != nil || d.Step != Stream || d.Skip != test.skip {
			t.Errorf("%s: %s, skips up to %+v, want %+v (%v)", test.name, d.Step, d.Skip, test.skip, err)
		}
	}
}
