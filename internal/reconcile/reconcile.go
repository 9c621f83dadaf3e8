// Package reconcile compares the rows of an outbox with what Kafka holds of them.
//
// Both sides are read by other means than the connector's: the rows from the table
// with plain SQL, the records without a group. Only what a row should have become is
// found by the router and the formats that publish it, so that topic, key and value
// can be compared byte for byte.
//
// # The order of looking
//
// A row that is on its way is no mismatch, and traffic does not pause for a
// comparison. So the order is what makes the result true:
//
//  1. The rows are read. Each was committed before its page was read.
//  2. The end of the WAL is asked for: every row that was read was committed before.
//  3. The confirmed position is asked for. What was committed before it was
//     acknowledged by Kafka. What was committed between it and the end of the WAL is
//     read from a temporary copy of the slot: these events are in flight.
//  4. The ends of the topics are asked for. Everything that was confirmed lies before.
//
// So a row that is neither in flight nor in Kafka is missing. A record whose row was
// not read may be newer than the reading of its page; its row is asked for by its id
// before anything is said of it.
//
// # Memory
//
// What is kept of rows and records is about a hundred bytes and the id, in temporary
// files, in [parts] parts by a hash of the id. Count and sum of the digests of both
// sides are compared first; only a part in which they differ is looked into.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/pace"
	"outboxd/internal/record"
	"outboxd/internal/replication"
	"outboxd/internal/table"
	"outboxd/offsets"
	"outboxd/router"
)

// Options say what to compare.
type Options struct {
	Source  replication.Options
	Table   decoder.Table
	Archive table.Name // the zero value: none
	// Rules and Format are those of the connector, Form says where its records carry
	// what they are compared by.
	Rules  router.Rules
	Format format.Options
	Form   Form
	// Kafka are the options of a client of the cluster.
	Kafka []kgo.Opt
	// ExactlyOnce reads committed records only, and takes every repetition for a
	// duplicate.
	ExactlyOnce bool
	// DeadLetters is the topic of events that could not be delivered; "": none.
	DeadLetters string
	// Stored returns the stored position; nil: there is no store besides the slot.
	Stored func(context.Context) (*offsets.Position, error)
	// Removes says that outboxd itself removes rows that are older than Keep.
	Removes bool
	Keep    time.Duration
	// Late is how long after its commit a record is late.
	Late time.Duration

	// Since and Until select rows by their time.
	Since, Until time.Time
	// Shadow compares the records that another publisher wrote with what the outbox
	// gives; nil: those of the connector.
	Shadow *Shadow
	// Topic compares one topic only; "": all that rows belong to.
	Topic string
	// MaxRate is how many rows and records are read a second, 0: as many as come.
	MaxRate int
	// Undelivered looks for rows that were not delivered to a connector's last event:
	// see expired.
	Undelivered bool
	// Replaced says that Kafka may have events whose ids the table gives again, of another
	// table or of transactions that the server lost: a record that differs from the row of
	// its id is not that row's.
	Replaced bool
	// Progress, if set, is told how much of a stage is done.
	Progress func(stage string, done, total int64)
	Log      zerolog.Logger
}

// examples is how many examples of each kind are kept.
const examples = 5

