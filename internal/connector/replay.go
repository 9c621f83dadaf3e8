package connector

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/guarantee"
	"outboxd/internal/replay"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/sink"
)

// Replay publishes the events of a past window once more.
type Replay struct {
	From pglogrepl.LSN // commit LSN, inclusive; 0: as far back as the slot goes
	To   pglogrepl.LSN // commit LSN, exclusive; 0: the end of the WAL
	// DryRun only counts.
	DryRun bool
}

// Replayed is what a replay did.
type Replayed struct {
	From, To     pglogrepl.LSN
	Transactions int // with events that were published
	Events       int
}

// Replay reads the window from a temporary copy of the slot and publishes its
// events, beside a connector that runs and without touching its slot or position.
// It returns when Kafka has acknowledged all of them; what it returns with an
// error was sent, and may have arrived. The connector is of no further use.
func (p *Connector) Replay(ctx context.Context, r Replay) (Replayed, error) {
	// The transactional id is the running connector's, which would lose it.
	p.guarantee, p.o.Sink.TransactionalID = guarantee.NewAtLeastOnce(nil), ""
	p.o.Format.Replayed = true
	p.format = format.New(p.o.Format)
	conn, err := p.open(ctx, p.o.Source)
	if err != nil {
		return Replayed{}, err
	}
	done, stream, err := p.startReplay(ctx, conn, r)
	if err != nil {
		conn.Close()
		return Replayed{}, err
	}
	defer stream.Close()
	p.catalog = conn.Catalog()
	o, err := p.stages()
	if err != nil {
		return Replayed{}, err
	}
	defer p.closeSink()
	rs := &replaySession{p: p, stream: stream, sink: p.sink, counter: &replay.Counter{Sink: p.sink, Dry: r.DryRun}}
	rs.tracker = offsets.NewTracker(done.From) // it only tells when everything is acknowledged
	o.Source, o.Sink, o.Tracker, o.Discarded = replay.New(stream, done.From, done.To), rs.counter, rs.tracker, nil
	rs.flow = flow.New(o)
	err = rs.run(ctx)
	done.Transactions, done.Events = rs.counter.Transactions, rs.counter.Events
	return done, err
}

func (p *Connector) startReplay(ctx context.Context, conn Connection, r Replay) (Replayed, Stream, error) {
	p.memory = replication.NewMemory(p.o.MemoryLimit)
	server, err := conn.Inspect(ctx)
	if err != nil {
		return Replayed{}, nil, err
	}
	window, err := offsets.WindowOf(server)
	if err != nil {
		return Replayed{}, nil, err
	}
	done, err := r.within(window)
	if err != nil {
		return Replayed{}, nil, err
	}
	// From the slot's own position, which is the end of a transaction; what comes
	// before the window is passed over here.
	stream, err := conn.StartCopy(ctx, window.From, p.memory)
	return done, stream, err
}

// within is what the replay has to do in what the server can decode.
func (r Replay) within(window offsets.Window) (Replayed, error) {
	done := Replayed{From: r.From, To: r.To}
	if done.From == 0 {
		done.From = window.From
	}
	if done.To == 0 {
		done.To = window.To
	}
	return done, errors.Join(window.Contains(done.From), window.Contains(done.To))
}

// replaySession publishes a past window and confirms nothing.
type replaySession struct {
	p       *Connector
	stream  Stream
	flow    *flow.Flow
	sink    *sink.Kafka
	counter *replay.Counter
	tracker *offsets.Tracker
}

// run publishes the window and waits until Kafka has acknowledged all of it.
func (r *replaySession) run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	background.Go(func() {
		select {
		case <-ctx.Done():
			r.stream.Interrupt(context.Cause(ctx))
		case <-r.sink.Failed():
			r.stream.Interrupt(r.sink.Err())
		case <-inner.Done():
		}
	})
	background.Go(func() { r.p.watch(inner, r.sink, nil) })
	r.sink.WaitWith(func(done <-chan struct{}) error { return r.stream.Serve(ctx, done) })
	if err := r.flow.Run(); err != nil {
		return replication.Explain(err, r.p.o.Source)
	}
	select {
	case <-r.tracker.Drained():
	case <-r.sink.Failed():
	case <-ctx.Done():
		return fmt.Errorf("stopped; %d events were sent and not acknowledged", r.sink.InFlight())
	}
	return r.sink.Err()
}
