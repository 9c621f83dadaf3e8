package connector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/backfill"
	"outboxd/internal/deadletter"
	"outboxd/internal/flow"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/sink"
)

// backfill publishes the rows that were in the table before the slot, once: a slot
// that exists says that it is done. For what a crash leaves behind at each moment
// see replication.Snapshot.
//
// It returns nil when it is done, and when ctx has ended and nothing is published again
// because of that; else ErrUnclean.
func (p *Connector) backfill(ctx context.Context) error {
	if !p.o.Source.Backfill || p.known != nil {
		return nil
	}
	var once *backfillOnce
	if p.guarantee.Transactional() {
		once = &backfillOnce{p: p}
		if due, err := once.due(ctx); !due || err != nil {
			return err
		}
	}
	conn, err := p.open(ctx, p.o.Source)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.EndStale(ctx, p.backend); err != nil {
		return err
	}
	p.backend = conn.Backend()
	if once != nil && once.marked {
		conn.ReplaceSlot()
	}
	snapshot, err := conn.Snapshot(ctx)
	if err != nil {
		return err
	}
	if snapshot == nil {
		p.backfilled = 0
		if once != nil {
			return once.slotExists(ctx)
		}
		return nil
	}
	p.catalog, p.slotHoldTime = conn.Catalog(), conn.Keeps()
	at := backfilledTo(conn, p.o.Source.Slot, snapshot.At())
	// The snapshot may be of a later timeline than the connection was at first. It ends with
	// the connection, and MakeSlot with it, so that this is the same server.
	if err := p.follow(ctx, conn, 0); err != nil {
		return err
	}
	defer p.unfollow()
	if once != nil {
		defer once.end()
		if due, err := once.begin(ctx, at); !due || err != nil {
			return err
		}
	}
	reader, err := snapshot.Rows(ctx, p.o.Table, p.memory)
	if err != nil {
		return err
	}
	defer reader.Close()
	b, err := p.newBackfillSession(reader, once)
	if err != nil {
		return err
	}
	p.o.Status.Streaming(&status.Gauges{
		InFlightEvents: p.sink.InFlight,
		InFlightBytes:  p.inFlightBytes(),
		ReceivedLSN:    func() pglogrepl.LSN { return at.LSN },
		Confirmed:      func() pglogrepl.LSN { return 0 },
		OldestUnacked:  p.sink.Waiting,
		UnackedTopics:  p.sink.UnackedTopics,
		Alive:          time.Now, // what can be stuck is the server, or Kafka
	})
	p.o.Status.Backfill(reader.Expected(), b.published)
	defer p.o.Status.Stopped()
	p.log.Info().Int64("rows", reader.Expected()).Stringer("lsn", at.LSN).Msg("backfill begins")
	err = b.run(ctx, snapshot)
	if once == nil {
		p.backfilled = max(p.backfilled, reader.Handed())
	}
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		if once != nil {
			return once.stopped(reader.Handed(), reader.Expected())
		}
		return fmt.Errorf("%w: stopped during the backfill, %d of %d rows were published; the next start publishes all of them", ErrUnclean, b.published(), reader.Expected())
	}
	if err := snapshot.MakeSlot(ctx); err != nil {
		return err
	}
	p.backfilled = 0
	if p.timeline != nil {
		if at.Timeline, err = p.timeline.Now(ctx); err != nil {
			return err // the slot is there; if its own position counts, the stream begins at it
		}
	}
	if once != nil {
		if err := once.commit(at); err != nil {
			return err
		}
	}
	p.o.Status.Backfilled()
	p.log.Info().Int64("rows", reader.Expected()).Msg("backfill done")
	p.known = &at // from here on a slot that vanishes is not replaced
	return nil
}

// backfilledTo is the position of a backfill that is done.
func backfilledTo(conn Connection, slot string, lsn pglogrepl.LSN) offsets.Position {
	system, timeline := conn.System()
	outbox := conn.Outbox(offsets.Outbox{})
	outbox.Seen = lsn
	return offsets.Position{SystemID: system, Timeline: timeline, Slot: slot, LSN: lsn, Outbox: outbox}
}

// backfillSession publishes the rows of one snapshot.
type backfillSession struct {
	p       *Connector
	once    *backfillOnce // nil: at least once
	reader  *backfill.Reader
	flow    *flow.Flow
	sink    *sink.Kafka
	tracker *offsets.Tracker
}

