package connector

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"outboxd/internal/guarantee"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/sink"
)

// With exactly_once a backfill is one Kafka transaction. A snapshot ends with its
// connection, so that nobody can read the rest of one; what a crash leaves behind must
// therefore be nothing that a reader of committed records sees. The order:
//
//  1. The stored position is read, but for what an open transaction holds up: one that a
//     crash has left may last as long as a backfill, and only 3 ends it. One that is no mark
//     says that a backfill is done, or was never needed, and the slot decides as ever.
//  2. The snapshot is made. The name of its temporary slot is the lock: who has it is the
//     only one that makes a backfill.
//  3. The position is read again, since the former holder of the lock may have finished.
//     Then the transactional id is acquired, which aborts or completes what that one has
//     left, and the position is read once more: it cannot change any more.
//  4. The mark is committed: a position with Backfill, which says "begun".
//  5. All rows are sent in one transaction, and acknowledged.
//  6. The slot is made, as a copy of the temporary one.
//  7. The transaction is committed, with the position at which the slot begins.
//
// A crash before 7 leaves a transaction that is aborted, by the next start's 3 or by its
// time-out, and the mark. A crash between 6 and 7 leaves a slot, too: the mark says that it
// stands for nothing, so that the next start replaces it in its own 6. A slot without a mark
// or a position was made by somebody else, and says, as ever, that there is nothing to do.
// After 7 the position is the truth: a slot that is gone then is refused, not backfilled.

// backfillOnce is what a backfill with exactly_once has beside another.
type backfillOnce struct {
	p *Connector
	// marked says that the stored position is the mark of a backfill that is not done, on
	// this system.
	marked bool
	system string
}

// due reports whether the stored position leaves a backfill to do. The slot may still say
// that there is nothing.
func (o *backfillOnce) due(ctx context.Context) (bool, error) {
	return o.dueBy(ctx, o.p.o.Positions.LoadStable)
}

// dueBy is due by what load returns.
func (o *backfillOnce) dueBy(ctx context.Context, load func(context.Context) (*offsets.Position, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	stored, err := load(ctx)
	if err != nil {
		return false, &guarantee.StoreError{Err: err}
	}
	o.marked = stored != nil && stored.Backfill
	if o.marked && o.system != "" && stored.SystemID != o.system {
		o.marked = false // a start refuses it
		return false, nil
	}
	return stored == nil || o.marked, nil
}

// errBackfillAgain ends an attempt that another process has overtaken.
var errBackfillAgain = errors.New("another process has begun a backfill and not finished it; it begins again")

// slotExists is for a slot that says that nothing is to be backfilled: unless it was made
// just now, by a process that has not committed its rows.
func (o *backfillOnce) slotExists(ctx context.Context) error {
	if _, err := o.due(ctx); err != nil || !o.marked {
		return err
	}
	return errBackfillAgain
}

// begin does the steps 3 and 4, given that the snapshot is made. It reports whether there
// is still something to do.
func (o *backfillOnce) begin(ctx context.Context, at offsets.Position) (bool, error) {
	wasMarked := o.marked
	o.system = at.SystemID
	load := o.p.o.Positions.LoadStable
	for _, acquire := range []bool{false, true} {
		if acquire {
			if err := o.acquire(ctx); err != nil {
				return false, err
			}
			load = o.p.o.Positions.Load // nothing of ours is open any more
		}
		if due, err := o.dueBy(ctx, load); !due || err != nil {
			return false, err
		}
		if o.marked && !wasMarked {
			return false, errBackfillAgain // the snapshot was not told to replace the slot
		}
	}
	at.Backfill, at.Outbox = true, offsets.Outbox{}
	return true, o.save(ctx, at)
}

func (o *backfillOnce) acquire(ctx context.Context) error {
	err := o.p.acquire(ctx, o.p.o.BackfillTimeout)
	if errors.Is(err, kerr.InvalidTransactionTimeout) {
		return &sink.FailedError{Err: fmt.Errorf("the brokers allow no transaction of %s (outbox.backfill_timeout): %w; raise their transaction.max.timeout.ms, or lower outbox.backfill_timeout to it", o.p.o.BackfillTimeout, err)}
	}
	return err
}

// save commits the sink's transaction with a position.
func (o *backfillOnce) save(ctx context.Context, at offsets.Position) error {
	k := o.p.sink
	k.Seal()
	defer k.Unseal()
	if err := k.Flush(ctx); err != nil {
		return err
	}
	if err := o.p.o.Store.Save(ctx, at); err != nil {
		return &guarantee.StoreError{Err: fmt.Errorf("store position %s: %w", at, err)}
	}
	return nil
}

// commit is step 7. Nothing interrupts it but the end of what a stop may take: its outcome
// is to be known.
func (o *backfillOnce) commit(at offsets.Position) error {
	ctx, cancel := context.WithTimeout(o.p.limits.all, o.p.o.BackfillTimeout)
	defer cancel()
	return o.expired(o.save(ctx, at))
}

// end gives the sink back, whose transactions may take longer than those of a stream.
// What is not committed is aborted, so that readers need not wait for it; where that fails,
// the next start or the time-out does it. It may be called more than once.
func (o *backfillOnce) end() {
	if o.p.sink == nil {
		return
	}
	if _, events := o.p.sink.Age(); events > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		if err := o.p.sink.Abort(ctx); err != nil {
			o.p.log.Debug().Err(err).Msg("the transaction of the backfill could not be aborted, and ends by its time-out or at the next start")
		}
	}
	o.p.closeSink()
}

// expired makes an error that trying again would only repeat permanent.
func (o *backfillOnce) expired(err error) error {
	if err == nil || !errors.Is(err, sink.ErrExpired) || o.p.sink == nil {
		return err
	}
	if age, _ := o.p.sink.Age(); age < o.p.o.BackfillTimeout {
		return err
	}
	return &replication.Error{
		Err: fmt.Errorf("%w: the backfill was not done within %s, the time-out of its Kafka transaction, and nothing of it is published: %w",
			replication.ErrSetup, o.p.o.BackfillTimeout, err),
		Hint: "raise outbox.backfill_timeout, and the brokers' transaction.max.timeout.ms with it; or remove old rows first",
	}
}

// stopped is the end of a run during a backfill.
func (o *backfillOnce) stopped(sent, rows int64) error {
	o.p.log.Info().Int64("sent", sent).Int64("rows", rows).Msg("stopped during the backfill; nothing of it is published, and the next start publishes all rows")
	return nil
}
