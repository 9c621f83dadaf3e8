// Package guarantee is what delivery promises: at least once, or exactly once. Both
// are implementations of one interface, which says when a position is stored, when it
// may be confirmed to PostgreSQL, what a doubt costs, who may write, and how a session
// ends.
//
//	                    at least once                 exactly once
//	position is stored  every confirm_interval        in the Kafka transaction of its events
//	confirmed           after that                    after that
//	a doubt costs       repeats after the position    the sink; the next one reads what is committed
//	who may write       who has the slot              who has the transactional id, and the slot
//	a session ends      with what is acknowledged     with a transaction of all that was sent
//
// The package knows neither PostgreSQL nor how events are made.
package guarantee

import (
	"context"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/offsets"
	"outboxd/sink"
)

// Guarantee is used by the goroutine of a run. It outlives sessions and sinks.
type Guarantee interface {
	// Store is where positions are kept besides the slot; nil: nowhere.
	Store() offsets.Store
	// Transactional reports whether events are sent in transactions, so that a start has
	// to acquire the transactional id.
	Transactional() bool
	// SharedStore reports whether another process may write to the store at any time, so
	// that each start has to read it.
	SharedStore() bool
	// Unclaimed reports whether the store wants a claim of this process that is still to
	// be made: a Save of its position, whatever that is.
	Unclaimed() bool
	// Configure completes the options of the next sink. slotHoldTime is how long the
	// server keeps the slot for a process that is suspended.
	Configure(o *sink.Options, slotHoldTime time.Duration)
	// Check says whether a session may begin after the sink has failed. known is the
	// position that was confirmed last.
	Check(ctx context.Context, known *offsets.Position) error
	// Acquire makes the process the only one that writes through this new sink: what
	// others have not committed is aborted.
	Acquire(ctx context.Context, k Transactions) error
	// Replaced notes that another process streams from the slot.
	Replaced()
	// Judge returns what the end of a session with this error means.
	Judge(err error) error
	// Begin returns what stores the positions of one session.
	Begin(s Session) Keeper
}

// Session is what a Keeper works with.
type Session struct {
	Tracker *offsets.Tracker
	// Commit stores the newest position of the tracker and lets it be confirmed. It is
	// called by one goroutine at a time.
	Commit func(context.Context) (offsets.Position, error)
	// At is the position that the session starts at.
	At offsets.Position
	// Every is how often a position is stored and confirmed at least, where there is a
	// new one.
	Every time.Duration
	// Stop ends when a stop waits for nothing more. It ends what must not be interrupted
	// by the mere end of a session.
	Stop context.Context
	// Due is called when a position may be confirmed, and Confirmed with the position
	// and whether everything that was sent is behind it. Neither blocks.
	Due       func()
	Confirmed func(lsn pglogrepl.LSN, all bool)
}

// Keeper stores the positions of one session.
type Keeper interface {
	// Gate is held by whoever sends, nil where nobody has to.
	Gate() *Gate
	// Run stores positions until ctx ends (nil), or an error that ends the session.
	Run(ctx context.Context) error
	// Final stores what is confirmed at the end of a session, after Run has ended and
	// when nothing more is sent. whole says that everything that was sent is
	// acknowledged. It returns what is stored, and a *Doubt if nobody knows that.
	Final(ctx context.Context, whole bool) (offsets.Position, error)
}

// Doubt is the error of a transaction that may be committed or not. The sink is of no
// further use: only the next one can learn what is committed.
type Doubt struct{ Err error }

func (d *Doubt) Error() string { return d.Err.Error() }
func (d *Doubt) Unwrap() error { return d.Err }

// StoreError is a fault of the store of the position.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return e.Err.Error() }
func (e *StoreError) Unwrap() error { return e.Err }
