package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/internal/reconcile"
	"outboxd/internal/replication"
	"outboxd/internal/republish"
	"outboxd/internal/table"
	"outboxd/offsets"
)

// deliver finds the rows of the snapshot that were not delivered, and publishes them.
func (o *Options) deliver(ctx context.Context, snapshot *replication.Snapshot, filter string, catalog replication.Catalog, pg *pgconn.PgConn, at offsets.Position, result *Result) error {
	rows, err := table.Open(ctx, pg, table.Options{Event: o.Compare.Table, Archive: o.Compare.Archive, Where: filter})
	if err != nil {
		return err
	}
	found, err := reconcile.Undelivered(ctx, o.Compare, catalog, rows, snapshot.LSN)
	if err != nil {
		return err
	}
	result.take(found)
	if n := found.Undeliverable(); n != "" {
		return errors.New(n)
	}
	first := republish.First{Slot: snapshot.LSN, Where: filter}
	if o.Positions != nil {
		first.Transactional, first.Last = true, o.Positions.Record(at)
	} else if len(found.Missing()) == 0 {
		return nil
	}
	p := o.Publish
	p.Keep = found.IsMissing
	done, err := republish.Deliver(ctx, p, first, catalog, pg)
	result.Published = done.Events
	if err != nil {
		return fmt.Errorf("after %s: %w; start it again", done, err)
	}
	return nil
}
