package retention

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/replication"
)

// A partition is dropped in steps, each of which may be the last one of a process:
//
//  1. It is old: the upper bound of its times is older than keep. Everything that was
//     committed until now is acknowledged, and it holds nothing that is younger.
//  2. A comment marks it, with the first transaction that need not be acknowledged.
//  3. It is detached. PostgreSQL does that in two transactions, and between them the
//     partition is pending (pg_inherits.inhdetachpending): a next run finishes that.
//  4. A SHARE lock on the table, which is nobody's part any more, stops writers. It is
//     looked through: nothing in it is younger than the mark. Then it is dropped, in the
//     same transaction.
//
// Step 4 looks again, because step 3 takes time. A row that is inserted directly into a
// partition while its detach is pending is decoded as that of another table: PostgreSQL
// does not publish it. (Measured with 17: such a row is in the table, and not in the
// stream.) A table with such rows is never dropped; an operator has to look.

// scheme is how the outbox is partitioned.
type scheme struct {
	column   string // of the key, quoted
	typ      string // its pg_type.typname
	hasOther bool   // there is a DEFAULT partition
}

// part is a partition, or what was one.
type part struct {
	oid, name string
	pending   bool
	old       bool
	mark      string // first transaction that need not be acknowledged, "": not marked
}

const (
	// detachTimeout is how long a detach may wait for transactions that use the table.
	// Writers do not wait meanwhile.
	detachTimeout = 20 * time.Second
	// shortLock is how long a detach may wait where writers do wait meanwhile: before
	// PostgreSQL 14, and beside a DEFAULT partition, it locks the whole table.
	shortLock = 100 * time.Millisecond
	// markPrefix begins the comment of a marked table.
	markPrefix = "outboxd retention: to be dropped, was a partition of "
	// keptPrefix begins that of one that was looked through in vain.
	keptPrefix = "outboxd retention: not dropped, was a partition of "
)

// errStays is the error of a partition that is not dropped, beside which others are.
var errStays = errors.New("a partition stays")

// judgePartitions judges whether partitions can be dropped, and by whom they are.
func (r *Retention) judgePartitions(ctx context.Context, p *plan, f facts) (found []problem, err error) {
	if p.root.kind != "p" {
		return []problem{{what: fmt.Sprintf("retention.mode is drop_partitions, and %s is not partitioned", p.root.name),
			fix: "set retention.mode: delete or archive, or partition the table by time"}}, nil
	}
	rows, err := r.conn.Rows(ctx, `SELECT k.partstrat::text, coalesce(a.attname, ''), k.partdefid <> 0,
			(WITH RECURSIVE base AS (
				SELECT t.typname, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
				UNION ALL SELECT t.typname, t.typtype, t.typbasetype FROM pg_type t JOIN base ON base.typtype = 'd' AND t.oid = base.typbasetype)
			 SELECT typname FROM base WHERE typtype <> 'd'),
			(SELECT bool_and(pg_has_role(c.relowner, 'USAGE')) FROM pg_class c WHERE c.oid = k.partrelid OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = k.partrelid))
		FROM pg_partitioned_table k LEFT JOIN pg_attribute a ON a.attrelid = k.partrelid AND a.attnum = k.partattrs[0] WHERE k.partrelid = `+p.root.oid)
	if err != nil || len(rows) != 1 {
		return nil, fmt.Errorf("read the partition key of %s: %w", p.root.name, err)
	}
	row := rows[0]
	p.scheme = scheme{column: replication.QuoteIdent(row[1]), typ: row[3], hasOther: row[2] == "t"}
	switch {
	case row[0] != "r" || row[1] == "" || timeOf("x", row[3]) == "":
		return []problem{{what: fmt.Sprintf("retention.mode drop_partitions does not know the partition scheme of %s: its partitions are no ranges of a column with a time", p.root.name),
			fix: "partition it BY RANGE of a timestamptz, timestamp or date column, or of outbox.columns.timestamp if that is a bigint; or set retention.mode: delete or archive"}}, nil
	case row[3] == "int8" && row[1] != r.o.Timestamp:
		return []problem{{what: fmt.Sprintf("retention.mode drop_partitions does not know whether column %s, by which %s is partitioned, is a time", p.scheme.column, p.root.name),
			fix: "name it in outbox.columns.timestamp if it has milliseconds since 1970, or set retention.mode: delete or archive"}}, nil
	case row[4] != "t":
		found = append(found, problem{passes: true, what: fmt.Sprintf("%s owns not all of %s and its partitions, and only an owner can detach and drop them", f.user, p.root.name),
			fix: "make the role a member of the owner: GRANT the owner TO " + f.user})
	}
	return found, nil
}

