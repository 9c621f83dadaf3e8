package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/router"
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
// error was sent, and may have arrived.
func (p *Pipeline) Replay(ctx context.Context, r Replay) (Replayed, error) {
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
	stop := context.AfterFunc(ctx, func() { stream.Interrupt(context.Cause(ctx)) })
	defer stop()
	rp, err := p.newReplaying(conn.Catalog(), stream, done, r.DryRun)
	if err != nil {
		return Replayed{}, err
	}
	defer rp.sink.Close()
	if err := rp.run(ctx); err != nil {
		return rp.done, err
	}
	return rp.done, rp.settle(ctx)
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
	done := Replayed{From: r.From, To: r.To}
	if done.From == 0 {
		done.From = window.From
	}
	if done.To == 0 {
		done.To = window.To
	}
	if err := errors.Join(window.Contains(done.From), window.Contains(done.To)); err != nil {
		return Replayed{}, nil, err
	}
	// From the slot's own position, which is the end of a transaction; what comes
	// before the window is passed over here.
	stream, err := conn.StartCopy(ctx, window.From, p.memory)
	return done, stream, err
}

// replaying is a replay under way. It belongs to one goroutine.
type replaying struct {
	p       *Pipeline
	stream  *replication.Stream
	decoder *decoder.Decoder
	router  *router.Router
	sink    *sink.Kafka
	tracker *offsets.Tracker // only tells when everything is acknowledged
	dryRun  bool

	tx      *offsets.Transaction
	commit  pglogrepl.LSN // of the open transaction
	counted bool
	done    Replayed
}

func (p *Pipeline) newReplaying(catalog replication.Catalog, stream *replication.Stream, done Replayed, dryRun bool) (*replaying, error) {
	rules, table, kafka := p.o.Rules, p.o.Table, p.o.Sink
	kafka.TransactionalID = "" // the connector's, which it would take away
	rules.Replayed, rules.Source = true, source(catalog.Database, table)
	rules.Attributes = attributes(table, catalog)
	table.Domains, kafka.Value.Source = catalog.Domains, rules.Source
	if kafka.Value.Connect != nil {
		kafka.Value.Connect.Attributes = rules.Attributes
	}
	rt, err := router.New(rules)
	if err != nil {
		return nil, err
	}
	k, err := sink.New(kafka)
	if err != nil {
		return nil, err
	}
	return &replaying{
		p: p, stream: stream, dryRun: dryRun, done: done,
		decoder: decoder.New(table), router: rt, sink: k,
		tracker: offsets.NewTracker(done.From),
	}, nil
}

// run reads up to the end of the window.
func (r *replaying) run(ctx context.Context) error {
	defer r.interruptOnFailure()()
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
				err = r.publish(ev)
			}
			if err != nil {
				return fmt.Errorf("event id %q at position %s: %w", clip(ev.Values[decoder.ID]), ev.Position, err)
			}
		case decoder.Commit:
			r.tx.Commit(r.decoder.CommitEnd())
			r.tx = nil
		}
	}
}

// interruptOnFailure ends reading when a delivery fails.
func (r *replaying) interruptOnFailure() (stop func()) {
	inner, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-r.sink.Failed():
			r.stream.Interrupt(r.sink.Err())
		case <-inner.Done():
		}
	}()
	return cancel
}

func (r *replaying) publish(ev *decoder.Event) error {
	d := r.sink.Next()
	if err := r.router.Route(ev, &d.Message); err != nil {
		return err
	}
	if d.Topic == "" {
		r.sink.Return(d)
		return nil // discarded by a rule
	}
	if !r.counted {
		r.counted = true
		r.done.Transactions++
	}
	r.done.Events++
	if r.dryRun {
		r.sink.Return(d)
		return nil
	}
	block := r.stream.Block()
	block.Retain()
	r.tx = r.tx.Add(offsets.Event(ev.Position))
	d.Receipt, d.Memory = r.tx, block
	return r.sink.Send(ev, d)
}

// settle waits for Kafka's acknowledgements. Until they come it says why not.
func (r *replaying) settle(ctx context.Context) error {
	drained := r.tracker.Drained()
	for {
		select {
		case <-drained:
			return r.sink.Err()
		case <-r.sink.Failed():
			return r.sink.Err()
		case <-ctx.Done():
			return fmt.Errorf("stopped; %d events were sent and not acknowledged", r.sink.InFlight())
		case <-time.After(stallAfter):
			if waiting := r.sink.Waiting(); waiting > stallAfter {
				r.p.log.Warn().AnErr("cause", r.sink.Diagnose(ctx)).Stringer("for", waiting.Round(time.Second)).Msg("Kafka acknowledges nothing; waiting")
			}
		}
	}
}
