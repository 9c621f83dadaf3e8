// Package recovery makes a new slot where the old one is lost, or where the table that
// it published was replaced, and publishes what was not delivered.
//
// The rows are those of the snapshot that comes with the new slot: what is committed
// later comes from the slot. Which of them were delivered Kafka says, by the events'
// ids: no position tells, since a row does not know at which position it was committed.
// Until everything is published and the position is stored, the new slot is temporary
// and the old one stays as it is. Whatever ends the process:
//
//  1. Before the last row is acknowledged: the server drops the temporary slot. The next
//     start begins again; what was published is in Kafka, and is not published again,
//     but for what was in flight, a second's worth at most, and nothing with
//     exactly_once.
//  2. After that and before the position is stored: the same, and nothing is left to
//     publish but what was committed since.
//  3. After the position is stored and before the slot is made: the same. `run` refuses
//     that position, since its slot is gone.
//  4. After the old slot is dropped and before the new one is made: the same, where a
//     position is stored. With the slot as the only store nothing remembers that there
//     was a slot; `run` must not be started then, and the next start of recover is as
//     before.
//
// The name of the temporary slot is a lock: a second recover, or a backfill, waits
// outside.
package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/internal/positions"
	"outboxd/internal/reconcile"
	"outboxd/internal/replication"
	"outboxd/internal/republish"
	"outboxd/internal/table"
	"outboxd/offsets"
)

// Options say what to recover.
type Options struct {
	// Compare and Publish are how rows are compared and published.
	Compare reconcile.Options
	Publish republish.Options
	// Store keeps the position; nil: the slot is the only store.
	Store offsets.Store
	// Positions keeps it in transactions with the events; then Store is nil.
	Positions *positions.Store
	// DryRun makes no slot and publishes nothing.
	DryRun bool
	Log    zerolog.Logger
}

// Result is what was done, or would be.
type Result struct {
	// Why is why it was needed; "": it was not.
	Why string
	// Rows are how many were compared, Undelivered how many of them were not delivered,
	// InDoubt how many of these may have been.
	Rows, Undelivered, InDoubt int64
	// Different are rows that were taken as delivered, and whose record differs from them.
	Different int64
	Published int64
	// LSN is where the new slot begins, 0: none was made.
	LSN pglogrepl.LSN
}

// ErrStreaming is the error of a recovery beside a connector.
var ErrStreaming = errors.New("a connector streams from the slot: there is nothing to recover, or stop it first")

// Run recovers.
func Run(ctx context.Context, o Options) (Result, error) {
	conn, err := replication.Connect(ctx, o.Compare.Source)
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	stored, err := o.load(ctx)
	if err != nil {
		return Result{}, err
	}
	var result Result
	if result.Why, o.Compare.Replaced, err = why(ctx, conn, stored); result.Why == "" || err != nil {
		return result, err
	}
	if o.DryRun {
		return result, o.count(ctx, conn, &result)
	}
	o.Log.Info().Str("reason", result.Why).Msg("recovery begins")
	return result, o.recover(ctx, conn, &result)
}

