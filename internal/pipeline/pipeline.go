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
// session only: what was sent is waited for, not too long, and the next session
// goes on behind it; so does a fault of the schema registry, which an event has to
// wait for. A failed delivery ends the session and the sink: the next session starts
// again from the last confirmed position. What exactly_once adds is told in
// exactlyonce.go.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
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
	// Rewind is how much of the past is kept in the WAL; it needs a store.
	Rewind offsets.Rewind
	// From is the commit LSN to start at instead of the stored position; 0: none.
	From   pglogrepl.LSN
	Log    zerolog.Logger
	Status *status.Status
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
	// keeps is how long the server keeps the slot for us if we are stopped.
	keeps time.Duration
	// stray warns once of messages that are not events.
	stray sync.Once
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
	defer p.closeSink()
	go p.watchSlot(ctx)
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
		errors.Is(err, ErrPoison) ||
		errors.Is(err, sink.ErrSchemaRefused)
}

// side tells who had a fault, for the metrics.
func side(err error) string {
	var failed *sink.FailedError
	if errors.As(err, &failed) {
		return "kafka"
	}
	var registry *sink.RegistryError
	if errors.As(err, &registry) {
		return "registry"
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
	if err := p.backfill(ctx, hurry); err != nil || ctx.Err() != nil {
		return stopped(ctx, err)
	}
	stream, err := p.connect(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	if inside := decoder.Position(p.known.Inside); inside.After(p.published) {
		p.published = inside
	}
	s, err := p.stages()
	if err != nil {
		stream.Close()
		return err
	}
	s.stream, s.blocks = stream, stream
	s.tracker = offsets.NewTrackerInside(p.known.LSN, p.known.Inside)
	tell := stream.Confirm
	if p.exactly != nil {
		tell = func(c offsets.Confirmed) { s.committed = c }
	}
	s.committer = offsets.NewCommitter(s.tracker, p.o.Store, *p.known, tell)
	s.committer.HoldBack(p.o.Rewind)
	p.o.Status.Streaming(&status.Gauges{
		InFlightEvents: p.sink.InFlight,
		InFlightBytes:  p.memory.Used,
		ReceivedLSN:    stream.Received,
		Confirmed:      func() pglogrepl.LSN { return s.tracker.Confirmed().LSN() },
		OldestUnacked:  p.sink.Waiting,
		Alive:          stream.Alive,
	})
	return s.run(ctx, hurry)
}

// stopped returns nil for an error that only says that ctx has ended.
func stopped(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// stages returns a session that has its stages and no source of frames yet.
func (p *Pipeline) stages() (*session, error) {
	table := p.o.Table
	table.Domains = p.catalog.Domains
	rules := p.o.Rules
	rules.Source = source(p.catalog.Database, table)
	rules.Attributes = attributes(table, p.catalog)
	rt, err := router.New(rules)
	if err != nil {
		return nil, err
	}
	if p.sink == nil {
		if err := p.openSink(); err != nil {
			return nil, err
		}
	}
	return &session{p: p, decoder: decoder.New(table), router: rt, sink: p.sink}, nil
}

// openSink makes a sink for the database of the catalog.
func (p *Pipeline) openSink() (err error) {
	o := p.o.Sink
	o.Value.Source = source(p.catalog.Database, p.o.Table)
	if o.Value.Connect != nil {
		o.Value.Connect.Attributes = attributes(p.o.Table, p.catalog)
	}
	if p.exactly == nil {
		// With transactions the brokers' fencing does it.
		o.PauseLimit = min(p.keeps*3/4, 30*time.Second)
	}
	o.Budget = p.memory
	if p.sink, err = sink.New(o); err == nil {
		p.memory.OnShortage(p.sink.Shed)
	}
	return err
}

// closeSink ends the sink, if there is one, with what is in flight in it. The next
// session begins with a new one.
func (p *Pipeline) closeSink() {
	if p.sink != nil {
		p.sink.Close()
		p.sink = nil
	}
}

// attributes are what the catalog says of each field's column.
func attributes(t decoder.Table, catalog replication.Catalog) []router.Attribute {
	a := make([]router.Attribute, len(t.Columns))
	for f, column := range t.Columns {
		known, ok := catalog.Attributes[column.Name]
		if a[f] = router.Attribute(known); !ok {
			a[f].Modifier = -1
		}
	}
	return a
}

// source is the CloudEvents source of an outbox: /database/schema.table, or
// /database/prefix when there is no table; a reference as RFC 3986 has it.
func source(database string, t decoder.Table) string {
	if t.Name == "" {
		return "/" + url.PathEscape(database) + "/" + url.PathEscape(t.MessagePrefix)
	}
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
	p.backend = conn.Backend()
	p.log.Info().Stringer("lsn", p.known.LSN).Str("slot", p.o.Source.Slot).Msg("streaming")
	return stream, nil
}

// start decides where to go on, and streams from there.
func (p *Pipeline) start(ctx context.Context, conn *replication.Conn) (*replication.Stream, error) {
	if err := conn.EndStale(ctx, p.backend); err != nil {
		return nil, err
	}
	server, err := p.prepare(ctx, conn)
	if err != nil {
		return nil, err
	}
	if p.exactly != nil && server.Slot != nil && (p.shared || p.sink == nil) {
		if server.Slot.Active {
			p.shared, p.exactly.claimed = true, false
			return nil, replication.SlotInUse(errors.New("it is active"))
		}
		if err := p.exactly.take(ctx); err != nil {
			return nil, err
		}
		p.shared = true // the position may be another than we know
	}
	start, err := p.resume(ctx, conn, &server)
	var gap offsets.Gap
	var refused *offsets.RefusedError
	if errors.As(err, &refused) && p.o.AcceptGap {
		gap, err = p.acceptGap(ctx, conn, &server)
		start = gap.Start
	}
	if err != nil {
		return nil, err
	}
	if p.exactly != nil && p.sink == nil {
		// The slot was made just now.
		if err := p.exactly.take(ctx); err != nil {
			return nil, err
		}
	}
	if p.o.From != 0 {
		if err := p.startFrom(server, start); err != nil {
			return nil, err
		}
		start = p.o.From
	}
	known := offsets.Position{SystemID: server.SystemID, Timeline: server.Timeline, Slot: p.o.Source.Slot, LSN: start}
	if refused == nil && p.o.From == 0 && p.known != nil {
		known.Inside, known.Past = p.known.Inside, p.known.Past
	}
	changed := p.known == nil || *p.known != known || p.exactly != nil && p.exactly.claimDue
	p.known = &known // also if the next step fails: from here on a slot that vanishes is not replaced
	if refused != nil {
		p.logGap(refused, gap)
		p.published = decoder.Position{}
	}
	confirmed := start
	if p.o.Rewind != (offsets.Rewind{}) {
		confirmed = min(start, server.Slot.ConfirmedFlush) // the window stays
	}
	stream, err := conn.Start(ctx, start, confirmed, p.memory)
	if err != nil {
		p.shared = p.shared || errors.Is(err, replication.ErrSlotActive)
		return nil, err
	}
	// Only who has the slot may write the store: another process may still
	// have written newer positions until now.
	if p.o.Store != nil && changed {
		saving, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if err := p.o.Store.Save(saving, known); err != nil {
			stream.Close()
			if p.exactly != nil {
				p.closeSink() // its transaction can be lost
			}
			return nil, fmt.Errorf("store position %s: %w", known, err)
		}
	}
	p.shared = false
	p.o.AcceptGap, p.o.From = false, 0 // they are for the start only
	return stream, nil
}

// prepare sees to the publication and the slot, and says what the server is. A slot
// is made only where no position is stored.
func (p *Pipeline) prepare(ctx context.Context, conn *replication.Conn) (offsets.Server, error) {
	server, err := conn.Prepare(ctx, p.loaded && p.known == nil)
	if err == nil && server.Slot == nil && !p.loaded {
		if err = p.load(ctx); err == nil {
			server, err = conn.Prepare(ctx, p.known == nil)
		}
	}
	if err == nil {
		p.catalog, p.keeps = conn.Catalog(), conn.Keeps()
	}
	return server, err
}

// resume decides where to go on, if what is known can be trusted.
func (p *Pipeline) resume(ctx context.Context, conn *replication.Conn, server *offsets.Server) (pglogrepl.LSN, error) {
	start, err := p.resumeKnown(ctx, conn, server)
	if errors.Is(err, offsets.ErrSlotAhead) && p.o.Store != nil && !p.shared {
		// While we were cut off another process had the slot, and has given it
		// back: the store knows how far it came.
		p.shared = true
		start, err = p.resumeKnown(ctx, conn, server)
	}
	if errors.Is(err, offsets.ErrSlotAhead) && server.Slot.Active {
		// Another process has taken over while we were cut off.
		p.shared = true
		return 0, replication.SlotInUse(fmt.Errorf("it was confirmed up to %s meanwhile", server.Slot.ConfirmedFlush))
	}
	return start, err
}

// resumeKnown asks what is stored, if another process may have written it, and
// decides by that.
func (p *Pipeline) resumeKnown(ctx context.Context, conn *replication.Conn, server *offsets.Server) (pglogrepl.LSN, error) {
	if p.shared && server.Slot != nil {
		// Read after the slot and before the end of the WAL: another process
		// that confirms meanwhile stores a position before the slot has it and
		// after the WAL does, so neither can seem to contradict the store.
		if err := p.load(ctx); err != nil {
			return 0, err
		}
		var err error
		if server.FlushLSN, err = conn.Flushed(ctx); err != nil {
			return 0, err
		}
	}
	return offsets.Resume(p.known, *server)
}

// acceptGap decides where to go on although the position is refused. It makes the
// slot if that is gone.
func (p *Pipeline) acceptGap(ctx context.Context, conn *replication.Conn, server *offsets.Server) (gap offsets.Gap, err error) {
	if server.Slot == nil {
		if server.Slot, err = conn.MakeSlot(ctx); err != nil {
			return gap, err
		}
		server.FlushLSN = max(server.FlushLSN, server.Slot.ConfirmedFlush)
	}
	if err := offsets.Usable(server.Slot); err != nil {
		return gap, err
	}
	return offsets.AcceptGap(p.known, *server), nil
}

// startFrom lets the events from --from-lsn on be published, also those that were
// before, or refuses that position.
func (p *Pipeline) startFrom(server offsets.Server, stored pglogrepl.LSN) error {
	window, err := offsets.WindowOf(server)
	if err == nil {
		err = window.Contains(p.o.From)
	}
	if err != nil {
		return err
	}
	p.log.Warn().Stringer("stored", stored).Stringer("from", p.o.From).Msg("starting where --from-lsn says instead of at the stored position")
	p.published = decoder.Position{}
	return nil
}

// logGap says what is given up with a refused position. known is the new one.
func (p *Pipeline) logGap(refused error, gap offsets.Gap) {
	event := p.log.Warn().Err(refused).Stringer("to", gap.Start)
	switch {
	case gap.From == 0:
		event.Msg("going on from the slot's own position; what was committed before it and not published is skipped (--accept-gap)")
	case gap.From < gap.Start:
		event.Stringer("from", gap.From).Msg("transactions that end after from, up to to, are skipped (--accept-gap)")
	default:
		event.Stringer("from", gap.From).Msg("going on from there; nothing of this server is skipped (--accept-gap)")
	}
}

// storeTimeout bounds a save while nothing else goes on.
const storeTimeout = 10 * time.Second

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
