package table

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/decoder"
	"outboxd/internal/replication"
)

// Filter selects rows; its zero value selects all.
type Filter struct {
	// Since and Until bound the rows' time: that of the timestamp column, else of the
	// commit where the server keeps it. Since is inclusive, Until exclusive.
	Since, Until time.Time
	// IDs, AggregateIDs and Types are the texts of these columns.
	IDs, AggregateIDs, Types []string
}

// blocksAtOnce is how many blocks of 8 kB a statement reads: 2 MB take some
// milliseconds. Before PostgreSQL 14, which has no scan of a range of blocks, every
// place that a row could be at is named, so that it is fewer.
const (
	blocksAtOnce    = 256
	oldBlocksAtOnce = 32
	placesInBlock   = 291 // MaxHeapTuplesPerPage with blocks of 8 kB
)

// Scan calls visit for each row that the filter selects, as they lie in the tables.
// visit's error ends it.
func (r *Reader) Scan(ctx context.Context, f Filter, visit func(*Row) error) error {
	return r.ScanFrom(ctx, f, 0, visit)
}

// Blocks returns how many blocks a scan reads.
func (r *Reader) Blocks(ctx context.Context) (n int64, err error) {
	for _, s := range r.tables {
		for _, p := range s.parts {
			blocks, err := r.blocks(ctx, p)
			if err != nil {
				return 0, err
			}
			n += blocks
		}
	}
	return n, nil
}

func (r *Reader) blocks(ctx context.Context, p part) (int64, error) {
	row, err := r.one(ctx, `SELECT (coalesce(pg_relation_size($1::oid), 0) / current_setting('block_size')::int8)::text`, strconv.FormatUint(uint64(p.oid), 10))
	if err != nil {
		return 0, fmt.Errorf("read the size of table %s: %w", p.name, err)
	}
	return strconv.ParseInt(string(row[0]), 10, 64)
}

