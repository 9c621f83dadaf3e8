package offsets

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
)

// Store keeps a position besides the slot. Implementations are used by one
// goroutine at a time.
type Store interface {
	// Load returns the stored position, or nil when none was ever stored.
	Load(ctx context.Context) (*Position, error)
	// Save returns after the position is durable.
	Save(ctx context.Context, p Position) error
}

// Committer takes the newest confirmed position, stores it durably, and
// confirms it to PostgreSQL, in this order: a stored position may be ahead of the slot, never
// behind it. It is used by one goroutine at a time.
type Committer struct {
	tracker *Tracker
	store   Store // nil: the slot is the only store
	confirm func(Confirmed)
	at      Position // what was stored last
	// confirmed is what was confirmed to PostgreSQL last.
	confirmed pglogrepl.LSN
	rewind    Rewind
	// now is the time of day.
	now func() time.Time
	saw atomic.Pointer[Outbox]
	// timeline is that of the server now; nil where it cannot change.
	timeline func(context.Context) (int32, error)
}

// NewCommitter returns a Committer for the tracker of a stream that starts at
// the given position. confirm hands the position to the replication stream and
// must not block.
func NewCommitter(tracker *Tracker, store Store, start Position, confirm func(Confirmed)) *Committer {
	return &Committer{tracker: tracker, store: store, at: start, confirmed: start.LSN, confirm: confirm, now: time.Now}
}

// HoldBack makes the Committer confirm positions to PostgreSQL late, by the time of day
// that now returns (nil: time.Now). It is called before the first Commit, and needs a
// store.
func (c *Committer) HoldBack(r Rewind, now func() time.Time) {
	if r.on() {
		c.rewind, c.confirmed = r, 0 // what the slot has is not known here, and not needed
	}
	if now != nil {
		c.now = now
	}
}

// Saw makes what was found published just now part of the positions that are stored
// from now on. Any goroutine may call it.
func (c *Committer) Saw(o Outbox) { c.saw.Store(&o) }

// ErrUnknownTimeline is returned by Commit where a position is not stored because PostgreSQL
// does not tell of which timeline it is. A later session can tell.
var ErrUnknownTimeline = errors.New("the standby's timeline is not known")

// Follow makes the Committer ask for the timeline of each new position: that of a
// standby changes while it streams. It is called before the first Commit.
func (c *Committer) Follow(timeline func(context.Context) (int32, error)) { c.timeline = timeline }

// Commit passes on the newest confirmed position, and returns what is stored. An
// error of the store is returned and nothing is confirmed.
func (c *Committer) Commit(ctx context.Context) (Position, error) {
	newest, now := c.tracker.Confirmed(), c.now()
	next, due := c.at, newest
	if newest.lsn > c.at.LSN || newest.lsn == c.at.LSN && newest.event.After(c.at.Inside) {
		next.LSN, next.Inside = newest.lsn, newest.event
	}
	if c.rewind.on() {
		due = c.rewind.due(next.Past, next.LSN, now)
		next.Past = c.rewind.note(next.Past, next.LSN, now)
	}
	if c.timeline != nil && next != c.at {
		// What was received until now is of the timeline of now, or from before it.
		timeline, err := c.timeline(ctx)
		if err != nil {
			return c.at, fmt.Errorf("%w: %w", ErrUnknownTimeline, err)
		}
		next.Timeline = timeline
	}
	// That it was seen again alone is not worth a write.
	if saw := c.saw.Load(); saw != nil && (next != c.at || !saw.same(c.at.Outbox)) {
		next.Outbox = *saw
	}
	if c.store != nil && next != c.at {
		if err := c.store.Save(ctx, next); err != nil {
			return c.at, fmt.Errorf("store position %s: %w", next, err)
		}
	}
	c.at = next
	if due.lsn > c.confirmed {
		c.confirmed = due.lsn
		c.confirm(due)
	}
	return next, nil
}
