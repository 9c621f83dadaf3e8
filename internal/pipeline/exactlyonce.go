package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"outboxd/decoder"
	"outboxd/internal/positions"
	"outboxd/offsets"
	"outboxd/sink"
)

// With exactly_once, events are sent in Kafka transactions, and the position up
// to which they go is a record of the same transaction. A Kafka transaction holds
// many of PostgreSQL, or a part of a large one. The position is the only truth:
// after any doubt about a transaction the sink is given up, and the next one
// begins with what is committed.
//
// The order at a start keeps two processes apart:
//
//  1. The slot is looked at. While another connection streams from it, nothing
//     else is done: a process that waits disturbs nobody.
//  2. The transactional id is taken (Fence). From here on what an older process
//     has not committed is aborted for good, so that
//  3. the position that is read now cannot change any more.
//  4. Streaming begins at the position. Only one process gets the slot.
//  5. The position is committed again, under this process's name: the claim.
//
// A process that is fenced reads the position's owner. If another has claimed
// since, it has been replaced, and ends. Otherwise it was the coordinator, which
// ends a transaction that takes too long (the process was stopped, the network
// gone), or a process that took the id and did not get the slot: it starts again.
// A third possibility, a program that has nothing to do with the slot and uses
// the same id, would go on for ever, and so is counted.

// When a transaction is ended. Longer ones cost less, and their events are seen
// later.
const (
	// commitPause is the least time between two commits.
	commitPause = 20 * time.Millisecond
	// commitAge bounds the age of a transaction when there is always more to
	// send. One is ended earlier when all that was sent is acknowledged.
	commitAge = 150 * time.Millisecond
	// commitEvents bounds its size.
	commitEvents = 50_000
	// gatherEvery is how often a transaction is looked at.
	gatherEvery = 2 * time.Millisecond
	// commitIdle is the least time between two commits that advance the position
	// while there are no events, so that PostgreSQL need not keep the WAL.
	commitIdle = 5 * time.Second
)

// So many times within so long another program may take the transactional id.
const (
	fencesAllowed = 5
	fencesWithin  = 5 * time.Minute
)

// longestTimeout bounds the transactions' time-out. It grows where Kafka is so slow
// that what a transaction holds is not acknowledged in time: with the same one
// again the run would never get any further.
const longestTimeout = 5 * time.Minute

// Errors that need an operator, though the configuration is right in itself.
var (
	ErrTakenOver = errors.New("another process has taken over")
	errForeignID = errors.New("another program uses the same transactional id")
)

// exactlyOnce stores positions in the sink's transactions. It is an
// offsets.Store: a Save commits the transaction that is open, so that everything
// that holds for a stored position (it is stored before PostgreSQL is told, and
// never goes back) holds for what is committed.
type exactlyOnce struct {
	p         *Pipeline
	positions *positions.Store
	owner     string // this process, as it names itself in the positions
	claimed   bool   // the stored position was ours when we last knew
	claimDue  bool   // the sink is new, and the position not yet claimed
	// fences counts how often the id was taken by an unknown, since firstFence.
	fences     int
	firstFence time.Time
}

func newExactlyOnce(p *Pipeline, store *positions.Store) *exactlyOnce {
	return &exactlyOnce{p: p, positions: store, owner: rand.Text()}
}

func (e *exactlyOnce) Load(ctx context.Context) (*offsets.Position, error) {
	return e.positions.Load(ctx)
}

// Save commits the sink's transaction with the position. The events in it must be
// exactly those up to the position.
func (e *exactlyOnce) Save(ctx context.Context, at offsets.Position) error {
	newest := e.p.sink.Newest()
	if newest.CommitLSN >= at.LSN && offsets.Event(newest) != at.Inside {
		return fmt.Errorf("the transaction holds events up to %s, which the position does not tell", newest)
	}
	if err := e.p.sink.Commit(ctx, e.positions.Record(at, e.owner)); err != nil {
		return err
	}
	e.claimed, e.claimDue = true, false
	return nil
}

