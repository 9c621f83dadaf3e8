// Package backfill is the rows that were in the outbox table before its slot as a
// source of the flow. It reads them and writes them as messages of the stream that the
// slot would have sent: one transaction, so that decoder, router and sink need to know
// nothing of it.
package backfill

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/replication"
	"outboxd/sink"
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

// Reader reads the rows of one snapshot. It is used by one goroutine, but for Handed and
// Interrupt.
type Reader struct {
	o        Options
	pg       *pgconn.PgConn
	buffer   *replication.Buffer
	rows     *pgconn.ResultReader
	now      int64 // of the snapshot, microseconds since 2000
	expected int64
	read     int64
	handed   atomic.Int64
	ctx      context.Context // of the reads
	next     func(context.Context) ([]byte, error)
}

// Open counts the rows and begins to read them over a connection whose
// transaction sees the snapshot. The reader closes the connection.
func Open(ctx context.Context, pg *pgconn.PgConn, o Options, memory *replication.Memory) (*Reader, error) {
	r := &Reader{o: o, pg: pg, ctx: ctx, buffer: replication.NewBuffer(memory)}
	r.next = r.begin
	query, err := r.prepare(ctx)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	r.rows = pg.ExecParams(ctx, query, nil, nil, nil, nil)
	return r, nil
}

// prepare counts the rows and returns the query for them.
func (r *Reader) prepare(ctx context.Context) (string, error) {
	o := &r.o
	name := replication.QuoteIdent(o.Schema) + "." + replication.QuoteIdent(o.Table)
	facts, err := r.ask(ctx, `SELECT relkind::text, round(extract(epoch from now()) * 1000000)::bigint - 946684800000000,
			coalesce((SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = $2 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)),
				(SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
					WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)))
		FROM pg_class c WHERE c.oid = $1::regclass`, name, o.ID)
	if err != nil {
		return "", err
	}
	kind, serial := string(facts[0]), string(facts[2])
	if r.now, err = strconv.ParseInt(string(facts[1]), 10, 64); err != nil {
		return "", err
	}
	from := " FROM ONLY " + name // those that inherit from it are other tables to the stream
	if kind == "p" {
		from = " FROM " + name
	}
	if o.Filter != "" {
		from += " WHERE " + o.Filter
	}
	count, err := r.ask(ctx, "SELECT count(*)"+from)
	if err != nil {
		return "", err
	}
	if r.expected, err = strconv.ParseInt(string(count[0]), 10, 64); err != nil {
		return "", err
	}
	if r.expected > math.MaxUint32 {
		return "", fmt.Errorf("%d rows are more than a position can number (%d)", r.expected, uint32(math.MaxUint32))
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
func (r *Reader) ask(ctx context.Context, sql string, args ...string) ([][]byte, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	result := r.pg.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 {
		return nil, fmt.Errorf("%d rows instead of one", len(result.Rows))
	}
	return result.Rows[0], nil
}

// Expected is the number of rows in the snapshot.
func (r *Reader) Expected() int64 { return r.expected }

// Within sets the context whose end ends a Next that waits for memory.
func (r *Reader) Within(ctx context.Context) *Reader {
	r.ctx = ctx
	return r
}

// Next returns the next message: the transaction's Begin, a Relation, an Insert for
// each row, and the Commit; then flow.ErrEnd. It waits at the memory's limit, until
// the context of Within ends.
func (r *Reader) Next() (flow.Frame, error) {
	r.handed.Store(r.read) // the flow has done with what it was given before
	data, err := r.next(r.ctx)
	return flow.Frame{Data: data}, err
}

// Retain keeps the memory of the frame that Next returned last.
func (r *Reader) Retain() sink.Memory {
	block := r.buffer.Block()
	block.Retain()
	return block
}

// Handed returns how many rows were handed on. Any goroutine may call it.
func (r *Reader) Handed() int64 { return r.handed.Load() }

// Close ends the connection. Events keep their blocks.
func (r *Reader) Close() {
	r.buffer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.pg.Close(ctx)
}

// Interrupt makes a Next that waits for the server fail, now and later. Any
// goroutine may call it.
func (r *Reader) Interrupt() { _ = r.pg.Conn().SetDeadline(time.Unix(1, 0)) }

// lsn is the LSN that stands for the commits of all rows. Every commit that comes
// from the slot lies at the slot's beginning or after it, and records of the WAL
// begin at multiples of eight: so the byte before comes before each of them, and
// is the position of no other event ever.
func (r *Reader) lsn() uint64 { return uint64(r.o.Slot) - 1 }

// begin: Int64 LSN of the commit record, Int64 commit time, Int32 xid. The time
// of the snapshot stands for times of commits that nobody has kept.
func (r *Reader) begin(ctx context.Context) ([]byte, error) {
	frame, err := r.buffer.Make(ctx, 1+8+8+4)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint64(append(frame[:0], 'B'), r.lsn())
	b = binary.BigEndian.AppendUint64(b, uint64(r.now))
	r.next = r.relation
	return binary.BigEndian.AppendUint32(b, 0), nil
}

// relation is the table's columns.
func (r *Reader) relation(ctx context.Context) ([]byte, error) {
	var columns []decoder.RowColumn
	for _, f := range r.rows.FieldDescriptions() {
		columns = append(columns, decoder.RowColumn{Name: f.Name, Type: f.DataTypeOID, Modifier: f.TypeModifier})
	}
	relation := decoder.AppendRelation(nil, r.o.Schema, r.o.Table, columns)
	frame, err := r.buffer.Make(ctx, len(relation))
	if err != nil {
		return nil, err
	}
	r.next = r.insert
	return append(frame[:0], relation...), nil
}

// insert is the next row; the commit after the last.
func (r *Reader) insert(ctx context.Context) ([]byte, error) {
	if !r.rows.NextRow() {
		return r.commit(ctx)
	}
	r.read++
	values := r.rows.Values()
	frame, err := r.buffer.Make(ctx, decoder.InsertLen(values))
	if err != nil {
		return nil, err
	}
	return decoder.AppendInsert(frame[:0], values), nil
}

// commit: Int8 flags, Int64 LSN of the commit, Int64 end LSN, Int64 time.
func (r *Reader) commit(ctx context.Context) ([]byte, error) {
	if _, err := r.rows.Close(); err != nil {
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	if r.read != r.expected {
		return nil, fmt.Errorf("read the outbox table: %d rows came, and the same snapshot counted %d", r.read, r.expected)
	}
	frame, err := r.buffer.Make(ctx, 1+1+8+8+8)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint64(append(frame[:0], 'C', 0), r.lsn())
	b = binary.BigEndian.AppendUint64(b, uint64(r.o.Slot))
	r.next = func(context.Context) ([]byte, error) { return nil, flow.ErrEnd }
	return binary.BigEndian.AppendUint64(b, uint64(r.now)), nil
}