// Run compares. An error says that it could not; what differs is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	c, err := newComparison(o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	conn, err := replication.Connect(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	defer func() { conn.Close() }()
	server, err := conn.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	pg, err := conn.OpenReader(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(context.WithoutCancel(ctx))
	if err := c.prepare(conn.Catalog()); err != nil {
		return nil, err
	}
	filter, err := conn.RowFilter(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := table.Open(ctx, pg, table.Options{Event: c.o.Table, Archive: o.Archive, Where: filter})
	if err != nil {
		return nil, err
	}
	if err := c.readRows(ctx, rows); err != nil {
		return nil, err
	}
	if o.Shadow != nil {
		if !rows.HasTime() {
			return nil, table.ErrNoTime // what is too young to be compared is not known
		}
		return c.finish(ctx, rows)
	}
	if c.end, err = written(ctx, pg, server.Standby); err != nil {
		return nil, err
	}
	if err := c.readInFlight(ctx, conn); err != nil {
		return nil, err
	}
	return c.finish(ctx, rows)
}

// source is where rows are read: a [table.Reader].
type source interface {
	// Scan visits all rows that the filter selects, and ByID those with these ids.
	Scan(ctx context.Context, f table.Filter, visit func(*table.Row) error) error
	ByID(ctx context.Context, ids []string, visit func(*table.Row) error) error
	// HasTime reports whether rows can be selected by their time.
	HasTime() bool
	// Blocks is how many blocks a scan reads, Done how many were read.
	Blocks(ctx context.Context) (int64, error)
	Done() int64
	// Removed is how many rows the server counts as deleted, and whether none can come
	// to that any more.
	Removed(ctx context.Context) (n int64, settled bool, err error)
}

// Undelivered finds the rows of a snapshot that have no record. at is where the slot of
// the snapshot begins: nothing is in flight.
func Undelivered(ctx context.Context, o Options, catalog replication.Catalog, rows *table.Reader, at pglogrepl.LSN) (*Result, error) {
	o.Undelivered = true
	c, err := newComparison(o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.prepare(catalog); err != nil {
		return nil, err
	}
	if err := c.readRows(ctx, rows); err != nil {
		return nil, err
	}
	c.end, c.confirmed = at, at
	return c.finish(ctx, rows)
}

// comparison is one run. It is used by one goroutine.
type comparison struct {
	o       Options
	form    Form
	router  *router.Router
	encoder *format.Encoder
	digests *digester
	scratch record.Record
	spill   *spill
	orders  *spill // with another publisher's records, by their keys
	cluster *cluster
	pace    pace.Pace
	seed    maphash.Seed
	begun   time.Time

	topics []string          // by their numbers in entries
	number map[string]uint16 // of a topic
	known  map[string]*topic
	all    excursions
	// end is the end of the WAL after the rows were read, confirmed what was confirmed
	// then.
	end, confirmed pglogrepl.LSN
	seen           uint64 // rows

	result Result
	// missing are hashes of the ids that are missing.
	missing []uint64
	// anonymous are records that name no event.
	anonymous []anonymous
	later     []behindRecord
	// twice are unexpected events with several records: their rows may turn out to have
	// been removed.
	twice  []*group
	failed error // the first failure of what cannot return one
}

func newComparison(o Options) (*comparison, error) {
	if o.Table.Name == "" {
		return nil, errors.New("there is no outbox table (outbox.table): messages are kept in no table that could be compared")
	}
	if o.Table.Columns[decoder.ID].Name == "" {
		return nil, errors.New("outbox.columns.id is not mapped: rows and records cannot be told apart")
	}
	form := o.Form
	form.shadow = o.Shadow
	if err := form.check(); err != nil {
		return nil, err
	}
	var err error
	c := &comparison{o: o, form: form, digests: newDigester(form), seed: maphash.MakeSeed(), begun: time.Now(),
		pace: pace.New(o.MaxRate), number: make(map[string]uint16)}
	c.result.Mismatches, c.result.NotComparable = make(map[string]int64), make(map[string]int64)
	for _, k := range Kinds {
		c.result.Mismatches[k] = 0
	}
	if form.ValueDiffers != "" {
		c.result.note(form.ValueDiffers)
	}
	if c.spill, err = newSpill(); err != nil {
		return nil, err
	}
	if o.Shadow != nil {
		c.o.DeadLetters = ""
		if c.orders, err = newSpill(); err != nil {
			c.spill.close()
			return nil, err
		}
	}
	if c.cluster, err = newCluster(o.Kafka, o.ExactlyOnce); err != nil {
		c.spill.close()
		return nil, err
	}
	return c, nil
}

func (c *comparison) close() {
	c.spill.close()
	if c.orders != nil {
		c.orders.close()
	}
	c.cluster.close()
}

// prepare completes table and rules by what the database's catalog says.
func (c *comparison) prepare(catalog replication.Catalog) (err error) {
	var outbox format.Outbox
	c.o.Table, outbox = table.Complete(c.o.Table, catalog)
	c.encoder = format.New(c.o.Format)
	if err := c.encoder.Open(outbox); err != nil {
		return err
	}
	c.router, err = router.New(c.o.Rules)
	return err
}

func (c *comparison) progress(stage string, done, total int64) {
	if c.o.Progress != nil {
		c.o.Progress(stage, done, total)
	}
}

// topic returns the number of a topic.
func (c *comparison) topic(name string) (uint16, error) {
	n, ok := c.number[name]
	if !ok {
		if len(c.topics) > 1<<16-1 {
			return 0, fmt.Errorf("more than %d topics; compare one at a time with --topic", len(c.topics))
		}
		n = uint16(len(c.topics))
		c.topics, c.number[name] = append(c.topics, name), n
	}
	return n, nil
}

// finish reads Kafka's side and compares.
func (c *comparison) finish(ctx context.Context, rows source) (*Result, error) {
	if err := c.readKafka(ctx); err != nil {
		return nil, err
	}
	if err := c.compare(ctx, rows); err != nil {
		return nil, err
	}
	c.result.missing, c.result.seed = c.missing, c.seed
	c.result.Seconds = time.Since(c.begun).Seconds()
	c.result.finish()
	return &c.result, nil
}
