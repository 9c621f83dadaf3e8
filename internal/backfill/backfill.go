// Package backfill is the rows that were in the outbox table before its slot as a
// source of the flow. It reads them and writes them as messages of the stream that the
// slot would have sent: one transaction, so that decoder, router and sink need to know
// nothing of it.
package backfill

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/replication"
	"outboxd/sink"
)

// Rows are the rows of a snapshot, in the order in which they are published.
type Rows interface {
	Columns() []decoder.RowColumn
	// NextRow returns false after the last row, or a fault.
	NextRow() bool
	Values() [][]byte // of the row, valid until the next; a NULL is nil
	// End says, after the last row, whether all were read.
	End() error
	// Interrupt makes a NextRow that waits for the server fail, now and later. Any
	// goroutine may call it.
	Interrupt()
	Close()
}

// Snapshot says what rows are read.
type Snapshot struct {
	Schema, Table string
	Slot          pglogrepl.LSN // where the slot begins
	Now           int64         // the time of the snapshot, microseconds since 2000
	Expected      int64         // the number of its rows
}

// Reader reads the rows of one snapshot. It is used by one goroutine, but for Handed and
// Interrupt.
type Reader struct {
	s      Snapshot
	rows   Rows
	buffer *replication.Buffer
	read   int64
	handed atomic.Int64
	ctx    context.Context // of the reads
	next   func(context.Context) ([]byte, error)
}

// New returns a reader of rows, which it closes.
func New(ctx context.Context, s Snapshot, rows Rows, memory *replication.Memory) *Reader {
	r := &Reader{s: s, rows: rows, ctx: ctx, buffer: replication.NewBuffer(memory)}
	r.next = r.begin
	return r
}

// Expected is the number of rows in the snapshot.
func (r *Reader) Expected() int64 { return r.s.Expected }

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
	r.rows.Close()
}

// Interrupt makes a Next that waits for the server fail, now and later. Any
// goroutine may call it.
func (r *Reader) Interrupt() { r.rows.Interrupt() }

// lsn is the LSN that stands for the commits of all rows. Every commit that comes
// from the slot lies at the slot's beginning or after it, and records of the WAL
// begin at multiples of eight: so the byte before comes before each of them, and
// is the position of no other event ever.
func (r *Reader) lsn() uint64 { return uint64(r.s.Slot) - 1 }

// begin: Int64 LSN of the commit record, Int64 commit time, Int32 xid. The time
// of the snapshot stands for times of commits that nobody has kept.
func (r *Reader) begin(ctx context.Context) ([]byte, error) {
	frame, err := r.buffer.Make(ctx, 1+8+8+4)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint64(append(frame[:0], 'B'), r.lsn())
	b = binary.BigEndian.AppendUint64(b, uint64(r.s.Now))
	r.next = r.relation
	return binary.BigEndian.AppendUint32(b, 0), nil
}

// relation is the table's columns.
func (r *Reader) relation(ctx context.Context) ([]byte, error) {
	relation := decoder.AppendRelation(nil, r.s.Schema, r.s.Table, r.rows.Columns())
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
	if err := r.rows.End(); err != nil {
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	if r.read != r.s.Expected {
		return nil, fmt.Errorf("read the outbox table: %d rows came, and the same snapshot counted %d", r.read, r.s.Expected)
	}
	frame, err := r.buffer.Make(ctx, 1+1+8+8+8)
	if err != nil {
		return nil, err
	}
	b := binary.BigEndian.AppendUint64(append(frame[:0], 'C', 0), r.lsn())
	b = binary.BigEndian.AppendUint64(b, uint64(r.s.Slot))
	r.next = func(context.Context) ([]byte, error) { return nil, flow.ErrEnd }
	return binary.BigEndian.AppendUint64(b, uint64(r.s.Now)), nil
}
