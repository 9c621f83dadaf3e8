package reconcile

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/tidwall/gjson"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pageHeader is the most that stands at the beginning of a page of the WAL.
const pageHeader = 40

// written returns the end of the WAL, once it is durable: every transaction whose rows
// were seen has its commit record before.
func written(ctx context.Context, pg *pgconn.PgConn, standby bool) (pglogrepl.LSN, error) {
	inserted, flushed := "pg_current_wal_insert_lsn()", "pg_current_wal_flush_lsn()"
	if standby {
		inserted, flushed = "pg_last_wal_replay_lsn()", "pg_last_wal_replay_lsn()"
	}
	ask := func(function string) (pglogrepl.LSN, error) {
		result := pg.ExecParams(ctx, "SELECT "+function+"::text", nil, nil, nil, nil).Read()
		if result.Err != nil {
			return 0, fmt.Errorf("read the end of the WAL: %w", result.Err)
		}
		return pglogrepl.ParseLSN(string(result.Rows[0][0]))
	}
	want, err := ask(inserted)
	if err != nil {
		return 0, err
	}
	// What is inserted next may stand behind a page's header, which is written with it.
	if into := want % 8192; into <= pageHeader {
		want -= into
	}
	for {
		at, err := ask(flushed)
		if err != nil || at >= want {
			return at, err
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// readDead reads which events are in the dead-letter topic.
func (c *comparison) readDead(ctx context.Context) error {
	if c.o.DeadLetters == "" {
		return nil
	}
	topics, err := c.cluster.look(ctx, []string{c.o.DeadLetters}, time.Time{})
	if err != nil {
		return err
	}
	id := c.o.Table.Columns[0].Name
	for partition, p := range topics[c.o.DeadLetters].parts {
		err := c.cluster.read(ctx, c.o.DeadLetters, int32(partition), p.from, p.end, func(r *kgo.Record) error {
			e := entry{kind: deadEntry, id: string(c.form.read(r).id)}
			if e.id == "" {
				// The value is the row's columns as text.
				gjson.ParseBytes(r.Value).ForEach(func(name, value gjson.Result) bool {
					if name.Str == id {
						e.id = value.Str
					}
					return e.id == ""
				})
			}
			if e.id == "" || len(e.id) > maxID {
				return nil
			}
			return c.spill.add(&e, false)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
