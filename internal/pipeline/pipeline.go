// Package pipeline joins the stages: it starts them, moves events from the WAL
// to Kafka, drains, stops, and tries again after a fault.
//
// Data moves one way, on one goroutine: the replication stream's next frame is
// decoded, routed and handed to the sink. Nothing on that way waits for Kafka;
// the stream itself waits when too many bytes are unacknowledged, and keeps the
// server informed meanwhile. Acknowledgements come back on the Kafka client's
// goroutine to the tracker, from where the committer takes the newest safe
// position to the store and to PostgreSQL.
//
// A session is one replication connection. A fault of PostgreSQL ends the
// session only: what was sent is waited for, and the next session goes on behind
// it. A failed delivery ends the session and the sink: the next session starts
// again from the last confirmed position. What exactly_once adds is told in
// exactlyonce.go.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

// Options join the options of the stages.
type Options struct {
	Source replication.Options
	Table  decoder.Table
	Rules  router.Rules
	Sink   sink.Options
	Store  offsets.Store // nil: the slot is the only store
	// Positions makes delivery exactly once, with the positions kept here. The
	// sink's options name a transactional id, and Store is nil.
	Positions    *positions.Store
	ConfirmEvery time.Duration
	RetryMin     time.Duration
	RetryMax     time.Duration
	DrainTimeout time.Duration // how long a stop waits for acknowledgements
	MemoryLimit  int64         // bytes of events that are not yet acknowledged
	// AcceptGap goes on from the slot when the stored position is refused.
	AcceptGap bool
	Log       zerolog.Logger
	Status    *status.Status
}

// Pipeline runs one outbox. Its fields belong to the goroutine of Run.
type Pipeline struct {
	o   Options
	log zerolog.Logger

	// known is the last confirmed position, nil before the first session.
	known  *offsets.Position
	loaded bool // known was looked for in the store
	// exactly is nil with at-least-once delivery.
	exactly *exactlyOnce
	// refused is the event that Kafka refused for ever, and aborted with it what
	// came before it in its transaction: that is sent again, without it.
	refused *sink.FailedError
	// shared says that another process may have confirmed more than known: at
	// first, and since the slot was seen in use by another connection.
	shared bool
	// sink is nil when the last one failed. memory holds the bytes of its
	// events, and is given up with it.
	sink   *sink.Kafka
	memory *replication.Memory
	// published is the last event handed to sink. A session that follows on a
	// fault of PostgreSQL skips what is not after it: a transaction read in part
	// is sent again from its beginning.
	published decoder.Position
	// backend is the server process of the last session, catalog its database.
	backend replication.Backend
	catalog replication.Catalog
}

// New returns a pipeline that is not running.
func New(o Options) *Pipeline {
	o.Sink.OnAck = o.Status.Acked
	p := &Pipeline{o: o, log: o.Log, shared: true}
	if o.Positions != nil {
		p.exactly = newExactlyOnce(p, o.Positions)
		p.o.Store = p.exactly
	}
	return p
}

// ErrUnclean is returned by a stop that had to leave events unacknowledged or
// the position unconfirmed: they are published again at the next start.
var ErrUnclean = errors.New("stopped before everything was acknowledged and confirmed")

