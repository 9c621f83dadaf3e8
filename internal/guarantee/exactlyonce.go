package guarantee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/offsets"
	"outboxd/sink"
)

// With exactly_once, events are sent in Kafka transactions, and the position up
// to which they go is a record of the same transaction. A Kafka transaction holds
// many of PostgreSQL, or a part of a large one. The position is the only truth:
// after any doubt about a transaction the sink is abandoned, and the next one
// begins with what is committed.
//
// The order at a start keeps two processes apart (offsets.Decide holds to it):
//
//  1. The slot is looked at. While another connection streams from it, nothing
//     else is done: a process that waits disturbs nobody.
//  2. The transactional id is acquired (Acquire). From here on what an older process
//     has not committed is aborted for good, so that
//  3. the position that is read now cannot change any more.
//  4. Streaming begins at the position, also inside a transaction of PostgreSQL. Only
//     one process gets the slot.
//  5. The position is committed again, under this process's name: the claim.
//
// A process that is fenced reads the position's owner. If another has claimed
// since, it has been replaced, and ends. Otherwise it was the coordinator, which
// ends a transaction that takes too long (the process was suspended, the network
// gone), or a process that took the id and did not get the slot: it starts again.
// A third possibility, a program that has nothing to do with the slot and uses
// the same id, would repeat for ever, and so is counted, but not while two processes
// start and take it from each other, before the claim.

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
	ErrForeignID = errors.New("another program uses the same transactional id")
)

// Transactions is a sink that sends in transactions: see sink.Kafka.
type Transactions interface {
	Fence(ctx context.Context) error
	Begun() <-chan struct{}
	Age() (age time.Duration, events int)
	Lateness() time.Duration
	OneByOne() bool
	Seal()
	Unseal()
	Flush(ctx context.Context) error
	Commit(ctx context.Context, r *kgo.Record) error
	Newest() decoder.Position
	InFlight() int64
	Fail(err error)
}

// Positions keeps the positions in the transactions: see positions.Store.
type Positions interface {
	Owner() string
	Load(ctx context.Context) (*offsets.Position, error)
	LoadOwned(ctx context.Context) (p *offsets.Position, owner string, err error)
	Record(p offsets.Position) *kgo.Record
	Diagnose(ctx context.Context) error
}

// ExactlyOnce stores positions in the sink's transactions. It is an
// offsets.Store: a Save commits the transaction that is open, so that everything
// that holds for a stored position (it is stored before it is confirmed to PostgreSQL,
// and never goes back) holds for what is committed.
type ExactlyOnce struct {
	positions Positions
	slot, id  string
	owner     string       // this process, as it names itself in the positions
	sink      Transactions // the last one that was acquired
	claimed   bool         // the stored position was ours when we last knew
	claimDue  bool         // the sink is new, and the position not yet claimed
	// timeout is that of the next sink's transactions.
	timeout time.Duration
	// fences counts how often the id was taken by an unknown, since firstFence.
	fences     int
	firstFence time.Time
}

// NewExactlyOnce returns the guarantee of a slot and a transactional id.
func NewExactlyOnce(p Positions, slot, id string) *ExactlyOnce {
	return &ExactlyOnce{positions: p, slot: slot, id: id, owner: p.Owner()}
}

func (e *ExactlyOnce) Store() offsets.Store { return e }
func (e *ExactlyOnce) Transactional() bool  { return true }

// SharedStore is false: who has the id is the only one that writes.
func (e *ExactlyOnce) SharedStore() bool { return false }

func (e *ExactlyOnce) Unclaimed() bool { return e.claimDue }

// Configure leaves suspensions to the brokers' fencing.
func (e *ExactlyOnce) Configure(o *sink.Options, _ time.Duration) {
	e.timeout = max(e.timeout, o.TransactionTimeout)
	o.TransactionTimeout = e.timeout
}

// Load returns the committed position.
func (e *ExactlyOnce) Load(ctx context.Context) (*offsets.Position, error) {
	return e.positions.Load(ctx)
}

// Diagnose says why a position cannot be stored.
func (e *ExactlyOnce) Diagnose(ctx context.Context) error { return e.positions.Diagnose(ctx) }

// Save commits the sink's transaction with the position. The events in it must be
// exactly those up to the position.
func (e *ExactlyOnce) Save(ctx context.Context, at offsets.Position) error {
	newest := e.sink.Newest()
	if newest.CommitLSN >= at.LSN && offsets.Event(newest) != at.Inside {
		return &Doubt{fmt.Errorf("the transaction holds events up to %s, which the position does not tell", newest)}
	}
	if err := e.sink.Commit(ctx, e.positions.Record(at)); err != nil {
		return &Doubt{fmt.Errorf("store the position (delivery.topic): %w", err)}
	}
	e.claimed, e.claimDue = true, false
	return nil
}

// Acquire takes the transactional id.
func (e *ExactlyOnce) Acquire(ctx context.Context, k Transactions) error {
	e.sink, e.claimDue = k, true
	if err := k.Fence(ctx); err != nil {
		return &sink.FailedError{Err: err}
	}
	return nil
}

// Replaced makes the process stand by: the stored position is another's now.
func (e *ExactlyOnce) Replaced() { e.claimed = false }

// Check looks, after the sink has failed, whether another process has claimed the
// position.
func (e *ExactlyOnce) Check(ctx context.Context, known *offsets.Position) error {
	if !e.claimed {
		return nil
	}
	position, owner, err := e.positions.LoadOwned(ctx)
	if err != nil {
		return &StoreError{err}
	}
	if position == nil {
		// The outcome of the last transaction is known from here only.
		return fmt.Errorf("%w: the position of slot %q is no longer in its topic (delivery.topic): the topic was deleted or recreated, or its records were; "+
			"the last one that was surely committed is %s; the next start resumes at the slot's own position, and may publish again what came after that",
			offsets.ErrUnusable, e.slot, known)
	}
	if owner != e.owner {
		return fmt.Errorf("%w: the position of slot %q was claimed by another process with the transactional id %q (delivery.transactional_id), which publishes from here on; "+
			"if both are meant to run, give each its own slot and transactional id", ErrTakenOver, e.slot, e.id)
	}
	return nil
}

// Judge judges a failure of the sink: after our own time-out the next
// transactions get more time, and what was another's doing is counted.
func (e *ExactlyOnce) Judge(err error) error {
	if errors.Is(err, sink.ErrExpired) {
		e.timeout = min(2*max(e.timeout, sink.TransactionTimeout), longestTimeout)
	}
	if !errors.Is(err, sink.ErrFenced) || e.claimDue {
		return err // or two processes start, and neither has the slot yet
	}
	if time.Since(e.firstFence) > fencesWithin {
		e.fences, e.firstFence = 0, time.Now()
	}
	if e.fences++; e.fences < fencesAllowed {
		return err
	}
	return fmt.Errorf("%w: %q was taken %d times within %s, and not for slot %q; choose another delivery.transactional_id: %w",
		ErrForeignID, e.id, e.fences, time.Since(e.firstFence).Round(time.Second), e.slot, err)
}
