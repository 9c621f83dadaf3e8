package offsets

import (
	"context"
	"fmt"

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
	at      Position // LSN: what was told last
}

// NewCommitter returns a Committer for the tracker of a stream that starts at
// the given position. tell hands the position to the replication stream and
// must not block.
func NewCommitter(tracker *Tracker, store Store, start Position, tell func(Confirmed)) *Committer {
	return &Committer{tracker: tracker, store: store, at: start, tell: tell}
}

// Commit passes on the newest confirmed position, and returns it. An error of
// the store is returned and nothing is told.
func (c *Committer) Commit(ctx context.Context) (pglogrepl.LSN, error) {
	newest := c.tracker.Confirmed()
	if newest.lsn <= c.at.LSN {
		return c.at.LSN, nil
	}
	next := c.at
	next.LSN = newest.lsn
	if c.store != nil {
		if err := c.store.Save(ctx, next); err != nil {
			return c.at.LSN, fmt.Errorf("store position %s: %w", next.LSN, err)
		}
	}
	c.at = next
	c.tell(newest)
	return next.LSN, nil
}
