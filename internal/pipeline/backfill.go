package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/backfill"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/sink"
)

// backfill publishes the rows that were in the table before the slot, once: a slot
// that exists says that it is done. What a crash leaves behind at each moment is
// told in replication.Snapshot.
//
// It returns nil when it is done, and when ctx has ended.
func (p *Pipeline) backfill(ctx, hurry context.Context) error {
	if !p.o.Source.Backfill || p.known != nil {
		return nil
	}
	conn, err := replication.Connect(ctx, p.o.Source)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.EndStale(ctx, p.backend); err != nil {
		return err
	}
	p.backend = conn.Backend()
	snapshot, err := conn.Snapshot(ctx)
	if snapshot == nil || err != nil {
		return err
	}
	p.catalog, p.keeps = conn.Catalog(), conn.Keeps()
	reader, err := p.openSnapshot(ctx, snapshot)
	if err != nil {
		return err
	}
	defer reader.Close()
	s, err := p.stages()
	if err != nil {
		return err
	}
	s.blocks = reader
	// No position of these is confirmed to anybody: the tracker only counts.
	s.tracker = offsets.NewTracker(0)
	p.published = decoder.Position{}

	b := &filling{session: s, reader: reader}
	p.o.Status.Streaming(&status.Gauges{
		InFlightEvents: p.sink.InFlight,
		InFlightBytes:  p.memory.Used,
		ReceivedLSN:    func() pglogrepl.LSN { return snapshot.LSN },
		Confirmed:      func() pglogrepl.LSN { return 0 },
		OldestUnacked:  p.sink.Waiting,
		Alive:          time.Now, // what can be stuck is the server, or Kafka
	})
	p.o.Status.Backfill(reader.Expected(), b.published)
	defer p.o.Status.Stopped()
	p.log.Info().Int64("rows", reader.Expected()).Stringer("lsn", snapshot.LSN).Msg("backfill begins")
	if err := b.run(ctx, hurry, snapshot); err != nil {
		return err
	}
	if ctx.Err() != nil {
		p.log.Info().Msg("stopped during the backfill; the next start begins it anew")
		return nil
	}
	if err := snapshot.MakeSlot(ctx); err != nil {
		return err
	}
	p.o.Status.Backfilled()
	p.log.Info().Int64("rows", reader.Expected()).Msg("backfill done")
	// From here on a slot that vanishes is not replaced.
	system, timeline := conn.System()
	p.known = &offsets.Position{SystemID: system, Timeline: timeline, Slot: p.o.Source.Slot, LSN: snapshot.LSN}
	return nil
}

func (p *Pipeline) openSnapshot(ctx context.Context, snapshot *replication.Snapshot) (*backfill.Reader, error) {
	filter, err := snapshot.Filter(ctx)
	if err != nil {
		return nil, err
	}
	pg, err := snapshot.Open(ctx)
	if err != nil {
		return nil, err
	}
	columns := p.o.Table.Columns
	o := backfill.Options{
		Schema: p.o.Table.Schema, Table: p.o.Table.Name, Filter: filter, Slot: snapshot.LSN,
		Timestamp: columns[decoder.Timestamp].Name, ID: columns[decoder.ID].Name,
	}
	for _, c := range columns {
		if c.Name != "" && !slices.Contains(o.Columns, c.Name) {
			o.Columns = append(o.Columns, c.Name)
		}
	}
	return backfill.Open(ctx, pg, o, p.memory)
}

// filling is a session whose frames come from a snapshot.
type filling struct {
	*session
	reader *backfill.Reader
	handed atomic.Int64 // rows
}

// published is how many rows need nothing more, of any goroutine.
func (b *filling) published() int64 { return max(0, b.handed.Load()-b.sink.InFlight()) }

// run publishes the rows and waits until Kafka has acknowledged them all. It
// returns nil also when ctx has ended and everything that was handed over is
// acknowledged.
func (b *filling) run(ctx, hurry context.Context, snapshot *replication.Snapshot) error {
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
	background.Go(func() { b.watch(inner) })

	err := b.readAll(inner)
	if err == nil {
		drained := b.tracker.Drained()
		select {
		case <-drained:
		case <-inner.Done():
			err = context.Cause(inner)
		}
	}
	switch {
	case b.sink.Err() != nil:
		return b.deliveryFailed()
	case errors.Is(err, ErrPoison):
		b.deliver(hurry)
		var advised *replication.Error
		if errors.As(err, &advised) {
			advised.Hint = "it is a row of the backfill: mend or delete it, and start again; the backfill begins anew"
		}
		return err
	case ctx.Err() != nil:
		if !b.deliver(hurry) {
			return b.undelivered()
		}
		return nil
	case err != nil && context.Cause(inner) != nil:
		return context.Cause(inner) // what made the reader end
	}
	return err
}

func (b *filling) readAll(ctx context.Context) error {
	stop := context.AfterFunc(ctx, b.reader.Interrupt)
	defer stop()
	for {
		frame, err := b.reader.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := b.handle(frame); err != nil {
			return err
		}
		if frame[0] == 'I' {
			b.handed.Add(1)
		}
	}
}

// deliver waits for what was handed over, as long as a stop may take.
func (b *filling) deliver(hurry context.Context) bool {
	select {
	case <-b.tracker.Drained():
		return true
	case <-b.sink.Failed():
	case <-time.After(b.p.o.DrainTimeout):
	case <-hurry.Done():
	}
	return false
}

// deliveryFailed ends the sink; the backfill begins anew with another.
func (b *filling) deliveryFailed() error {
	b.tracker.Fail()
	err := b.sink.Err()
	b.p.closeSink()
	if errors.Is(err, sink.ErrUndeliverable) {
		return fmt.Errorf("%w: %w", ErrPoison, err)
	}
	return err
}

// progressEvery is how often the log says how far the backfill is.
const progressEvery = 5 * time.Second

func (b *filling) progress(ctx context.Context) {
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
