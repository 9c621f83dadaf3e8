// Package backfill reads the rows that were in the outbox table before its slot,
// and writes them as frames of the stream that the slot would have sent: one
// transaction, so that decoder, router and sink need to know nothing of it.
package backfill

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

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

// Reader reads the rows of one snapshot. It is used by one goroutine.
type Reader struct {
	o        Options
	pg       *pgconn.PgConn
	buffer   *replication.Buffer
	rows     *pgconn.ResultReader
	now      int64 // of the snapshot, microseconds since 2000
	expected int64
	read     int64
	next     func(context.Context) ([]byte, error)
}

// Open counts the rows and begins to read them over a connection whose
// transaction sees the snapshot. The reader closes the connection.
func Open(ctx context.Context, pg *pgconn.PgConn, o Options, memory *replication.Memory) (*Reader, error) {
	r := &Reader{o: o, pg: pg, buffer: replication.NewBuffer(memory)}
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

// Block returns the memory of the frame that Next returned last.
func (r *Reader) Block() *replication.Block { return r.buffer.Block() }

// Next returns the next frame: the transaction's Begin, a Relation, an Insert for
// each row, and the Commit; then io.EOF. Its data is valid until its block is
// released. It waits at the memory's limit.
func (r *Reader) Next(ctx context.Context) ([]byte, error) { return r.next(ctx) }

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

// relationID is the table's, in these frames.
const relationID = 1

// relation: Int32 id, String schema, String table, Int8 replica identity, Int16
// columns, then for each Int8 flags, String name, Int32 type, Int32 modifier.
func (r *Reader) relation(ctx context.Context) ([]byte, error) {
	fields := r.rows.FieldDescriptions()
	size := 1 + 4 + len(r.o.Schema) + 1 + len(r.o.Table) + 1 + 1 + 2
	for _, f := range fields {
		size += 1 + len(f.Name) + 1 + 4 + 4
	}
	frame, err := r.buffer.Make(ctx, size)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32(append(frame[:0], 'R'), relationID)
	b = append(append(append(append(b, r.o.Schema...), 0), r.o.Table...), 0, 'd')
	b = binary.BigEndian.AppendUint16(b, uint16(len(fields)))
	for _, f := range fields {
		b = append(append(append(b, 0), f.Name...), 0)
		b = binary.BigEndian.AppendUint32(b, f.DataTypeOID)
		b = binary.BigEndian.AppendUint32(b, uint32(f.TypeModifier))
	}
	r.next = r.insert
	return b, nil
}

// insert: Int32 relation, 'N', Int16 columns, then for each 'n', or 't', Int32
// length and the bytes.
func (r *Reader) insert(ctx context.Context) ([]byte, error) {
	if !r.rows.NextRow() {
		return r.commit(ctx)
	}
	r.read++
	values := r.rows.Values()
	size := 1 + 4 + 1 + 2
	for _, v := range values {
		size++
		if v != nil {
			size += 4 + len(v)
		}
	}
	frame, err := r.buffer.Make(ctx, size)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint32(append(frame[:0], 'I'), relationID)
	b = binary.BigEndian.AppendUint16(append(b, 'N'), uint16(len(values)))
	for _, v := range values {
		if v == nil {
			b = append(b, 'n')
			continue
		}
		b = append(binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v))), v...)
	}
	return b, nil
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
	r.next = func(context.Context) ([]byte, error) { return nil, io.EOF }
	return binary.BigEndian.AppendUint64(b, uint64(r.now)), nil
}
