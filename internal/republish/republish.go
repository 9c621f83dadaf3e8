package republish

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/pace"
	"outboxd/internal/record"
	"outboxd/internal/replication"
	"outboxd/internal/table"
	"outboxd/router"
	"outboxd/sink"
)

// Options say what to publish and how.
type Options struct {
	Source  replication.Options
	Table   decoder.Table
	Archive table.Name // the zero value: none
	// Rules, Format and Sink are those of the connector.
	Rules  router.Rules
	Format format.Options
	Sink   sink.Options
	// MemoryLimit bounds the bytes of events that are not yet acknowledged.
	MemoryLimit int64

	Filter table.Filter
	// Keep selects further; nil: all.
	Keep func(*table.Row) bool
	// DryRun only counts.
	DryRun bool
	// MaxRate is how many events are published a second, 0: as many as Kafka takes.
	MaxRate int
	// State is a file that says how far a run came that was interrupted, and from which
	// the next one goes on; "": none.
	State string
	// Progress, if set, is told how much of a stage is done.
	Progress func(stage string, done, total int64)
	Log      zerolog.Logger

	first *First // nil: it is published again
	where string // the publication's row filter
}

// Done is what was published.
type Done struct {
	Events int64
	// Before is how many an earlier run had published, by the state file.
	Before int64
	// Gone are rows that were selected, and removed or moved before their turn.
	Gone int64
	// Ordered says whether their order is more than how they lay in the table.
	Ordered bool
}

// Run publishes the rows that are selected, in the order of the table, with the header
// replayed: true and without a position. It returns when Kafka has acknowledged all of
// them; what it returns with an error was acknowledged, and what was in flight may have
// arrived.
func Run(ctx context.Context, o Options) (Done, error) {
	if o.Table.Name == "" {
		return Done{}, errors.New("there is no outbox table (outbox.table): messages are kept in no table that could be read")
	}
	conn, err := replication.Connect(ctx, o.Source)
	if err != nil {
		return Done{}, err
	}
	defer conn.Close()
	if _, err := conn.Inspect(ctx); err != nil {
		return Done{}, err
	}
	pg, err := conn.OpenReader(ctx)
	if err != nil {
		return Done{}, err
	}
	defer pg.Close(context.WithoutCancel(ctx))
	if o.where, err = conn.RowFilter(ctx); err != nil {
		return Done{}, err
	}
	o.Format.Replayed = true
	return o.on(ctx, conn.Catalog(), pg)
}

// First is what is published for the first time.
type First struct {
	// Positions lie before what the slot brings: see [replication.Snapshot].
	Slot pglogrepl.LSN
	// Transactional publishes in transactions of the connector's id, which no process
	// may use meanwhile.
	Transactional bool
	// Where is the publication's row filter, "" for none.
	Where string
	// Last is committed in the last transaction; nil: nothing.
	Last *kgo.Record
}

// Deliver publishes rows that were never delivered, over a connection that sees what is
// to be published: as a backfill does, with positions before the slot's beginning.
func Deliver(ctx context.Context, o Options, first First, catalog replication.Catalog, pg *pgconn.PgConn) (Done, error) {
	o.first, o.where = &first, first.Where
	return o.on(ctx, catalog, pg)
}

func (o Options) on(ctx context.Context, catalog replication.Catalog, pg *pgconn.PgConn) (Done, error) {
	var outbox format.Outbox
	o.Table, outbox = table.Complete(o.Table, catalog)
	p, err := newPublisher(ctx, o.Rules, o.Format, outbox, o.Sink, o.MemoryLimit, o.first != nil && o.first.Transactional)
	if err != nil {
		return Done{}, err
	}
	defer p.close()
	rows, err := table.Open(ctx, pg, table.Options{Event: o.Table, Archive: o.Archive, Where: o.where, Make: p.make})
	if err != nil {
		return Done{}, err
	}
	r := run{o: o, publisher: p, rows: rows}
	r.done.Ordered = rows.Ordered()
	err = r.run(ctx)
	return r.done, err
}

// run is one run. It is used by one goroutine.
type run struct {
	o         Options
	publisher *publisher
	rows      *table.Reader
	state     state
	scratch   record.Record
	done      Done
}

