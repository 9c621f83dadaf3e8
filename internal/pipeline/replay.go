package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/replication"
	"outboxd/offsets"
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
// error was sent, and may have arrived. The pipeline is of no further use.
func (p *Pipeline) Replay(ctx context.Context, r Replay) (Replayed, error) {
	// The transactional id is the connector's, which would lose it.
	p.exactly, p.o.Sink.TransactionalID = nil, ""
	p.o.Rules.Replayed = true
	conn, err := replication.Connect(ctx, p.o.Source)
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
	s, err := p.stages()
	if err != nil {
		return Replayed{}, err
	}
	defer p.closeSink()
	s.stream, s.blocks = stream, stream
	s.tracker = offsets.NewTracker(done.From) // it only tells when everything is acknowledged
	rp := &replaying{session: s, dryRun: r.DryRun, done: done}
	err = rp.run(ctx)
	return rp.done, err
}

func (p *Pipeline) startReplay(ctx context.Context, conn *replication.Conn, r Replay) (Replayed, *replication.Stream, error) {
	p.memory = replication.NewMemory(p.o.MemoryLimit)
	server, err := conn.Prepare(ctx, false)
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

// replaying is a session that reads a past window and confirms nothing.
type replaying struct {
	*session
	dryRun  bool
	commit  pglogrepl.LSN // of the open transaction
	counted bool          // the open transaction is in done
	done    Replayed
}

// run publishes the window and waits until Kafka has acknowledged all of it.
func (r *replaying) run(ctx context.Context) error {
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
	background.Go(func() { r.watch(inner) })
	if err := r.readAll(); err != nil {
		return err
	}
	select {
	case <-r.tracker.Drained():
	case <-r.sink.Failed():
	case <-ctx.Done():
		return fmt.Errorf("stopped; %d events were sent and not acknowledged", r.sink.InFlight())
	}
	return r.sink.Err()
}

// readAll reads up to the end of the window.
func (r *replaying) readAll() error {
	for {
		frame, err := r.stream.Next()
		if err != nil {
			return replication.Explain(err, r.p.o.Source)
		}
		if frame.Kind == replication.Keepalive {
			if r.tx == nil && frame.WALEnd >= r.done.To {
				return nil
			}
			continue
		}
		kind, err := r.decoder.Decode(frame.Data)
		if err != nil && !errors.Is(err, decoder.ErrRow) {
			return fmt.Errorf("decode at %s: %w", r.decoder.Position(), err)
		}
		switch kind {
		case decoder.Begin:
			if r.commit = r.decoder.Position().CommitLSN; r.commit >= r.done.To {
				return nil
			}
			r.tx, r.counted = r.tracker.Begin(), false
		case decoder.Insert:
			if r.commit < r.done.From {
				continue
			}
			ev := r.decoder.Event()
			if err == nil {
				err = r.again(ev)
			}
			if err != nil {
				return fmt.Errorf("event id %.200q at position %s: %w", ev.Values[decoder.ID], ev.Position, err)
			}
		case decoder.Commit:
			r.tx.Commit(r.decoder.CommitEnd())
			r.tx = nil
		}
	}
}

// again routes one event, counts it and, but in a dry run, sends it.
func (r *replaying) again(ev *decoder.Event) error {
	d := r.sink.Next()
	if err := r.router.Route(ev, &d.Message); err != nil {
		return err
	}
	if d.Topic == "" {
		r.sink.Return()
		return nil // discarded by a rule
	}
	if !r.counted {
		r.counted = true
		r.done.Transactions++
	}
	r.done.Events++
	if r.dryRun {
		r.sink.Return()
		return nil
	}
	return r.send(ev, d)
}