// Run streams until ctx ends, and then drains. hurry ends the drain. Transient
// faults are retried without end; an error that is returned needs an operator.
func (p *Pipeline) Run(ctx context.Context, hurry context.Context) error {
	defer func() {
		if p.sink != nil {
			p.sink.Close()
		}
	}()
	wait := backoff{min: p.o.RetryMin, max: p.o.RetryMax}
	for {
		started := time.Now()
		err := p.exactly.fenced(p.session(ctx, hurry))
		if err == nil || permanent(err) || errors.Is(err, ErrUnclean) {
			return err
		}
		if ctx.Err() != nil {
			// Stopped while a fault kept the session from ending in order.
			p.log.Warn().Err(err).Msg("stopped during a fault; events after the slot's own position are published again at the next start")
			return nil
		}
		if time.Since(started) > p.o.RetryMax {
			wait.reset()
		}
		delay := wait.next()
		if errors.Is(err, replication.ErrSlotActive) {
			// Someone else's end is noticed soon.
			delay = min(delay, time.Second)
		}
		p.o.Status.Fault(side(err), err)
		p.log.Warn().Err(err).Stringer("retry_in", delay.Round(time.Millisecond)).Msg("not streaming")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// permanent tells the errors that trying again cannot mend.
func permanent(err error) bool {
	var refused *offsets.RefusedError
	return errors.As(err, &refused) ||
		errors.Is(err, replication.ErrSetup) ||
		errors.Is(err, decoder.ErrProtocol) ||
		errors.Is(err, offsets.ErrUnusable) ||
		errors.Is(err, ErrTakenOver) ||
		errors.Is(err, errForeignID) ||
		errors.Is(err, ErrPoison)
}

// side tells who had a fault, for the metrics.
func side(err error) string {
	var failed *sink.FailedError
	if errors.As(err, &failed) {
		return "kafka"
	}
	return "postgres"
}

// backoff is exponential with jitter.
type backoff struct{ min, max, last time.Duration }

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, b.min), b.max)
	return b.last/2 + rand.N(b.last/2+1)
}

// session opens one replication connection and streams over it until ctx ends
// (nil, or ErrUnclean) or a fault.
func (p *Pipeline) session(ctx, hurry context.Context) error {
	if p.sink == nil {
		p.memory, p.published = replication.NewMemory(p.o.MemoryLimit), decoder.Position{}
	}
	if err := p.exactly.check(ctx); err != nil {
		return err
	}
	if p.exactly == nil && !p.loaded {
		if err := p.load(ctx); err != nil {
			return err
		}
	}
	stream, err := p.connect(ctx)
	if err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return nil
		}
		return err
	}
	table := p.o.Table
	table.Domains = p.catalog.Domains
	rules := p.o.Rules
	rules.Source = source(p.catalog.Database, p.o.Table)
	rt, err := router.New(rules)
	if err != nil {
		stream.Close()
		return err
	}
	if p.sink == nil {
		if err := p.openSink(p.catalog.Database); err != nil {
			stream.Close()
			return err
		}
	}
	if inside := decoder.Position(p.known.Inside); inside.After(p.published) {
		p.published = inside
	}
	s := &session{
		p:       p,
		stream:  stream,
		decoder: decoder.New(table),
		router:  rt,
		sink:    p.sink,
		tracker: offsets.NewTrackerInside(p.known.LSN, p.known.Inside),
	}
	tell := stream.Confirm
	if p.exactly != nil {
		tell = func(c offsets.Confirmed) { s.committed = c }
	}
	s.committer = offsets.NewCommitter(s.tracker, p.o.Store, *p.known, tell)
	p.o.Status.Streaming(&status.Gauges{
		InFlightEvents: p.sink.InFlight,
		InFlightBytes:  p.memory.Used,
		ReceivedLSN:    stream.Received,
		Confirmed:      func() pglogrepl.LSN { return s.tracker.Confirmed().LSN() },
		OldestUnacked:  p.sink.Waiting,
	})
	return s.run(ctx, hurry)
}

func (p *Pipeline) openSink(database string) (err error) {
	o := p.o.Sink
	o.Value.Source = source(database, p.o.Table)
	p.sink, err = sink.New(o)
	return err
}

// source is the CloudEvents source of an outbox: /database/schema.table, a
// reference as RFC 3986 has it.
func source(database string, t decoder.Table) string {
	return "/" + url.PathEscape(database) + "/" + url.PathEscape(t.Schema) + "." + url.PathEscape(t.Name)
}