func (r *run) run(ctx context.Context) (err error) {
	if r.state, err = loadState(r.o.State, r.o.Filter); err != nil {
		return err
	}
	r.done.Before = r.state.Events
	ctx, end := r.publisher.watch(ctx, r.o.Log)
	defer end()
	keys := table.NewKeys()
	defer keys.Close()
	if err := r.choose(ctx, keys); err != nil {
		return cause(ctx, err)
	}
	if r.o.DryRun {
		r.done.Events = keys.Len()
		return nil
	}
	if keys.Len() > math.MaxUint32 && r.o.first != nil {
		return fmt.Errorf("%d rows are more than a position can number (%d)", keys.Len(), uint32(math.MaxUint32))
	}
	if err := r.publish(ctx, keys); err != nil {
		return cause(ctx, err)
	}
	if f := r.o.first; f != nil && f.Last != nil {
		if err := r.publisher.settle(ctx, f.Last); err != nil {
			return cause(ctx, err)
		}
	}
	return r.state.remove()
}

// cause is why ctx ended, if that ended the work.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

// choose finds the rows that are to be published.
func (r *run) choose(ctx context.Context, keys *table.Keys) error {
	total, err := r.rows.Blocks(ctx)
	if err != nil {
		return err
	}
	n := 0
	return r.rows.Select(ctx, r.o.Filter, func(row *table.Row) error {
		if n++; n%4096 == 0 && r.o.Filter.IDs == nil {
			r.progress("rows", min(r.rows.Done(), total), total)
		}
		wanted, err := r.wants(row)
		if !wanted || err != nil {
			return err
		}
		return keys.Add(row.Key)
	})
}

// wants reports whether a row is to be published: not what a rule discards.
func (r *run) wants(row *table.Row) (bool, error) {
	if r.state.Events > 0 && row.Key.Compare(r.state.After) <= 0 || r.o.Keep != nil && !r.o.Keep(row) {
		return false, nil
	}
	if row.Err != nil {
		return false, undeliverable(row.Event, row.Err)
	}
	if err := r.publisher.router.Route(row.Event, &r.scratch); err != nil {
		return false, undeliverable(row.Event, err)
	}
	return r.scratch.Topic != "", nil
}

const (
	// saveEvery is how often it is noted how far a run is: what was published since is
	// what a kill may repeat.
	saveEvery = time.Second
	// saveEvents is the same in events.
	saveEvents = 20_000
)

// publish publishes the rows in order.
func (r *run) publish(ctx context.Context, keys *table.Keys) error {
	var n, unsaved int64
	saved, rate := time.Now(), pace.New(r.o.MaxRate)
	last := r.state.After
	save := func() error {
		if unsaved == 0 {
			return nil
		}
		if err := r.publisher.settle(ctx, nil); err != nil {
			return err
		}
		r.done.Events += unsaved
		unsaved, saved = 0, time.Now()
		return r.state.save(last, r.done.Before+r.done.Events)
	}
	missed, err := r.rows.InOrder(ctx, r.o.Filter, keys, func(row *table.Row) error {
		if wanted, err := r.wants(row); !wanted || err != nil {
			return err
		}
		n++
		if f := r.o.first; f != nil {
			row.Event.Position = decoder.Position{CommitLSN: f.Slot - 1, Number: uint32(n)}
		}
		if _, err := r.publisher.publish(row.Event); err != nil {
			return err
		}
		unsaved++
		last = row.Key
		if n%512 == 0 {
			r.progress("events", n, keys.Len())
		}
		if err := rate.Wait(ctx); err != nil {
			return err
		}
		if unsaved >= saveEvents || time.Since(saved) >= saveEvery {
			return save()
		}
		return nil
	})
	r.done.Gone = missed
	if err == nil {
		err = save()
	}
	return err
}

func (r *run) progress(stage string, done, total int64) {
	if r.o.Progress != nil {
		r.o.Progress(stage, done, total)
	}
}

// String says what was done.
func (d Done) String() string {
	s := fmt.Sprintf("%d events", d.Events)
	if d.Events == 1 {
		s = "1 event"
	}
	if d.Before > 0 {
		s += fmt.Sprintf(", and %d before it was interrupted", d.Before)
	}
	if d.Gone > 0 {
		s += fmt.Sprintf("; %d were removed meanwhile", d.Gone)
	}
	return s
}
