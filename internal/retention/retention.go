// Package retention removes outbox rows that Kafka has acknowledged: it deletes them,
// moves them to an archive table, or drops partitions that are old as a whole.
//
// # What is safe to remove
//
// A row may go when its transaction is acknowledged. Neither a row nor the server says
// at which LSN a transaction committed, so the question is asked the other way round:
//
//  1. A statement reads the rows that it can see, and, while it runs, the end of the WAL
//     (pg_current_wal_insert_lsn). The statement's snapshot was taken before that, so
//     that the commit record of whatever it sees lies before this position.
//  2. The connector's confirmed position comes to that position or passes it: Kafka has
//     acknowledged every transaction with a commit record before it, in full.
//  3. Exactly the rows of step 1 are removed, by their ctid and xmin.
//
// PostgreSQL itself decides what is visible, so that it does not matter whether a row's
// xmin is that of a subtransaction, is frozen, or has wrapped around: nothing compares
// transaction ids. (pg_visible_in_snapshot would have to be given 64 bits of which a row
// has 32, and its manual says that it is wrong for subtransactions: rows inserted after a
// savepoint by a transaction that is still open would look visible.) Between the steps no
// snapshot is held. A row that was updated or moved meanwhile has another xmin, and so
// has one that took over the place of a removed one: a transaction that has committed
// inserts nothing more.
//
// The confirmed position counts only on the stream that it belongs to, and only while
// this process streams: Run ends with the session, and forgets what it has read.
//
// # What may not be disturbed
//
// Every statement is short: it is a transaction of its own, has a time-out and takes a
// part of the table. A part that hits its time-out is halved. After each one, Retention
// pauses at random for about as long as the statement took, or more, so that a busy
// server is asked for less. Its faults are logged and retried, and never reach the stream.
//
// The model of this loop is River's job cleaner; pg_partman's manual is that of
// partitions.
package retention

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/internal/replication"
	"outboxd/internal/status"
)

// Modes of Options.
const (
	Off            = "off"
	Delete         = "delete"
	Archive        = "archive"
	DropPartitions = "drop_partitions"
)

// Options say what is removed, and when. See retention.* in the configuration.
type Options struct {
	// Source says how to connect, and which table the outbox is.
	Source replication.Options
	Mode   string
	// Keep is how long rows stay, by the column Timestamp, or the commit time if that is
	// "" or the row has none.
	Keep      time.Duration
	Timestamp string
	// ArchiveSchema and ArchiveTable are where mode Archive moves rows.
	ArchiveSchema, ArchiveTable string
	Batch                       int // rows that one statement removes
	Interval                    time.Duration
	Log                         zerolog.Logger
}

// session is one stream of the outbox.
type session struct {
	addr      net.Addr
	confirmed func() pglogrepl.LSN
}

// Retention is the retention of one outbox. Run and Check are used by one goroutine at a
// time, Outbox by any.
type Retention struct {
	o   Options
	log zerolog.Logger

	removed  atomic.Int64
	mu       sync.Mutex
	outbox   status.Outbox
	measured time.Time // when outbox was

	// judged says that a start has found the set-up fit. What no longer fits afterwards
	// is a fault that passes.
	judged bool
	// said is what the log said last.
	said string
	conn *replication.Beside // nil: none
	// addr is the server of conn, and of what follows.
	addr string
	// since is the server's time when it was first asked: what has no commit time was
	// committed before.
	since  string
	leaves map[string]*leaf // by OID
	// batch and blocks are what a statement takes; time-outs shrink them.
	batch, blocks size
	// timeless says that rows without a time were logged.
	timeless bool
	timeout  time.Duration // of a statement
	// kept are detached partitions that are not dropped.
	kept []string
}

// New returns a Retention that does nothing yet.
func New(o Options) *Retention {
	r := &Retention{o: o, log: o.Log.With().Str("retention", o.Mode).Logger(), leaves: make(map[string]*leaf), timeout: statementTimeout}
	r.batch, r.blocks = size{now: o.Batch, most: o.Batch}, size{now: blocksAtOnce, most: blocksAtOnce}
	r.outbox = status.Outbox{Rows: -1, OldestRow: -1}
	return r
}

const (
	// statementTimeout bounds what one statement may take before it is given less to do,
	// and lockTimeout how long it waits for a row or table that another transaction has
	// locked.
	statementTimeout = 5 * time.Second
	lockTimeout      = 500 * time.Millisecond
	// ackPatience is how long rows that were read wait for Kafka. What it has not
	// acknowledged by then is read again later.
	ackPatience = time.Minute
	// measureEvery is how often the table is measured.
	measureEvery = 15 * time.Second
)

// Run removes rows again and again until ctx ends, which it must when the stream does.
// The stream comes from the server at addr. confirmed returns the position up to which
// every transaction of the outbox was published and is acknowledged, and that is stored.
// Run returns when everything that it has started has ended.
func (r *Retention) Run(ctx context.Context, addr net.Addr, confirmed func() pglogrepl.LSN) {
	s := session{addr, confirmed}
	defer r.disconnect()
	interval := r.o.Interval
	if r.o.Mode == Off {
		interval = measureEvery
	}
	for {
		err := r.once(ctx, s)
		if ctx.Err() != nil {
			return
		}
		r.say(err)
		// Several connectors of one server do not run in step.
		for next := time.Now().Add(interval - rand.N(interval/10+1)); time.Now().Before(next); {
			if !sleep(ctx, min(time.Until(next), measureEvery)) {
				return
			}
			if time.Until(next) > 0 && r.conn.Open() {
				_ = r.measure(ctx) // what is wrong, the next run says
			}
		}
	}
}