// connect opens the connection, decides where to resume, and starts to stream.
func (p *Pipeline) connect(ctx context.Context) (*replication.Stream, error) {
	conn, err := replication.Connect(ctx, p.o.Source)
	if err != nil {
		return nil, err
	}
	stream, err := p.start(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	p.backend, p.catalog = conn.Backend(), conn.Catalog()
	p.log.Info().Stringer("lsn", p.known.LSN).Str("slot", p.o.Source.Slot).Msg("streaming")
	return stream, nil
}

func (p *Pipeline) start(ctx context.Context, conn *replication.Conn) (*replication.Stream, error) {
	if err := conn.EndStale(ctx, p.backend); err != nil {
		return nil, err
	}
	// A slot is made only where no position is stored.
	server, err := conn.Prepare(ctx, p.loaded && p.known == nil || p.o.AcceptGap)
	if err == nil && server.Slot == nil && !p.loaded {
		if err = p.load(ctx); err == nil {
			server, err = conn.Prepare(ctx, p.known == nil)
		}
	}
	if err != nil {
		return nil, err
	}
	if p.exactly != nil && server.Slot != nil && (p.shared || p.sink == nil) {
		if server.Slot.Active {
			p.shared, p.exactly.claimed = true, false
			return nil, replication.SlotInUse(errors.New("it is active"))
		}
		if err := p.exactly.take(ctx, conn.Catalog().Database); err != nil {
			return nil, err
		}
		p.shared = true // the position may be another than we know
	}
	if p.shared && server.Slot != nil {
		// Read after the slot and before the end of the WAL: another process
		// that confirms meanwhile stores a position before the slot has it and
		// after the WAL does, so neither can seem to contradict the store.
		if err := p.load(ctx); err != nil {
			return nil, err
		}
		if server.FlushLSN, err = conn.Flushed(ctx); err != nil {
			return nil, err
		}
	}
	start, err := offsets.Resume(p.known, server)
	switch {
	case errors.Is(err, offsets.ErrSlotAhead) && server.Slot.Active:
		// Another process has taken over while we were cut off.
		p.shared = true
		return nil, replication.SlotInUse(fmt.Errorf("it was confirmed up to %s meanwhile", server.Slot.ConfirmedFlush))
	case err != nil && (!p.o.AcceptGap || errors.Is(err, offsets.ErrSlotGone) || errors.Is(err, offsets.ErrSlotInvalid)):
		return nil, err // there is nothing to go on from
	case err != nil:
		start = server.Slot.ConfirmedFlush
	}
	known := offsets.Position{SystemID: server.SystemID, Timeline: server.Timeline, Slot: p.o.Source.Slot, LSN: start}
	if err == nil && p.known != nil {
		known.Inside = p.known.Inside
	}
	changed := p.known == nil || *p.known != known || p.exactly != nil && p.exactly.claimDue
	p.known = &known // also if the next step fails: from here on a slot that vanishes is not replaced
	stream, startErr := conn.Start(ctx, start, p.memory)
	if startErr != nil {
		p.shared = p.shared || errors.Is(startErr, replication.ErrSlotActive)
		return nil, startErr
	}
	if err != nil {
		p.log.Warn().Err(err).Stringer("from", start).
			Msg("going on from the slot's own position; events before it that were not published are skipped (--accept-gap)")
		p.published = decoder.Position{}
	}
	// Only who has the slot may write the store: another process may still
	// have written newer positions until now.
	if p.o.Store != nil && changed {
		saving, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if err := p.o.Store.Save(saving, known); err != nil {
			stream.Close()
			p.giveUpSink()
			return nil, fmt.Errorf("store position %s: %w", known, err)
		}
	}
	p.shared = false
	p.o.AcceptGap = false // it is for the start only
	return stream, nil
}

// storeTimeout bounds a save while nothing else goes on.
const storeTimeout = 10 * time.Second

// giveUpSink makes the next session begin with a new sink, if the one there is
// can have lost its transaction.
func (p *Pipeline) giveUpSink() {
	if p.exactly != nil && p.sink != nil {
		p.sink.Close()
		p.sink = nil
	}
}

// load makes known what the store holds: nil when there is nothing or no store.
func (p *Pipeline) load(ctx context.Context) error {
	if p.o.Store == nil {
		p.known = nil
	} else {
		known, err := p.o.Store.Load(ctx)
		if err != nil {
			return err
		}
		p.known = known
	}
	p.loaded = true
	return nil
}