// judgePartman asks whether pg_partman removes partitions of the outbox.
func (r *Retention) judgePartman(ctx context.Context) ([]problem, error) {
	rows, err := r.conn.Rows(ctx, `SELECT quote_ident(n.nspname) || '.part_config', has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname = 'part_config' AND c.relkind = 'r'
			AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('parent_table', 'retention')) = 2`)
	if err != nil {
		return nil, fmt.Errorf("look for pg_partman: %w", err)
	}
	var found []problem
	for _, row := range rows {
		if row[1] != "t" {
			found = append(found, problem{harmless: true, what: "pg_partman is there, and its " + row[0] + " cannot be read: it may remove partitions of the outbox without asking whether Kafka has them",
				fix: "see that part_config.retention of the outbox is NULL"})
			continue
		}
		parent := replication.Literal(r.o.Source.Schema + "." + r.o.Source.Table)
		theirs, err := r.conn.Rows(ctx, "SELECT retention FROM "+row[0]+" WHERE parent_table = "+parent+" AND retention IS NOT NULL")
		if err != nil {
			return nil, fmt.Errorf("read pg_partman's configuration: %w", err)
		}
		if len(theirs) > 0 {
			sql := "UPDATE " + row[0] + " SET retention = NULL WHERE parent_table = " + parent
			found = append(found, problem{harmless: r.o.Mode != DropPartitions,
				what: fmt.Sprintf("pg_partman removes partitions of %s after %s (retention in %s), whether Kafka has them or not", r.table(), theirs[0][0], row[0]),
				fix:  "leave it to outboxd: " + sql + "; or set retention.mode: off", sql: []string{sql}})
		}
	}
	return found, nil
}

// dropPartitions is one run of mode DropPartitions.
func (r *Retention) dropPartitions(ctx context.Context, s session, p *plan) error {
	err := r.dropOld(ctx, s, p)
	if err == nil && len(r.kept) > 0 {
		return fmt.Errorf("rows were inserted into %s while it was being detached from %s, and PostgreSQL may not have published them; "+
			"see that Kafka has the events of its last rows, insert those that it lacks into %[2]s, and then run DROP TABLE %[1]s", strings.Join(r.kept, ", "), p.root.name)
	}
	return err
}

func (r *Retention) dropOld(ctx context.Context, s session, p *plan) error {
	if err := r.dropDetached(ctx, s, p); err != nil {
		return err
	}
	parts, err := r.parts(ctx, p)
	if err != nil {
		return err
	}
	var stays error
	for _, x := range parts {
		switch {
		case x.pending && x.mark == "":
			return fmt.Errorf("partition %s is half detached, and not by outboxd; finish it with ALTER TABLE %s DETACH PARTITION %s FINALIZE", x.name, p.root.name, x.name)
		case x.pending:
			err = r.detach(ctx, p, x, "FINALIZE")
		case x.old:
			err = r.retire(ctx, s, p, x)
		case x.mark != "":
			// Meanwhile rows are kept for longer.
			_, err = r.conn.Rows(ctx, "COMMENT ON TABLE "+x.name+" IS NULL")
		}
		if errors.Is(err, errStays) {
			stays, err = err, nil
		}
		if err == nil {
			err = r.dropDetached(ctx, s, p)
		}
		if err != nil {
			return err
		}
	}
	return stays
}

// parts reads the partitions of the table itself, the oldest first. One that is
// partitioned further goes as a whole.
func (r *Retention) parts(ctx context.Context, p *plan) (parts []part, err error) {
	pending := "false"
	if r.conn.Version >= 140000 {
		pending = "i.inhdetachpending"
	}
	rows, err := r.conn.Rows(ctx, fmt.Sprintf(`SELECT oid, name, pending, coalesce(%s <= now() - interval '%d ms', false), comment FROM (
			SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, %s AS pending, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
				substring(pg_get_expr(c.relpartbound, c.oid) FROM $bound$ TO \('([^']*)'$bound$)::%s AS bound
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = %s) x ORDER BY bound`,
		timeOf("bound", p.scheme.typ), r.o.Keep.Milliseconds(), pending, p.scheme.typ, p.root.oid))
	if err != nil {
		return nil, fmt.Errorf("read the partitions of %s: %w", p.root.name, err)
	}
	for _, row := range rows {
		parts = append(parts, part{oid: row[0], name: row[1], pending: row[2] == "t", old: row[3] == "t", mark: p.markOf(row[4])})
	}
	return parts, nil
}

