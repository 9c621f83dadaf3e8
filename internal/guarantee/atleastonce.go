package guarantee

import (
	"context"
	"errors"
	"time"

	"outboxd/offsets"
	"outboxd/sink"
)

// AtLeastOnce stores what Kafka has acknowledged. What is sent and not stored is sent
// again after a fault.
type AtLeastOnce struct{ store offsets.Store }

// NewAtLeastOnce keeps positions in the store; nil: the slot is the only one.
func NewAtLeastOnce(store offsets.Store) *AtLeastOnce { return &AtLeastOnce{store} }

// claiming is a store whose positions count only if the process has claimed them.
type claiming interface{ Claimed() bool }

func (a *AtLeastOnce) Store() offsets.Store { return a.store }
func (a *AtLeastOnce) Transactional() bool  { return false }
func (a *AtLeastOnce) SharedStore() bool    { _, ok := a.store.(claiming); return ok }

func (a *AtLeastOnce) Unclaimed() bool {
	c, ok := a.store.(claiming)
	return ok && !c.Claimed()
}

// Configure lets a sink give up what is buffered when the process was suspended for so
// long that another may have taken over.
func (a *AtLeastOnce) Configure(o *sink.Options, slotHoldTime time.Duration) {
	o.PauseLimit = min(slotHoldTime*3/4, 30*time.Second)
}

func (a *AtLeastOnce) Check(context.Context, *offsets.Position) error { return nil }

// Acquire does nothing: who has the slot writes.
func (a *AtLeastOnce) Acquire(context.Context, Transactions) error { return nil }
func (a *AtLeastOnce) Replaced()                                   {}
func (a *AtLeastOnce) Judge(err error) error                       { return err }
func (a *AtLeastOnce) Begin(s Session) Keeper                      { return &interval{s} }

// interval stores the newest position every so often.
type interval struct{ s Session }

func (i *interval) Gate() *Gate { return nil }

func (i *interval) Run(ctx context.Context) error {
	tick := time.NewTicker(i.s.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := i.s.Commit(ctx); err != nil {
				return &StoreError{err}
			}
			i.s.Due()
			i.s.Confirmed(i.s.Tracker.Confirmed().LSN(), i.s.Tracker.Unconfirmed() == 0)
		}
	}
}

// storeTimeout bounds the last save of a session.
const storeTimeout = 10 * time.Second

// Final tries again until ctx ends, but for an error that stays.
func (i *interval) Final(ctx context.Context, _ bool) (offsets.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for {
		at, err := i.s.Commit(ctx)
		if err == nil || ctx.Err() != nil || stays(err) {
			return at, err
		}
		select {
		case <-ctx.Done():
			return at, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stays tells the errors that trying again does not change, or not before there is another
// session.
func stays(err error) bool {
	return errors.Is(err, offsets.ErrUnusable) || errors.Is(err, offsets.ErrStoreTaken) || errors.Is(err, offsets.ErrUnknownTimeline)
}