// ScanFrom is Scan without the tables before the given one: 1 is the archive alone.
func (r *Reader) ScanFrom(ctx context.Context, f Filter, table int, visit func(*Row) error) error {
	where, args, err := r.where(f)
	if err != nil {
		return err
	}
	for at, s := range r.tables {
		if at < table {
			continue
		}
		for _, p := range s.parts {
			if err := r.scanPart(ctx, s, p, where, args, at > 0, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Reader) scanPart(ctx context.Context, s source, p part, where string, args []string, archived bool, visit func(*Row) error) error {
	blocks, err := r.blocks(ctx, p)
	if err != nil {
		return err
	}
	step := int64(blocksAtOnce)
	piece := `t.ctid >= format('(%%s,0)', $%[1]d::int8)::tid AND t.ctid < format('(%%s,0)', $%[2]d::int8)::tid`
	if r.version < 140000 {
		step = oldBlocksAtOnce
		piece = `t.ctid = ANY (ARRAY(SELECT format('(%%s,%%s)', b, o)::tid FROM generate_series($%[1]d::int8, $%[2]d::int8 - 1) b, generate_series(1, ` + strconv.Itoa(placesInBlock) + `) o))`
	}
	sql := r.selected(s) + " FROM ONLY " + p.name + " t WHERE " + fmt.Sprintf(piece, len(args)+1, len(args)+2) + where
	for from := int64(0); from < blocks; from += step {
		err := r.query(ctx, sql, append(args[:len(args):len(args)], strconv.FormatInt(from, 10), strconv.FormatInt(min(from+step, blocks), 10)), archived, visit)
		if isGone(err) {
			return nil // a partition that was dropped meanwhile
		}
		if err != nil {
			return err
		}
		r.done += min(step, blocks-from)
	}
	return nil
}

// Done returns how many blocks were read.
func (r *Reader) Done() int64 { return r.done }

// isGone tells the error of a table that does not exist.
func isGone(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "42P01"
}

// where returns the condition of a filter, which begins with AND, and its arguments.
func (r *Reader) where(f Filter) (string, []string, error) {
	var b strings.Builder
	var args []string
	if r.o.Where != "" {
		b.WriteString(" AND (" + r.o.Where + ")")
	}
	arg := func(format, value string) {
		args = append(args, value)
		fmt.Fprintf(&b, " AND "+format, len(args))
	}
	if !f.Since.IsZero() || !f.Until.IsZero() {
		expression, ok := r.timeSQL()
		if !ok {
			return "", nil, ErrNoTime
		}
		if !f.Since.IsZero() {
			arg(expression+" >= $%d::timestamptz", f.Since.UTC().Format(time.RFC3339Nano))
		}
		if !f.Until.IsZero() {
			arg(expression+" < $%d::timestamptz", f.Until.UTC().Format(time.RFC3339Nano))
		}
	}
	for _, c := range []struct {
		field decoder.Field
		texts []string
	}{{decoder.ID, f.IDs}, {decoder.AggregateID, f.AggregateIDs}, {decoder.Type, f.Types}} {
		if c.texts == nil {
			continue
		}
		name := r.o.Event.Columns[c.field].Name
		if name == "" {
			return "", nil, fmt.Errorf("outbox.columns.%s is not mapped, so that rows cannot be selected by it", c.field)
		}
		arg(replication.QuoteIdent(name)+"::text = ANY ($%d::text[])", array(c.texts))
	}
	return b.String(), args, nil
}

// timeSQL is the row's time as timestamptz.
func (r *Reader) timeSQL() (string, bool) {
	column := replication.QuoteIdent(r.o.Event.Columns[decoder.Timestamp].Name)
	switch {
	case r.timeType == "bigint":
		return "to_timestamp(" + column + " / 1000.0)", true
	case r.timeType != "":
		return column, true // without a time zone it is UTC, as the connection's
	case r.tracked:
		return "pg_xact_commit_timestamp(xmin)", true
	}
	return "", false
}

// array is a PostgreSQL array of texts.
func array(texts []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, t := range texts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		b.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(t))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// idsAtOnce is how many ids a statement asks for.
const idsAtOnce = 500

// ByID calls visit for the rows with these ids, in no order, in the outbox and then in
// the archive.
func (r *Reader) ByID(ctx context.Context, ids []string, visit func(*Row) error) error {
	where, args, err := r.where(Filter{})
	if err != nil {
		return err
	}
	return r.byID(ctx, ids, where, args, visit)
}

// Select is Scan, by the index of the ids where the filter names some: then the rows
// come in no order.
func (r *Reader) Select(ctx context.Context, f Filter, visit func(*Row) error) error {
	if f.IDs == nil {
		return r.Scan(ctx, f, visit)
	}
	ids := f.IDs
	f.IDs = nil
	where, args, err := r.where(f)
	if err != nil {
		return err
	}
	return r.byID(ctx, ids, where, args, visit)
}

func (r *Reader) byID(ctx context.Context, ids []string, where string, args []string, visit func(*Row) error) error {
	id := replication.QuoteIdent(r.o.Event.Columns[decoder.ID].Name)
	for len(ids) > 0 {
		n := min(len(ids), idsAtOnce)
		args := append(args[:len(args):len(args)], array(ids[:n]))
		ids = ids[n:]
		for at, s := range r.tables {
			from := r.selected(s) + " FROM " + s.roots + " WHERE " + id
			err := r.query(ctx, fmt.Sprintf("%s = ANY ($%d::%s[])%s", from, len(args), r.idType, where), args, at > 0, visit)
			if isNoValue(err) {
				// Not every text that a record names is one of the column's type.
				err = r.query(ctx, fmt.Sprintf("%s::text = ANY ($%d::text[])%s", from, len(args), where), args, at > 0, visit)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// isNoValue tells a text that is no value of the type that it should be of.
func isNoValue(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && strings.HasPrefix(refused.Code, "22")
}

// query runs one statement and visits its rows.
func (r *Reader) query(ctx context.Context, sql string, args []string, archived bool, visit func(*Row) error) error {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	rows := r.pg.ExecParams(ctx, sql, values, nil, nil, nil)
	described := false
	var stop error
	for stop == nil && rows.NextRow() {
		if !described {
			if stop = r.describe(rows.FieldDescriptions()); stop != nil {
				break
			}
			described = true
		}
		var row Row
		if row, stop = r.row(ctx, rows.Values(), archived); stop == nil {
			stop = visit(&row)
		}
	}
	_, err := rows.Close()
	switch {
	case stop != nil:
		return stop
	case err != nil:
		return fmt.Errorf("read the outbox table: %w", err)
	}
	return nil
}