func (p *Connector) newBackfillSession(reader *backfill.Reader, once *backfillOnce) (*backfillSession, error) {
	o, err := p.stages()
	if err != nil {
		return nil, err
	}
	p.published = decoder.Position{}
	// No position of these is confirmed to anybody: the tracker only counts.
	b := &backfillSession{p: p, once: once, reader: reader, sink: p.sink, tracker: offsets.NewTracker(0)}
	o.Source, o.Tracker = reader, b.tracker
	if len(p.refusedRows) > 0 {
		o.Router = rowsRefused{o.Router, p.refusedRows}
	}
	b.flow = flow.New(o)
	return b, nil
}

// published is how many rows need nothing more, of any goroutine.
func (b *backfillSession) published() int64 { return max(0, b.reader.Handed()-b.sink.InFlight()) }

// run publishes the rows and waits until Kafka has acknowledged them all. It
// returns nil also when ctx has ended and everything that was handed over is
// acknowledged.
func (b *backfillSession) run(ctx context.Context, snapshot Snapshot) error {
	var background sync.WaitGroup
	defer background.Wait()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	background.Go(func() {
		select {
		case <-b.sink.Failed():
			cancel(b.sink.Err())
		case <-inner.Done():
		}
	})
	background.Go(func() {
		if err := snapshot.Watch(inner); err != nil {
			cancel(err)
		}
	})
	background.Go(func() { b.progress(inner) })
	background.Go(func() { b.p.watch(inner, b.sink, nil) })

	err := b.readAll(inner)
	if err == nil {
		select {
		case <-b.tracker.Drained():
		case <-inner.Done():
			err = context.Cause(inner)
		}
	}
	switch {
	case b.sink.Err() != nil:
		return b.deliveryFailed()
	case errors.Is(err, flow.ErrPoison):
		b.deliver()
		return rowAdvised(err)
	case errors.Is(err, deadletter.ErrTooMany):
		b.deliver()
		return advised(err)
	case ctx.Err() != nil && b.once != nil:
		return nil // nothing of it counts
	case ctx.Err() != nil:
		if !b.deliver() {
			return fmt.Errorf("%w: %d events were sent and not acknowledged by Kafka; they are published again at the next start", ErrUnclean, b.sink.InFlight())
		}
		return nil
	case err != nil && context.Cause(inner) != nil:
		return context.Cause(inner) // what made the reader end
	}
	return err
}

func (b *backfillSession) readAll(ctx context.Context) error {
	stop := context.AfterFunc(ctx, b.reader.Within(ctx).Interrupt)
	defer stop()
	b.sink.WaitWith(func(done <-chan struct{}) error {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	defer b.sink.WaitWith(nil)
	return b.flow.Run()
}

// deliver waits for what was handed over, as long as a stop may take, where that counts.
func (b *backfillSession) deliver() bool {
	if b.once != nil {
		return true
	}
	select {
	case <-b.tracker.Drained():
		return true
	case <-b.sink.Failed():
	case <-time.After(b.p.o.DrainTimeout):
	case <-b.p.limits.acks.Done():
	}
	return false
}

// deliveryFailed ends the sink; the backfill restarts from its beginning with another.
func (b *backfillSession) deliveryFailed() error {
	b.tracker.Fail()
	err := b.sink.Err()
	if b.once != nil {
		err = b.once.expired(err)
		b.once.end()
	}
	b.p.replaceSink(settleLimit)
	if failed := (*sink.FailedError)(nil); errors.Is(err, sink.ErrUndeliverable) && errors.As(err, &failed) {
		if b.p.refusedRow(failed) {
			return &sink.FailedError{Err: fmt.Errorf("%v; the backfill restarts, and sets this row aside", err)}
		}
		return rowAdvised(&flow.PoisonError{Position: failed.Position, Err: err})
	}
	return err
}

// rowAdvised adds to the error of a row of the backfill what to do about it. Its position
// is that of this snapshot: no other start has it, so that it selects nothing.
func rowAdvised(err error) error {
	return &replication.Error{Err: err, Hint: "it is a row of the backfill: fix or delete it, and start again; the backfill then restarts from its beginning"}
}

// progressEvery is how often the log says how far the backfill is.
const progressEvery = 5 * time.Second

func (b *backfillSession) progress(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.p.log.Info().Int64("published", b.published()).Int64("rows", b.reader.Expected()).Msg("backfill goes on")
		}
	}
}
