package offsets

import (
	"context"
	"fmt"
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

// Committer takes the newest confirmed position, stores it durably, and tells
// PostgreSQL, in this order: a stored position may be ahead of the slot, never
// behind it. It is used by one goroutine at a time.
type Committer struct {
	tracker *Tracker
	store   Store // nil: the slot is the only store
	tell    func(Confirmed)
	at      Position      // what was stored last
	told    pglogrepl.LSN // to PostgreSQL
	rewind  Rewind
}

// NewCommitter returns a Committer for the tracker of a stream that starts at
// the given position. tell hands the position to the replication stream and
// must not block.
func NewCommitter(tracker *Tracker, store Store, start Position, tell func(Confirmed)) *Committer {
	return &Committer{tracker: tracker, store: store, at: start, told: start.LSN, tell: tell}
}

// HoldBack makes the Committer tell PostgreSQL late. It is called before the first
// Commit, and needs a store.
func (c *Committer) HoldBack(r Rewind) {
	if r.on() {
		c.rewind, c.told = r, 0 // what the slot has is not known here, and not needed
	}
}

// Commit passes on the newest confirmed position, and returns what is stored. An
// error of the store is returned and nothing is told.
func (c *Committer) Commit(ctx context.Context) (Position, error) {
	newest, now := c.tracker.Confirmed(), time.Now()
	next, tell := c.at, newest
	if newest.lsn > c.at.LSN || newest.lsn == c.at.LSN && newest.event.After(c.at.Inside) {
		next.LSN, next.Inside = newest.lsn, newest.event
	}
	if c.rewind.on() {
		tell = c.rewind.due(next.Past, next.LSN, now)
		next.Past = c.rewind.note(next.Past, next.LSN, now)
	}
	if c.store != nil && next != c.at {
		if err := c.store.Save(ctx, next); err != nil {
			return c.at, fmt.Errorf("store position %s: %w", next, err)
		}
	}
	c.at = next
	if tell.lsn > c.told {
		c.told = tell.lsn
		c.tell(tell)
	}
	return next, nil
}
