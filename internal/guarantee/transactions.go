package guarantee

import (
	"context"
	"fmt"
	"sync"
	"time"

	"outboxd/offsets"
)

// When a transaction is ended. Longer ones cost less, and their events are seen
// later.
const (
	// After a commit there is a pause as long as it took, within these: at most half of
	// the time is spent on commits. It is what events wait for at small loads; at large
	// ones something is always in flight, and a transaction lasts for commitAge.
	minPause, maxPause = 2 * time.Millisecond, 20 * time.Millisecond
	// commitAge bounds the age of a transaction when there is always more to
	// send. One is ended earlier when all that was sent is acknowledged.
	commitAge = 150 * time.Millisecond
	// commitEvents bounds its size.
	commitEvents = 50_000
	// gatherEvery is how often a transaction is looked at.
	gatherEvery = time.Millisecond
	// commitIdle is the least time between two commits that advance the position
	// while there are no events, so that PostgreSQL need not keep the WAL.
	commitIdle = 5 * time.Second
)

// Begin returns the keeper of a session whose sink was acquired.
func (e *ExactlyOnce) Begin(s Session) Keeper { return &transactions{Session: s, e: e} }

// transactions ends the transactions of one session when they are due.
type transactions struct {
	Session
	e *ExactlyOnce
	// gate is held by whoever sends or commits: a transaction is closed between two
	// events.
	gate gate
}

func (t *transactions) Gate() sync.Locker { return &t.gate }

// Run ends transactions when they are due, and lets positions be confirmed every so
// often.
func (t *transactions) Run(ctx context.Context) error {
	idle := time.NewTicker(max(t.Every, commitIdle))
	defer idle.Stop()
	due := time.NewTicker(t.Every)
	defer due.Stop()
	var last time.Time // end of the last commit
	var took time.Duration
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-due.C:
			t.Due()
			if !last.IsZero() {
				t.Confirmed(t.At.LSN, t.Tracker.Unconfirmed() == 0)
			}
			continue
		case <-idle.C:
		case <-t.e.sink.Begun():
			if !t.gather(ctx, last.Add(min(max(took, minPause), maxPause))) {
				continue
			}
		}
		began := time.Now()
		if err := t.end(t.Stop); err != nil {
			return err
		}
		last = time.Now()
		took = last.Sub(began)
	}
}

// gather waits until the transaction that has begun is to be ended, not before a time
// unless it is large or old. It returns false when there is none any more, or when ctx
// ends.
func (t *transactions) gather(ctx context.Context, notBefore time.Time) bool {
	for {
		t.gate.Lock()
		age, n := t.e.sink.Age()
		t.gate.Unlock()
		pause := time.Until(notBefore)
		quiet := t.e.sink.InFlight() == 0 && pause <= 0
		if n == 0 || quiet || age >= commitAge || n >= commitEvents {
			return n > 0
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(max(gatherEvery, pause)):
		}
	}
}

// end ends the transaction and opens the next. Reading goes on meanwhile; what it
// brings waits for the next transaction, unless that would be too much for it. After an
// error the sink is of no further use.
func (t *transactions) end(ctx context.Context) error {
	k := t.e.sink
	t.gate.Lock()
	t.Tracker.Cut()
	k.Seal()
	alone := k.OneByOne()
	if !alone {
		t.gate.Unlock()
	}
	err := k.Flush(ctx)
	if err == nil {
		var at offsets.Position
		if at, err = t.Commit(ctx); err == nil {
			t.At = at
		}
	}
	if !alone {
		t.gate.Lock()
	}
	defer t.gate.Unlock()
	if _, n := k.Age(); err == nil && n > 0 {
		err = fmt.Errorf("%d events are in a transaction that no position follows", n)
	}
	switch {
	case err == nil:
		k.Unseal()
		return nil
	case ctx.Err() == nil:
		k.Fail(err)
	}
	return &Doubt{err}
}

// Final ends the last transaction, if everything in it is acknowledged. Otherwise it is
// left to be aborted.
func (t *transactions) Final(ctx context.Context, whole bool) (offsets.Position, error) {
	if !whole {
		return t.At, nil
	}
	err := t.end(ctx)
	return t.At, err
}
