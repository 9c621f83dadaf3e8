package guarantee

import (
	"context"
	"fmt"
	"time"

	"outboxd/offsets"
)

// When a transaction is ended. Longer ones cost less, and their events are seen
// later. What to end one takes is the time from the end of what it holds, which is waited
// for, to when the next can begin.
const (
	// After a commit there is a pause as long as it took, within these: at most half of
	// the time is spent on commits. It is what events wait for at small loads.
	minPause, maxPause = 2 * time.Millisecond, 20 * time.Millisecond
	// commitFew is how many events may be in flight when a transaction is ended: they are
	// acknowledged about as soon as the request that ends it could be sent. With more,
	// waiting for them leaves the brokers idle, and the pause is commitBusy times what
	// the last commit took.
	commitFew  = 8
	commitBusy = 5
	// commitAge bounds the age of a transaction.
	commitAge = 150 * time.Millisecond
	// Events of a backlog can wait: while much is in flight, a transaction lasts for a part of
	// the time that they are late by, within commitLate. (Measured in a catch-up of 2,000,000
	// events: docs/benchmarks.md.)
	latePart   = 16
	commitLate = 500 * time.Millisecond
	// commitEvents bounds its size.
	commitEvents = 100_000
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
	gate Gate
}

func (t *transactions) Gate() *Gate { return &t.gate }

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
			if !t.gather(ctx, last, took) {
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

// gather waits until the transaction that has begun is due. It returns false when there is
// none any more, or when ctx ends. The last commit ended at a time, and took so long.
func (t *transactions) gather(ctx context.Context, last time.Time, took time.Duration) bool {
	for {
		t.gate.Lock()
		age, n := t.e.sink.Age()
		t.gate.Unlock()
		if n == 0 {
			return false
		}
		wait := due(age, time.Since(last), took, t.e.sink.Lateness(), n, t.e.sink.InFlight())
		if wait <= 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// due returns after how long to look again at a transaction of n events, the first of which
// was sent age ago, when the last commit, which took so long, ended since ago, and events
// are late by so much; 0: it is to be ended.
func due(age, since, took, lateness time.Duration, n int, inFlight int64) time.Duration {
	pause := min(max(took, minPause), maxPause)
	wait := min(lateness/latePart, commitLate)
	switch {
	case age >= max(commitAge, wait), n >= commitEvents:
	case since < pause:
		return pause - since
	case inFlight > commitFew && age < max(commitBusy*took, wait),
		inFlight > 0 && age < minPause: // what comes at once, such as the rows of one transaction, is ended together
		return gatherEvery
	}
	return 0
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
