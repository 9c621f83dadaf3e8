package connector

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/deadletter"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/guarantee"
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
	Format format.Options
	Store  offsets.Store // nil: the slot is the only store
	// Positions makes delivery exactly once, with the positions kept here. The
	// sink's options name a transactional id, and Store is nil.
	Positions *positions.Store
	// BackfillTimeout bounds the one Kafka transaction that a backfill is with Positions.
	BackfillTimeout time.Duration
	ConfirmEvery    time.Duration
	RetryMin        time.Duration
	RetryMax        time.Duration
	DrainTimeout    time.Duration // how long a stop waits for acknowledgements
	MemoryLimit     int64         // bytes of events that are not yet acknowledged
	// AcceptGap resumes at the slot when the stored position is refused.
	AcceptGap bool
	// Elsewhere are stores that are not used.
	Elsewhere []offsets.Elsewhere
	// Rewind is how much of the past is kept in the WAL; it needs a store.
	Rewind offsets.Rewind
	// From is the commit LSN to start at instead of the stored position; 0: none.
	From   pglogrepl.LSN
	Log    zerolog.Logger
	Status *status.Status

	// DeadLetters sets events aside that can never be delivered; nil: they end the run.
	DeadLetters *deadletter.Writer

	// Beside works on the outbox table beside each session; nil: nobody does.
	Beside Beside

	// Now is the time of day, by which Rewind counts; nil: time.Now. A simulator sets it.
	Now func() time.Time

	// Open connects to PostgreSQL, and Observer looks at the slot and the outbox; nil:
	// to the server of Source. Tests and the simulator have others.
	Open     func(context.Context, replication.Options) (Connection, error)
	Observer Observer
}

// Connector runs one outbox. Its fields belong to the goroutine of Run.
type Connector struct {
	o   Options
	log zerolog.Logger

	// known is the last confirmed position, nil before the first session.
	known  *offsets.Position
	loaded bool // known was looked for in the store
	stored bool // a position was loaded from the store, or saved there
	lost   bool // known was stored, and is not any more
	// streamedOn is the history that published is of.
	streamedOn offsets.History
	// guarantee is at least once, or exactly once.
	guarantee guarantee.Guarantee
	// refused are events that Kafka refused for ever. What was in flight with one is sent
	// again, without it.
	refused flow.Refusals
	// learned says that the last session ended because Kafka refused an event for ever:
	// the next one gets further, however many are refused one after the other.
	learned bool
	// shared says that another process may have confirmed more than known: at
	// first, and since the slot was seen in use by another connection.
	shared bool
	// sink is nil when the last one failed. memory holds the bytes of its
	// events, and is abandoned with it.
	sink   *sink.Kafka
	memory *replication.Memory
	// format outlives the sessions and what they lose: it remembers schemas.
	format *format.Encoder
	// published is the last event handed to sink. A session that follows on a
	// fault of PostgreSQL skips what is not after it: a transaction read in part
	// is sent again from its beginning.
	published decoder.Position
	// backend is the server process of the last session, catalog its database.
	backend replication.Backend
	catalog replication.Catalog
	// timeline follows that of a standby; nil with a primary.
	timeline *followed
	// slotHoldTime is how long the server keeps the slot for us if we are suspended.
	slotHoldTime time.Duration
	// nonTransactional warns once of messages that are not events, moves of updates of a
	// partition key.
	nonTransactional, moves sync.Once
	// observer looks at slot, table and publication. confirmedToServer is the position
	// that was confirmed to PostgreSQL last, see look.go.
	observer          Observer
	confirmedToServer pglogrepl.LSN

	open func(context.Context, replication.Options) (Connection, error)
	// background are the goroutines that Run waits for, limits what a stop waits for.
	background sync.WaitGroup
	limits     limits
	// sent is the newest event that was ever handed to Kafka, settled the one up to
	// which PostgreSQL has been confirmed, as far as is known. unstored is why the
	// last position could not be stored.
	sent, settled decoder.Position
	// lacking says that the server had not got sent when the session began: it is a standby
	// that may get it, or one that was promoted without it. A stop does not wait for it.
	lacking  bool
	unstored error
	// backfilled is how many rows of a backfill were handed to Kafka, 0 once the slot is
	// there: until then the next start publishes them again.
	backfilled int64
	// refusedRows are rows of a backfill, by their ids, that Kafka refused for ever: their
	// positions are others when it restarts.
	refusedRows map[string]flow.Refusal

	repeated repeated
	// reading is the commit of the transaction that a session was reading when it
	// ended, 0 when none.
	reading pglogrepl.LSN
	// standingBy says that the last attempt found the slot in use, lookedAt when the
	// cluster was asked since.
	standingBy bool
	lookedAt   time.Time
}