// take replaces the sink by one that has the transactional id.
func (e *exactlyOnce) take(ctx context.Context) error {
	p := e.p
	p.closeSink()
	p.published, e.claimDue = decoder.Position{}, true
	if err := p.openSink(); err != nil {
		return err
	}
	if err := p.sink.Fence(ctx); err != nil {
		p.closeSink()
		return &sink.FailedError{Err: err}
	}
	return nil
}

// check looks, after the sink has failed, whether another process has claimed the
// position.
func (e *exactlyOnce) check(ctx context.Context) error {
	if e == nil || !e.claimed || e.p.sink != nil {
		return nil
	}
	_, owner, err := e.positions.LoadOwned(ctx)
	if err != nil {
		return &sink.FailedError{Err: err}
	}
	if owner != e.owner {
		return fmt.Errorf("%w: the position of slot %q was claimed by another process with the transactional id %q (delivery.transactional_id), which publishes from here on; "+
			"if both are meant to run, give each its own slot and transactional id", ErrTakenOver, e.p.o.Source.Slot, e.p.o.Sink.TransactionalID)
	}
	return nil
}

// fenced judges a failure of the sink: after our own time-out the next
// transactions get more time, and what was another's doing is counted.
func (e *exactlyOnce) fenced(err error) error {
	if e != nil && errors.Is(err, sink.ErrExpired) {
		o := &e.p.o.Sink
		o.TransactionTimeout = min(2*max(o.TransactionTimeout, sink.TransactionTimeout), longestTimeout)
	}
	if e == nil || !errors.Is(err, sink.ErrFenced) {
		return err
	}
	if time.Since(e.firstFence) > fencesWithin {
		e.fences, e.firstFence = 0, time.Now()
	}
	if e.fences++; e.fences < fencesAllowed {
		return err
	}
	return fmt.Errorf("%w: %q was taken %d times within %s, and not for slot %q; choose another delivery.transactional_id: %w",
		errForeignID, e.p.o.Sink.TransactionalID, e.fences, time.Since(e.firstFence).Round(time.Second), e.p.o.Source.Slot, err)
}

// commitTransactions ends transactions when they are due, until ctx ends, and
// tells PostgreSQL every so often.
func (s *session) commitTransactions(ctx context.Context) {
	idle := time.NewTicker(max(s.p.o.ConfirmEvery, commitIdle))
	defer idle.Stop()
	tell := time.NewTicker(s.p.o.ConfirmEvery)
	defer tell.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tell.C:
			s.stream.Confirm(s.committed)
			s.p.o.Status.Confirmed(s.committed.LSN(), s.tracker.Unconfirmed() == 0)
			continue
		case <-idle.C:
		case <-s.sink.Begun():
			if !s.gather(ctx, last) {
				continue
			}
		}
		last = time.Now()
		if _, err := s.commitTransaction(s.giveUp); err != nil {
			s.stream.Interrupt(err)
			return
		}
	}
}

// gather waits until the transaction that has begun is to be ended. It returns
// false when there is none any more, or when ctx ends.
func (s *session) gather(ctx context.Context, last time.Time) bool {
	for {
		s.gate.Lock()
		age, n := s.sink.Age()
		s.gate.Unlock()
		quiet := s.sink.InFlight() == 0 && time.Since(last) >= commitPause
		if n == 0 || quiet || age >= commitAge || n >= commitEvents {
			return n > 0
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(gatherEvery):
		}
	}
}

// commitTransaction ends the transaction and opens the next. Reading goes on
// meanwhile; what it brings waits for the next transaction. After an error the
// sink is of no further use.
func (s *session) commitTransaction(ctx context.Context) (offsets.Position, error) {
	s.gate.Lock()
	s.tracker.Cut()
	s.sink.Seal()
	s.gate.Unlock()
	err := s.sink.Flush(ctx)
	at := *s.p.known
	if err == nil {
		at, err = s.committer.Commit(ctx)
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	if _, n := s.sink.Age(); err == nil && n > 0 {
		err = fmt.Errorf("%d events are in a transaction that no position follows", n)
	}
	switch {
	case err == nil:
		s.sink.Unseal()
	case ctx.Err() == nil:
		s.sink.Fail(err)
	}
	return at, err
}
