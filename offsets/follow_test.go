package offsets

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pglogrepl"
)

// A position is of the timeline that the server had when it was confirmed, and
// nothing is stored or told while that is not known.
func TestCommitterFollowsTheTimeline(t *testing.T) {
	tracker := NewTracker(100)
	store := &memoryStore{}
	var told []Confirmed
	c := NewCommitter(tracker, store, Position{LSN: 100, Timeline: 1}, func(c Confirmed) { told = append(told, c) })
	now, asked := int32(1), 0
	var unknown error
	c.Follow(func(context.Context) (int32, error) { asked++; return now, unknown })
	commit := func(end uint64) (Position, error) {
		tracker.Begin().Commit(pglogrepl.LSN(end))
		return c.Commit(t.Context())
	}
	if _, err := c.Commit(t.Context()); err != nil || asked != 0 {
		t.Errorf("asked %d times without a new position, %v", asked, err)
	}
	if at, err := commit(200); err != nil || at.Timeline != 1 {
		t.Errorf("%+v, %v", at, err)
	}
	now = 2
	if at, err := commit(300); err != nil || at.Timeline != 2 || store.p.Timeline != 2 || store.p.LSN != 300 {
		t.Errorf("%+v, stored %+v, %v", at, store.p, err)
	}
	unknown = errors.New("gone")
	before := len(told)
	if at, err := commit(400); !errors.Is(err, unknown) || at.LSN != 300 || store.p.LSN != 300 || len(told) != before {
		t.Errorf("%+v, stored %+v, told %v, %v", at, store.p, told, err)
	}
}