// once is one run.
func (r *Retention) once(ctx context.Context, s session) error {
	if err := r.connect(ctx, s.addr); err != nil {
		return err
	}
	err := r.work(ctx, s)
	if r.conn.Open() {
		if unknown := r.measure(ctx); err == nil {
			err = unknown
		}
	}
	return err
}

func (r *Retention) work(ctx context.Context, s session) error {
	if r.o.Mode == Off {
		return nil
	}
	p, problems, err := r.judge(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		// Whatever is wrong, or rows that come meanwhile look as if they were from before.
		if err := r.setFloor(ctx, p); err != nil {
			return err
		}
	}
	if len(problems) > 0 && !problems[0].harmless {
		return problems[0].err()
	}
	if r.o.Mode == DropPartitions {
		return r.dropPartitions(ctx, s, p)
	}
	return r.removeRows(ctx, s, p)
}

// Check judges the set-up at a start. The error, a replication.ErrSetup, says what no
// retry can repair; any other that nobody could look. It is nil once a Check has passed.
// A Check comes before a slot is made.
func (r *Retention) Check(ctx context.Context) error {
	if r.o.Mode == Off || r.judged {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*statementTimeout)
	defer cancel()
	defer r.disconnect()
	if err := r.connect(ctx, nil); err != nil {
		return err
	}
	p, problems, err := r.judge(ctx)
	if err != nil {
		return err
	}
	for _, problem := range problems {
		if !problem.passes && !problem.harmless {
			return problem.err()
		}
	}
	if p != nil {
		if err := r.beforeSlot(ctx, p); err != nil {
			return err
		}
	}
	r.judged = p != nil
	return nil
}

// Outbox returns what was last measured. Any goroutine may call it.
func (r *Retention) Outbox() status.Outbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.outbox
	if o.OldestRow > 0 {
		o.OldestRow += time.Since(r.measured)
	}
	o.Removed = r.removed.Load()
	return o
}

// connect opens the connection, unless it is open.
func (r *Retention) connect(ctx context.Context, addr net.Addr) (err error) {
	name := ""
	if addr != nil {
		name = addr.String()
	}
	if r.conn.Open() && r.addr == name {
		return nil
	}
	r.disconnect()
	if r.addr != name {
		// Perhaps another server: what was found of the old one does not hold.
		r.addr, r.since = name, ""
		clear(r.leaves)
	}
	r.conn, err = replication.OpenBeside(ctx, r.o.Source, addr, "retention", map[string]string{
		"statement_timeout": milliseconds(r.timeout),
		"lock_timeout":      milliseconds(lockTimeout),
		// What a crash brings back is removed again.
		"synchronous_commit":              "off",
		"max_parallel_workers_per_gather": "0",
		// Rows are taken by their place. For a table of some ten MiB the planner would
		// rather read all of it for each batch (seen with 17).
		"enable_seqscan": "off",
	})
	if err != nil {
		r.conn = nil
		return fmt.Errorf("connect for retention: %w", err)
	}
	return nil
}

func (r *Retention) disconnect() {
	r.conn.Close()
	r.conn = nil
}

// say logs what keeps Retention from its work, when it changes.
func (r *Retention) say(err error) {
	switch text := fmt.Sprint(err); {
	case err == nil && r.said != "":
		r.said = ""
		r.log.Info().Msg("retention works again")
	case err != nil && text != r.said && r.o.Mode == Off:
		r.said = text
		r.log.Warn().Err(err).Msg("the outbox table cannot be measured; events are delivered all the same")
	case err != nil && text != r.said:
		r.said = text
		r.log.Warn().Err(err).Msg("retention removes nothing, or not all; events are delivered all the same")
	}
}

// errWaits is why nothing is removed while Kafka does not acknowledge. The connector
// says that itself.
var errWaits = errors.New("what was read is not acknowledged yet")

// await waits until every transaction with a commit record before lsn is acknowledged.
func await(ctx context.Context, s session, lsn pglogrepl.LSN) error {
	ctx, cancel := context.WithTimeout(ctx, ackPatience)
	defer cancel()
	for pause := 5 * time.Millisecond; s.confirmed() < lsn; pause = min(2*pause, 200*time.Millisecond) {
		if !sleep(ctx, pause) {
			return errWaits
		}
	}
	return nil
}

// size is how much one statement takes: half after a time-out, and after many that did
// not hit it twice as much again.
type size struct{ now, most, good int }

func (s *size) timedOut() { s.now, s.good = max(1, s.now/2), 0 }

func (s *size) worked() {
	if s.good++; s.good >= 64 {
		s.now, s.good = min(s.most, 2*s.now), 0
	}
}

// rest pauses for one to three times as long as the last statement took, so that a busy
// server is asked for less. It returns false when ctx has ended.
func rest(ctx context.Context, took time.Duration) bool {
	took = min(max(took, 2*time.Millisecond), time.Second)
	return sleep(ctx, took+rand.N(2*took))
}

// sleep returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// SQLSTATEs from "PostgreSQL Error Codes".
const (
	queryCanceled    = "57014"
	lockNotAvailable = "55P03"
	divisionByZero   = "22012"
	undefinedTable   = "42P01"
)