// load reads what is stored, and makes the store ready to be written.
func (o *Options) load(ctx context.Context) (p *offsets.Position, err error) {
	switch {
	case o.Positions != nil:
		p, err = o.Positions.Load(ctx)
	case o.Store != nil:
		p, err = o.Store.Load(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read the stored position: %w", err)
	}
	return p, nil
}

// why returns why a recovery is needed, "" if it is not, and whether Kafka may have
// events whose ids the table gives again: the table is another than the one that was
// published, or the server lost transactions that were. Where nothing is stored only the
// order of table and slot in the publication is known, and a table that came later may
// be another.
func why(ctx context.Context, conn *replication.Conn, stored *offsets.Position) (reason string, replaced bool, err error) {
	server, err := conn.Inspect(ctx)
	if err != nil {
		return "", false, err
	}
	if server.Slot != nil && server.Slot.Active {
		return "", false, ErrStreaming
	}
	if server.Standby {
		return "", false, errors.New("the server is a standby: recover on the primary, or after its promotion")
	}
	var was offsets.Outbox
	if stored != nil {
		was = stored.Outbox
	}
	another := lost(stored, server) || was.Table != 0 && was.Table != conn.Outbox(offsets.Outbox{}).Table
	var refused *offsets.RefusedError
	switch _, err = offsets.Resume(stored, server); {
	case errors.As(err, &refused):
		if stored != nil && stored.SystemID == server.SystemID && stored.LSN > server.FlushLSN {
			return "", false, fmt.Errorf("%w, and the server's WAL ends at %s: what is published now would have positions before those that Kafka has, "+
				"and consumers that remember the last one would take it for repeated; run SELECT pg_switch_wal() on the primary until pg_current_wal_lsn() is past %s, then start it again",
				refused.Reason, server.FlushLSN, stored.LSN)
		}
		return fmt.Sprintf("%v: %s", refused.Reason, refused.Detail), another, nil
	case err != nil:
		return "", false, err
	}
	var gone *replication.Unpublished
	if err = conn.Verify(ctx, was, server.Slot); errors.As(err, &gone) {
		return gone.Error(), another || was.Table == 0, nil
	}
	return "", false, err
}

// lost reports whether the server may have lost transactions that were published: it is
// another one, it was promoted or restored since, or its WAL ends before. Without a stored
// position any promotion may have been since.
func lost(stored *offsets.Position, server offsets.Server) bool {
	if stored == nil {
		return server.Timeline > 1
	}
	return stored.SystemID != server.SystemID || stored.Timeline != server.Timeline || stored.LSN > server.FlushLSN
}

// count compares without a slot.
func (o *Options) count(ctx context.Context, conn *replication.Conn, result *Result) error {
	pg, err := conn.OpenReader(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(context.WithoutCancel(ctx))
	at, err := conn.Flushed(ctx)
	if err != nil {
		return err
	}
	filter, err := conn.RowFilter(ctx)
	if err != nil {
		return err
	}
	rows, err := table.Open(ctx, pg, table.Options{Event: o.Compare.Table, Archive: o.Compare.Archive, Where: filter})
	if err != nil {
		return err
	}
	found, err := reconcile.Undelivered(ctx, o.Compare, conn.Catalog(), rows, at)
	if err != nil {
		return err
	}
	result.take(found)
	return nil
}

func (r *Result) take(found *reconcile.Result) {
	r.Rows, r.Undelivered, r.InDoubt = found.Rows, found.Mismatches[reconcile.Missing], found.NotComparable["in_doubt"]
	r.Different = found.Mismatches[reconcile.Different]
}

func (o *Options) recover(ctx context.Context, conn *replication.Conn, result *Result) (err error) {
	conn.ReplaceSlot()
	snapshot, err := conn.Snapshot(ctx)
	if err != nil {
		return err
	}
	filter, err := snapshot.Filter(ctx)
	if err != nil {
		return err
	}
	pg, err := snapshot.Open(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(context.WithoutCancel(ctx))
	// From here on the connection is the watcher's, until that has ended.
	catalog, at := conn.Catalog(), o.position(conn, snapshot)
	inner, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := snapshot.Watch(inner); err != nil {
			cancel(err)
		}
	}()
	err = o.deliver(inner, snapshot, filter, catalog, pg, at, result)
	if cause := context.Cause(inner); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-watched
	if err != nil {
		return err
	}
	if o.Store != nil {
		if err := o.Store.Save(ctx, at); err != nil {
			return fmt.Errorf("store position %s: %w; start it again", at, err)
		}
	}
	if err := snapshot.MakeSlot(ctx); err != nil {
		return err
	}
	result.LSN = snapshot.LSN
	o.Log.Info().Stringer("lsn", snapshot.LSN).Int64("published", result.Published).Msg("recovery done")
	return nil
}

// position is that at which run resumes.
func (o *Options) position(conn *replication.Conn, snapshot *replication.Snapshot) offsets.Position {
	system, timeline := conn.System()
	at := offsets.Position{SystemID: system, Timeline: timeline, Slot: o.Compare.Source.Slot, LSN: snapshot.LSN, Outbox: conn.Outbox(offsets.Outbox{})}
	at.Outbox.Seen = snapshot.LSN
	return at
}
