package backfill

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/decoder"
	"outboxd/internal/replication"
)

// Options say what to read.
type Options struct {
	Schema, Table string
	Columns       []string // without repetitions
	// Timestamp and ID are the columns of these fields, "" for none: they may tell
	// the order of the rows.
	Timestamp, ID string
	Filter        string // an SQL condition of the publication, "" for none
	// Slot is where the slot begins.
	Slot pglogrepl.LSN
}

// query is the rows of a table as its server has them.
type query struct {
	o    Options
	pg   *pgconn.PgConn
	rows *pgconn.ResultReader
}

// Open counts the rows and begins to read them over a connection whose
// transaction sees the snapshot. The reader closes the connection.
func Open(ctx context.Context, pg *pgconn.PgConn, o Options, memory *replication.Memory) (*Reader, error) {
	q := &query{o: o, pg: pg}
	s := Snapshot{Schema: o.Schema, Table: o.Table, Slot: o.Slot}
	sql, err := q.prepare(ctx, &s)
	if err != nil {
		q.Close()
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	q.rows = pg.ExecParams(ctx, sql, nil, nil, nil, nil)
	return New(ctx, s, q, memory), nil
}

// prepare counts the rows and returns the query for them.
func (q *query) prepare(ctx context.Context, s *Snapshot) (string, error) {
	o := &q.o
	name := replication.QuoteIdent(o.Schema) + "." + replication.QuoteIdent(o.Table)
	facts, err := q.ask(ctx, `SELECT relkind::text, round(extract(epoch from now()) * 1000000)::bigint - 946684800000000,
			coalesce((SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $2 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)),
				(SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
					WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)))
		FROM pg_class c WHERE c.oid = $1::regclass`, name, o.ID)
	if err != nil {
		return "", err
	}
	kind, serial := string(facts[0]), string(facts[2])
	if s.Now, err = strconv.ParseInt(string(facts[1]), 10, 64); err != nil {
		return "", err
	}
	from := " FROM ONLY " + name // those that inherit from it are other tables to the stream
	if kind == "p" {
		from = " FROM " + name
	}
	if o.Filter != "" {
		from += " WHERE " + o.Filter
	}
	count, err := q.ask(ctx, "SELECT count(*)"+from)
	if err != nil {
		return "", err
	}
	if s.Expected, err = strconv.ParseInt(string(count[0]), 10, 64); err != nil {
		return "", err
	}
	if s.Expected > math.MaxUint32 {
		return "", fmt.Errorf("%d rows are more than a position can number (%d)", s.Expected, uint32(math.MaxUint32))
	}
	columns := make([]string, len(o.Columns))
	for i, c := range o.Columns {
		columns[i] = replication.QuoteIdent(c)
	}
	return "SELECT " + strings.Join(columns, ", ") + from + order(o.Timestamp, serial), nil
}

// order is the best guess at the order of commits, which a table does not keep:
// the business time, then a number that was counted up, else where the rows lie.
// Rows without either come as they lie without being asked to.
func order(timestamp, serial string) string {
	var by []string
	if timestamp != "" {
		by = append(by, replication.QuoteIdent(timestamp)+" NULLS FIRST")
	}
	switch {
	case serial != "":
		by = append(by, replication.QuoteIdent(serial))
	case by != nil:
		by = append(by, "tableoid", "ctid")
	default:
		return ""
	}
	return " ORDER BY " + strings.Join(by, ", ")
}

// ask runs a query that returns exactly one row.
func (q *query) ask(ctx context.Context, sql string, args ...string) ([][]byte, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	result := q.pg.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 {
		return nil, fmt.Errorf("%d rows instead of one", len(result.Rows))
	}
	return result.Rows[0], nil
}

func (q *query) Columns() (columns []decoder.RowColumn) {
	for _, f := range q.rows.FieldDescriptions() {
		columns = append(columns, decoder.RowColumn{Name: f.Name, Type: f.DataTypeOID, Modifier: f.TypeModifier})
	}
	return columns
}

func (q *query) NextRow() bool    { return q.rows.NextRow() }
func (q *query) Values() [][]byte { return q.rows.Values() }

func (q *query) End() error {
	_, err := q.rows.Close()
	return err
}

func (q *query) Interrupt() { _ = q.pg.Conn().SetDeadline(time.Unix(1, 0)) }

func (q *query) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = q.pg.Close(ctx)
}