// New returns a connector that is not running.
func New(o Options) *Connector {
	if o.Sink.OnAck = o.Status.Acked; o.Sink.Learned == nil {
		o.Sink.Learned = sink.NewLearned()
	}
	o.Source.Shared, o.Source.Waiting = new(replication.Shared), o.Status.Waiting
	p := &Connector{o: o, log: o.Log, shared: true, open: o.Open, observer: o.Observer, format: format.New(o.Format), memory: replication.NewMemory(o.MemoryLimit)}
	if p.open == nil {
		p.open = openPostgres
	}
	if p.observer == nil {
		p.observer = replication.NewObserver(p.o.Source)
	}
	p.limits = limits{context.Background(), context.Background()}
	p.refused, p.refusedRows = make(flow.Refusals), make(map[string]flow.Refusal)
	p.guarantee = guarantee.NewAtLeastOnce(o.Store)
	if o.Positions != nil {
		p.guarantee = guarantee.NewExactlyOnce(o.Positions, o.Source.Slot, o.Sink.TransactionalID)
		p.o.Store = p.guarantee.Store()
	}
	if p.o.Store != nil {
		o.Status.UseStore()
	}
	return p
}

// Run streams until ctx ends, and then drains. hurry ends the drain. Transient
// faults are retried without end; an error that is returned needs an operator.
func (p *Connector) Run(ctx context.Context, hurry context.Context) error {
	defer p.background.Wait()
	defer p.closeSink()
	defer p.observer.Close()
	if p.o.DeadLetters != nil {
		defer p.o.DeadLetters.End()
	}
	release := p.limit(ctx, hurry)
	defer release()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	p.background.Go(func() { p.watchSlot(watching) })
	wait := backoff{min: p.o.RetryMin, max: p.o.RetryMax}
	for {
		started := time.Now()
		p.reading, p.learned = 0, false
		err := p.guarantee.Judge(p.session(ctx))
		if p.known != nil {
			err = p.repeated.decoding(err, p.known.LSN, p.reading)
		}
		if permanent(err) || errors.Is(err, ErrUnclean) {
			return err
		}
		if err == nil || ctx.Err() != nil {
			return p.finish(err)
		}
		if time.Since(started) > p.o.RetryMax || p.learned {
			wait.reset()
		}
		delay := wait.next()
		if errors.Is(err, replication.ErrSlotActive) {
			p.standBy(ctx, err)
			delay = min(delay, standbyRetry)
		} else {
			p.standingBy = false
			p.o.Status.Fault(side(err), format.Public(err))
			p.log.Warn().Err(err).Str("side", side(err)).Stringer("retry_in", delay.Round(time.Millisecond)).Msg("not streaming")
		}
		select {
		case <-ctx.Done():
			return p.finish(err)
		case <-time.After(delay):
		}
	}
}

// permanent tells the errors that trying again does not change.
func permanent(err error) bool {
	var refused *offsets.RefusedError
	return errors.As(err, &refused) ||
		errors.Is(err, replication.ErrSetup) ||
		errors.Is(err, decoder.ErrProtocol) ||
		errors.Is(err, replication.ErrProtocol) ||
		errors.Is(err, offsets.ErrUnusable) ||
		errors.Is(err, guarantee.ErrTakenOver) ||
		errors.Is(err, guarantee.ErrForeignID) ||
		errors.Is(err, flow.ErrPoison) ||
		errors.Is(err, deadletter.ErrTooMany) ||
		errors.Is(err, deadletter.ErrUnusable) ||
		errors.Is(err, ErrPanic) ||
		errors.Is(err, ErrConfiguration) ||
		errors.Is(err, format.ErrSchemaRefused)
}

// ErrConfiguration is wrapped by the error of a stage that cannot work as it is
// configured.
var ErrConfiguration = errors.New("the configuration cannot work")

// side tells who had a fault, for the metrics.
func side(err error) string {
	if errors.Is(err, offsets.ErrUnknownTimeline) {
		return "postgres" // whoever needs it
	}
	if stored := (*guarantee.StoreError)(nil); errors.As(err, &stored) {
		return "store"
	}
	var failed *sink.FailedError
	if errors.As(err, &failed) {
		return "kafka"
	}
	var registry *format.RegistryError
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
