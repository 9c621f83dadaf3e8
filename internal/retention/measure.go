package retention

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"outboxd/internal/replication"
	"outboxd/internal/status"
)

// measure finds out how many rows the table has, and how old the oldest is, as far as
// statistics, an index or what was read anyway say it. It never counts.
func (r *Retention) measure(ctx context.Context) error {
	rows, err := r.estimate(ctx)
	if err != nil {
		return err
	}
	oldest, known, err := r.oldest(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.measured = time.Now()
	r.outbox = status.Outbox{Rows: rows, OldestRow: -1}
	if known {
		r.outbox.OldestRow = oldest
	}
	return nil
}

// estimate returns what the statistics say, -1 if that is nothing.
//
// n_live_tup follows inserts and deletes; it is lost with a crash of the server, and then
// reltuples, which VACUUM and ANALYZE write, counts for the pages that there are now.
func (r *Retention) estimate(ctx context.Context) (int64, error) {
	rows, err := r.conn.Rows(ctx, r.tree()+` SELECT coalesce(sum(CASE
			WHEN s.n_tup_ins > 0 OR s.n_tup_del > 0 OR s.n_live_tup > 0 THEN s.n_live_tup
			WHEN c.reltuples >= 0 AND c.relpages > 0 THEN c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::int)
			WHEN pg_relation_size(c.oid) = 0 THEN 0 END)::bigint, -1)
		FROM part JOIN pg_class c ON c.oid = part.oid LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.relkind = 'r'`)
	if err != nil {
		return 0, fmt.Errorf("read the statistics of the outbox table: %w", err)
	}
	return strconv.ParseInt(rows[0][0], 10, 64)
}

// oldest returns the age of the oldest row: by an index on the column with the time, or
// else by what was read of the table, once all of it was.
func (r *Retention) oldest(ctx context.Context) (age time.Duration, known bool, err error) {
	if r.o.Timestamp != "" {
		age, known, err = r.oldestByIndex(ctx)
		if known || err != nil {
			return age, known, err
		}
	}
	if r.o.Mode != Delete && r.o.Mode != Archive || len(r.leaves) == 0 {
		return 0, false, nil
	}
	oldest := int64(never)
	for _, l := range r.leaves {
		for _, c := range l.chunks {
			if !c.looked {
				return 0, false, nil
			}
			oldest = min(oldest, c.oldest)
		}
	}
	if oldest == never {
		return 0, true, nil
	}
	return max(0, time.Since(time.UnixMilli(oldest))), true, nil
}

// oldestByIndex is known if a B-tree index of the whole table begins with the column.
func (r *Retention) oldestByIndex(ctx context.Context) (age time.Duration, known bool, err error) {
	column := replication.QuoteIdent(r.o.Timestamp)
	rows, err := r.conn.Rows(ctx, fmt.Sprintf(`SELECT (SELECT t.typname FROM pg_type t WHERE t.oid = a.atttypid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = %s AND NOT a.attisdropped
		WHERE n.nspname = %s AND c.relname = %s AND has_column_privilege(c.oid, a.attnum, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
			AND EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
				WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum)`,
		replication.Literal(r.o.Timestamp), replication.Literal(r.o.Source.Schema), replication.Literal(r.o.Source.Table)))
	if err != nil || len(rows) == 0 {
		return 0, false, err
	}
	at := timeOf("min("+column+")", rows[0][0])
	if at == "" {
		return 0, false, nil
	}
	// Both ends of the transaction: the limit is this question's. Rows that were deleted
	// and not vacuumed yet stand at this end of the index.
	rows, err = r.conn.Rows(ctx, fmt.Sprintf(`BEGIN; SET LOCAL statement_timeout = '1s';
		SELECT CASE WHEN isfinite(at) THEN extract(epoch FROM now() - at)::float8 END, at IS NULL FROM (SELECT %s AS at FROM %s) m; COMMIT`, at, r.table()))
	if timedOut(err) {
		_, err = r.conn.Rows(ctx, "ROLLBACK")
		return 0, false, err
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the oldest row of the outbox table: %w", err)
	}
	if rows[0][1] == "t" {
		return 0, true, nil
	}
	seconds, err := strconv.ParseFloat(rows[0][0], 64)
	if err != nil {
		return 0, false, nil // infinite
	}
	return time.Duration(max(0, seconds) * float64(time.Second)), true, nil
}