// comment is the mark of a partition.
func (p *plan) comment(before string) string {
	return markPrefix + p.root.oid + ": all before transaction " + before + " is acknowledged"
}

// markOf returns the transaction of a comment, "" if it is no mark of the outbox's.
func (p *plan) markOf(comment string) string {
	rest, ok := strings.CutPrefix(comment, markPrefix+p.root.oid+": all before transaction ")
	if !ok {
		return ""
	}
	before, _, _ := strings.Cut(rest, " ")
	if _, err := strconv.ParseInt(before, 10, 64); err != nil {
		return ""
	}
	return before
}

// retire marks and detaches an old partition, if all of it is acknowledged.
func (r *Retention) retire(ctx context.Context, s session, p *plan, x part) error {
	// All transactions before the snapshot's xmin had ended, with their subtransactions.
	rows, err := r.conn.Rows(ctx, "SELECT pg_snapshot_xmin(pg_current_snapshot()), pg_current_wal_insert_lsn()")
	if err != nil {
		return err
	}
	x.mark = rows[0][0]
	if waits, err := r.acknowledged(ctx, s, p, rows[0][1]); waits || err != nil {
		return err
	}
	if p.floor.object != "" {
		count, fresh, err := r.younger(ctx, p, part{oid: x.oid, name: x.name, mark: p.floor.value})
		if err != nil {
			return err
		}
		if fresh < count {
			return fmt.Errorf("%w: %s has rows that were in it before the slot was made, and so are not published; delete them, or detach it by hand", errStays, x.name)
		}
	}
	_, late, err := r.younger(ctx, p, x)
	if err != nil {
		return err
	}
	if late > 0 {
		return nil // a later run finds them acknowledged, too
	}
	if _, err := r.conn.Rows(ctx, "COMMENT ON TABLE "+x.name+" IS "+replication.Literal(p.comment(x.mark))); err != nil {
		return fmt.Errorf("mark partition %s: %w", x.name, err)
	}
	how := "CONCURRENTLY"
	if r.conn.Version < 140000 || p.scheme.hasOther {
		how = ""
	}
	return r.detach(ctx, p, x, how)
}

// detach detaches a partition: CONCURRENTLY, FINALIZE, or "" for what locks the table.
func (r *Retention) detach(ctx context.Context, p *plan, x part, how string) error {
	lock := detachTimeout / 2
	if how == "" {
		lock = shortLock
	}
	// Each a statement of its own: a detach runs in no transaction.
	for _, sql := range []string{"SET statement_timeout = " + milliseconds(detachTimeout), "SET lock_timeout = " + milliseconds(lock),
		strings.TrimSpace("ALTER TABLE " + p.root.name + " DETACH PARTITION " + x.name + " " + how)} {
		if _, err := r.conn.Rows(ctx, sql); err != nil {
			if state := replication.SQLState(err); state == lockNotAvailable || state == queryCanceled {
				err = fmt.Errorf("a transaction that uses the table has not ended: %w", err)
			}
			err = fmt.Errorf("detach partition %s: %w", x.name, err)
			r.disconnect() // with its settings
			return err
		}
	}
	r.log.Info().Str("partition", x.name).Msg("the partition is detached")
	_, err := r.conn.Rows(ctx, "SET statement_timeout = "+milliseconds(r.timeout)+"; SET lock_timeout = "+milliseconds(lockTimeout))
	return err
}

// dropDetached drops the tables that are marked and no partition any more.
func (r *Retention) dropDetached(ctx context.Context, s session, p *plan) error {
	r.kept = nil
	rows, err := r.conn.Rows(ctx, `SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), d.description, pg_current_wal_insert_lsn()
		FROM pg_description d JOIN pg_class c ON c.oid = d.objoid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND NOT c.relispartition
			AND (starts_with(d.description, `+replication.Literal(markPrefix+p.root.oid+":")+`) OR starts_with(d.description, `+replication.Literal(keptPrefix+p.root.oid+":")+`))`)
	if err != nil {
		return fmt.Errorf("look for detached partitions: %w", err)
	}
	for _, row := range rows {
		x := part{oid: row[0], name: row[1], mark: p.markOf(row[2])}
		if x.mark == "" {
			r.kept = append(r.kept, x.name)
			continue
		}
		if waits, err := r.acknowledged(ctx, s, p, row[3]); waits || err != nil {
			return err
		}
		if err := r.drop(ctx, p, x); err != nil {
			if r.conn.Open() {
				_, _ = r.conn.Rows(ctx, "ROLLBACK")
			}
			return fmt.Errorf("drop %s, which was a partition of %s: %w", x.name, p.root.name, err)
		}
	}
	return nil
}

