package retention

import (
	"context"
	"fmt"
	"strings"
	"time"

	"outboxd/internal/replication"
)

const (
	// refusedLimit is how many rows of a run may be refused one by one, by the archive
	// table or a foreign key, and lockedLimit how many batches may meet a locked row,
	// before the run ends.
	refusedLimit = 20
	lockedLimit  = 5
)

// trouble is what kept some rows of a run in the table.
type trouble struct {
	refused, locked int
	why             error
}

func (t *trouble) err() error {
	if t.why == nil {
		return nil
	}
	return fmt.Errorf("some rows stay in the outbox table: %w", t.why)
}

// flush waits until Kafka has acknowledged what was read, and removes it.
func (r *Retention) flush(ctx context.Context, s session, p *plan, q *queue, t *trouble) error {
	rows := q.rows
	q.rows = nil
	if len(rows) == 0 {
		return nil
	}
	if err := await(ctx, s, q.lsn); err != nil {
		q.again(rows)
		if ctx.Err() == nil {
			return nil // the connector says what Kafka waits for
		}
		return err
	}
	for len(rows) > 0 {
		n := min(r.batch.now, len(rows))
		if err := r.remove(ctx, p, q, rows[:n], t); err != nil {
			q.again(rows)
			return err
		}
		rows = rows[n:]
		if time.Since(r.measured) > measureEvery {
			if err := r.measure(ctx); err != nil {
				q.again(rows)
				return err
			}
		}
	}
	for i := range q.state.chunks {
		if c := &q.state.chunks[i]; c.due != 0 {
			c.oldest = c.after
		}
	}
	return nil
}

// again makes the parts that rows are in due at once.
func (q *queue) again(rows []row) {
	for _, row := range rows {
		if i := int(row.block / chunkBlocks); i < len(q.state.chunks) {
			q.state.chunks[i].due = 0
		}
	}
}

// remove removes rows by one statement, or by several smaller ones where that fails.
func (r *Retention) remove(ctx context.Context, p *plan, q *queue, rows []row, t *trouble) error {
	started := time.Now()
	n, err := r.removeNow(ctx, p, q.leaf, rows)
	switch state := replication.SQLState(err); {
	case err == nil:
		r.removed.Add(n)
		r.batch.worked()
	case timedOut(err) && len(rows) > 1:
		r.batch.timedOut()
		return r.halves(ctx, p, q, rows, t)
	case state == lockNotAvailable:
		// Another transaction has locked one of them. It takes too long to find out which.
		t.locked, t.why = t.locked+1, fmt.Errorf("another transaction has locked one of them: %w", err)
		q.again(rows)
		if t.locked >= lockedLimit {
			return t.err()
		}
	case refused(state) && len(rows) > 1:
		return r.halves(ctx, p, q, rows, t)
	case refused(state):
		if state == divisionByZero {
			err = fmt.Errorf("%s did not take every row: it has a trigger or a rule that does something else", p.archive)
		}
		t.refused, t.why = t.refused+1, err
		q.again(rows)
		if t.refused >= refusedLimit {
			return t.err()
		}
	default:
		return fmt.Errorf("remove rows of %s: %w", q.leaf.name, err)
	}
	if !rest(ctx, time.Since(started)) {
		return ctx.Err()
	}
	return nil
}

func (r *Retention) halves(ctx context.Context, p *plan, q *queue, rows []row, t *trouble) error {
	if !rest(ctx, time.Millisecond) {
		return ctx.Err()
	}
	half := len(rows) / 2
	if err := r.remove(ctx, p, q, rows[:half], t); err != nil {
		return err
	}
	return r.remove(ctx, p, q, rows[half:], t)
}

// timedOut reports whether a statement took too long.
func timedOut(err error) bool { return replication.SQLState(err) == queryCanceled }

// refused tells an error that is that of a row: of its data, or of a constraint.
func refused(state string) bool {
	return strings.HasPrefix(state, "22") || strings.HasPrefix(state, "23")
}

// removeNow is one statement, which is one transaction. It returns how many rows it has
// removed: those of which somebody has made another version are not among them.
func (r *Retention) removeNow(ctx context.Context, p *plan, l relation, rows []row) (int64, error) {
	answer, err := r.conn.Rows(ctx, p.removeSQL(l, rows))
	if err != nil {
		return 0, err
	}
	var n int64
	_, err = fmt.Sscan(answer[0][0], &n)
	return n, err
}

// removeSQL is the statement of removeNow. The xmins are those of committed transactions,
// which can insert nothing more: that they are compared with all of the batch's is enough.
func (p *plan) removeSQL(l relation, rows []row) string {
	var places, inserters strings.Builder
	last := uint32(0)
	for i, row := range rows {
		if i > 0 {
			places.WriteByte(',')
		}
		fmt.Fprintf(&places, `"(%d,%d)"`, row.block, row.offset)
		if i == 0 || row.xmin != last {
			if i > 0 {
				inserters.WriteByte(',')
			}
			fmt.Fprint(&inserters, row.xmin)
			last = row.xmin
		}
	}
	name := l.name
	if !l.may {
		name = p.root.name
	}
	remove := fmt.Sprintf("DELETE FROM %s t WHERE t.ctid = ANY ('{%s}'::tid[]) AND t.xmin = ANY ('{%s}'::xid[]) AND t.tableoid = %s",
		name, places.String(), inserters.String(), l.oid)
	if p.archive == "" {
		return "WITH gone AS (" + remove + " RETURNING 1) SELECT count(*) FROM gone"
	}
	// A trigger of the archive table may drop a row without a word: then the division
	// fails, and with it the whole statement.
	columns := strings.Join(p.columns, ", ")
	return fmt.Sprintf(`WITH gone AS (%s RETURNING %s), moved AS (INSERT INTO %s (%[2]s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM gone RETURNING 1),
		counted AS (SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM moved) AS moved)
		SELECT CASE WHEN gone = moved THEN gone ELSE gone / (gone - gone) END FROM counted`, remove, columns, p.archive)
}
