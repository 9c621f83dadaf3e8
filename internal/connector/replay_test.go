package connector

import (
	"errors"
	"testing"

	"github.com/jackc/pglogrepl"

	"outboxd/offsets"
)

func TestReplayWithin(t *testing.T) {
	window := offsets.Window{From: 0x100, To: 0x300}
	for _, test := range []struct{ from, to, wantFrom, wantTo pglogrepl.LSN }{
		{0, 0, 0x100, 0x300},
		{0x200, 0, 0x200, 0x300},
		{0, 0x200, 0x100, 0x200},
		{0x100, 0x300, 0x100, 0x300},
	} {
		done, err := Replay{From: test.from, To: test.to}.within(window)
		if err != nil || done != (Replayed{From: test.wantFrom, To: test.wantTo}) {
			t.Errorf("from %s to %s: %+v, %v", test.from, test.to, done, err)
		}
	}
	for _, r := range []Replay{{From: 0xFF}, {From: 0x301}, {To: 0xFF}, {To: 0x301}, {From: 0x200, To: 0x301}, {From: 0xFF, To: 0x200}} {
		_, err := r.within(window)
		var refused *offsets.RefusedError
		if !errors.As(err, &refused) || !errors.Is(err, offsets.ErrOutsideWindow) {
			t.Errorf("from %s to %s: %v", r.From, r.To, err)
		}
	}
}