// keep marks a detached partition as one that is not dropped.
func (r *Retention) keep(ctx context.Context, p *plan, x part) error {
	_, err := r.conn.Rows(ctx, "ROLLBACK; COMMENT ON TABLE "+x.name+" IS "+replication.Literal(keptPrefix+p.root.oid+": it has rows from while it was being detached"))
	return err
}

// drop drops a detached partition, if nothing in it is younger than its mark.
func (r *Retention) drop(ctx context.Context, p *plan, x part) error {
	if _, err := r.conn.Rows(ctx, "BEGIN"); err != nil {
		return err
	}
	// No snapshot is held between the statements of the transaction.
	if _, err := r.conn.Rows(ctx, "LOCK TABLE "+x.name+" IN SHARE MODE"); err != nil {
		return err
	}
	count, late, err := r.younger(ctx, p, x)
	if err != nil {
		return err
	}
	if late > 0 {
		return r.keep(ctx, p, x)
	}
	if _, err := r.conn.Rows(ctx, "DROP TABLE "+x.name); err != nil {
		return err
	}
	if _, err := r.conn.Rows(ctx, "COMMIT"); err != nil {
		return err
	}
	r.removed.Add(count)
	r.log.Info().Str("partition", x.name).Int64("rows", count).Msg("the partition is dropped")
	return nil
}

// acknowledged waits until lsn is; waits says that it still is not.
func (r *Retention) acknowledged(ctx context.Context, s session, p *plan, text string) (waits bool, err error) {
	lsn, err := pglogrepl.ParseLSN(text)
	if err != nil {
		return false, err
	}
	err = await(ctx, s, p.commitEnd(lsn))
	if err != nil && ctx.Err() == nil {
		return true, nil // the connector says what Kafka waits for
	}
	return false, err
}

// younger counts the rows of a partition, and those that were not inserted before its mark.
func (r *Retention) younger(ctx context.Context, p *plan, x part) (count, late int64, err error) {
	rows, err := r.conn.Rows(ctx, `WITH RECURSIVE part AS (SELECT `+x.oid+`::oid AS oid UNION ALL SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.oid)
		SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), pg_relation_size(c.oid) FROM part JOIN pg_class c ON c.oid = part.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r'`)
	if err != nil {
		return 0, 0, fmt.Errorf("read the size of %s: %w", x.name, err)
	}
	for _, row := range rows {
		size, err := strconv.ParseInt(row[1], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		blocks := (size + p.block - 1) / p.block
		for first := int64(0); first < blocks; {
			end := min(blocks, first+int64(r.blocks.now))
			started := time.Now()
			answer, err := r.conn.Rows(ctx, fmt.Sprintf(`SELECT count(*), count(*) FILTER (WHERE %s)
				FROM %s t, (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) now WHERE %s`,
				notBefore(x.mark), row[0], r.pages(p, first, end)))
			if err != nil {
				if timedOut(err) {
					r.blocks.timedOut() // for the next run
				}
				return 0, 0, fmt.Errorf("look through %s: %w", row[0], err)
			}
			var n, m int64
			if _, err := fmt.Sscan(answer[0][0]+" "+answer[0][1], &n, &m); err != nil {
				return 0, 0, err
			}
			count, late, first = count+n, late+m, end
			if !rest(ctx, time.Since(started)/2) {
				return 0, 0, ctx.Err()
			}
		}
	}
	return count, late, nil
}

// notBefore is an SQL condition: a row t was not inserted before transaction mark, a
// number of 64 bits, as far as its xmin of 32 bits says; now.next is the next transaction.
//
// Seen from the next one, an xmin has an age modulo 2^32. The row's real age is that, or
// more by a multiple of 2^32 if it was frozen long ago: a row is never younger than it
// looks. So a row that looks older than the mark is, and an old one may look younger, for
// which the partition is only kept. Transactions 1 and 2 are before all others.
func notBefore(mark string) string {
	return "t.xmin::text NOT IN ('1', '2') AND now.next - ((now.next - t.xmin::text::bigint) & 4294967295) >= " + mark
}
