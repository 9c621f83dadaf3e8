package decoder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Table says which table is the outbox and what is read of it.
type Table struct {
	Schema string
	Name   string
	// Columns are the columns by field: first the NumFields named ones, then as
	// many more as are wanted.
	Columns []Column
	// Domains are the base types of domains, by OID: a stream names the domain.
	Domains map[uint32]uint32
	// Types are the types of the table's columns, by name, as OIDs of base types: of
	// now, where a stream may tell of types that are dropped since, or newer.
	Types map[string]uint32
	// MessagePrefix is the prefix of the messages (pg_logical_emit_message) that
	// are events as well; "" for none. Without a Name they are the only ones.
	MessagePrefix string
}

// Column is a column of the outbox table.
type Column struct {
	Name string // "" is a field that is not read
	Key  string // the key of the configuration that names it, for messages
}

// Kind is what a frame was.
type Kind int

const (
	Skipped          Kind = iota // of no interest: another table, a relation, an update
	Begin                        // a transaction starts
	Insert                       // an outbox event, a row or a message; see Decoder.Event
	Commit                       // the transaction ends, see Decoder.CommitEnd
	NonTransactional             // a message with the prefix, but outside every transaction: not an event
)

// Errors of a frame. Row errors concern the content of one outbox event and leave
// the decoder usable; protocol errors mean that the stream cannot be trusted.
var (
	ErrProtocol = errors.New("malformed pgoutput message")
	ErrRow      = errors.New("outbox event cannot be read")
)

// Decoder decodes the frames of one stream, in order. It is used by one
// goroutine and must be made anew with each START_REPLICATION, since a stream
// describes each table before it is first used.
type Decoder struct {
	table Table
	event Event

	inTransaction bool
	commitLSN     pglogrepl.LSN // of the open transaction, from Begin
	commitEnd     pglogrepl.LSN // of the last Commit
	number        uint32

	relations map[uint32]*relation
	outboxes  int  // how many of them are the outbox's
	forgotten bool // others are missing; see remember
	// The relation of the last insert: nearly every insert is into the same.
	lastID  uint32
	lastRel *relation

	messages *messages // nil: none are read
}

// New returns a decoder for the events of one table.
func New(table Table) *Decoder {
	d := &Decoder{
		table:     table,
		event:     Event{Values: make([][]byte, max(NumFields, len(table.Columns)))},
		relations: make(map[uint32]*relation),
	}
	if table.MessagePrefix != "" {
		d.messages = newMessages(table)
	}
	return d
}

// Event returns the event of the last Insert. It is overwritten by the next.
func (d *Decoder) Event() *Event { return &d.event }

// CommitEnd returns the position just after the last Commit's record: the only
// place at which streaming may resume.
func (d *Decoder) CommitEnd() pglogrepl.LSN { return d.commitEnd }

// Position returns the position of the last row seen, for error messages.
func (d *Decoder) Position() Position { return Position{CommitLSN: d.commitLSN, Number: d.number} }

// Decode decodes one pgoutput message (the content of an XLogData message after
// its header). It may rewrite msg in place, and the event refers to it.
//
// After an error that is ErrRow, Event holds what could be read of the row.
func (d *Decoder) Decode(msg []byte) (Kind, error) {
	if len(msg) == 0 {
		return Skipped, fmt.Errorf("%w: empty", ErrProtocol)
	}
	switch msg[0] {
	case 'I':
		return d.insert(msg[1:])
	case 'B':
		return d.begin(msg[1:])
	case 'C':
		return d.commit(msg[1:])
	case 'R':
		return Skipped, d.relation(msg[1:])
	case 'M':
		return d.message(msg[1:])
	case 'U', 'D', 'T', 'O', 'Y':
		// A publication made by someone else may carry updates, deletes and
		// truncations: they are the outbox being cleaned up. Origins and type
		// names say nothing to us.
		return Skipped, nil
	default:
		return Skipped, fmt.Errorf("%w: unknown type %q", ErrProtocol, msg[0])
	}
}

// begin: Int64 LSN of the commit record, Int64 commit time, Int32 xid.
func (d *Decoder) begin(b []byte) (Kind, error) {
	if len(b) != 20 {
		return Skipped, fmt.Errorf("%w: Begin of %d bytes", ErrProtocol, len(b))
	}
	if d.inTransaction {
		return Skipped, fmt.Errorf("%w: Begin inside the transaction of %s", ErrProtocol, d.commitLSN)
	}
	d.inTransaction = true
	d.commitLSN = pglogrepl.LSN(binary.BigEndian.Uint64(b))
	d.number = 0
	d.event.CommittedAt = pgTime(int64(binary.BigEndian.Uint64(b[8:])))
	return Begin, nil
}

// commit: Int8 flags, Int64 LSN of the commit, Int64 end LSN, Int64 time.
func (d *Decoder) commit(b []byte) (Kind, error) {
	if len(b) != 25 {
		return Skipped, fmt.Errorf("%w: Commit of %d bytes", ErrProtocol, len(b))
	}
	lsn := pglogrepl.LSN(binary.BigEndian.Uint64(b[1:]))
	end := pglogrepl.LSN(binary.BigEndian.Uint64(b[9:]))
	if !d.inTransaction || lsn != d.commitLSN || end < lsn {
		return Skipped, fmt.Errorf("%w: Commit of %s (end %s) after Begin of %s", ErrProtocol, lsn, end, d.commitLSN)
	}
	d.inTransaction = false
	d.commitEnd = end
	return Commit, nil
}

// insert: Int32 relation, 'N', TupleData.
func (d *Decoder) insert(b []byte) (Kind, error) {
	if len(b) < 5 || b[4] != 'N' {
		return Skipped, fmt.Errorf("%w: Insert without a new row", ErrProtocol)
	}
	if !d.inTransaction {
		return Skipped, fmt.Errorf("%w: Insert outside a transaction", ErrProtocol)
	}
	id := binary.BigEndian.Uint32(b)
	rel := d.lastRel
	if rel == nil || id != d.lastID {
		if rel = d.relations[id]; rel == nil && d.forgotten {
			rel = otherTable
		}
		if rel == nil {
			return Skipped, fmt.Errorf("%w: Insert into relation %d, which was not described", ErrProtocol, id)
		}
		d.lastID, d.lastRel = id, rel
	}
	if !rel.outbox {
		return Skipped, nil
	}
	d.number++
	ev := &d.event
	ev.Position = Position{CommitLSN: d.commitLSN, Number: d.number}
	clear(ev.Values)
	ev.Types = rel.types
	if err := rel.tuple(b[5:], ev); err != nil {
		return Insert, err
	}
	return Insert, rel.unfit
}

// tuple: Int16 columns, then for each its kind, and for a text Int32 length and
// the bytes. This loop runs for every column of every event.
func (r *relation) tuple(b []byte, ev *Event) error {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(r.fields) {
		return fmt.Errorf("%w: a row that does not have the %d columns of its table", ErrProtocol, len(r.fields))
	}
	b = b[2:]
	for _, field := range r.fields {
		if len(b) == 0 {
			return fmt.Errorf("%w: row ends early", ErrProtocol)
		}
		switch b[0] {
		case 'n':
			b = b[1:]
		case 't':
			if len(b) < 5 {
				return fmt.Errorf("%w: row ends early", ErrProtocol)
			}
			n := int(binary.BigEndian.Uint32(b[1:]))
			if n < 0 || n > len(b)-5 { // negative where an int has 32 bits
				return fmt.Errorf("%w: column of %d bytes in the last %d of a row", ErrProtocol, n, len(b)-5)
			}
			if field >= 0 {
				ev.Values[field] = b[5 : 5+n : 5+n]
			}
			b = b[5+n:]
		default:
			// 'u' stands only in updates, 'b' only when asked for.
			return fmt.Errorf("%w: column of kind %q in a new row", ErrProtocol, b[0])
		}
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes after a row", ErrProtocol, len(b))
	}
	for _, c := range r.copies {
		ev.Values[c.to] = ev.Values[c.from]
	}
	if r.unknown != nil {
		if err := r.settle(ev); err != nil {
			return err
		}
	}
	if t := ev.Values[Timestamp]; t != nil {
		var err error
		if ev.Time, err = parseTime(t, r.types[Timestamp]); err != nil {
			return err
		}
	}
	if p := ev.Values[Payload]; p != nil && r.types[Payload] == ByteaOID {
		if r.payloadShared {
			p = bytes.Clone(p) // the other field keeps the text
		}
		raw, err := unhex(p)
		if err != nil {
			return err
		}
		ev.Values[Payload] = raw
	}
	return nil
}

// unhex decodes bytea's hex format in place: what it writes never overtakes
// what it reads. After an error b is what it was.
func unhex(b []byte) ([]byte, error) {
	digits, ok := bytes.CutPrefix(b, []byte(`\x`))
	if !ok || len(digits)%2 != 0 {
		return nil, fmt.Errorf("%w: bytea payload is not in hex format (bytea_output)", ErrRow)
	}
	out := b[:0]
	for i := 0; i < len(digits); i += 2 {
		hi, lo := hexDigit[digits[i]], hexDigit[digits[i+1]]
		if hi|lo > 0xF {
			bad := string(digits[i : i+2])
			appendBytea(b[:0], bytes.Clone(out))
			return nil, fmt.Errorf("%w: bytea payload has %q among its hex digits", ErrRow, bad)
		}
		out = append(out, hi<<4|lo)
	}
	return out, nil
}

var hexDigit = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xFF
	}
	for i := byte(0); i < 10; i++ {
		t['0'+i] = i
	}
	for i := byte(0); i < 6; i++ {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()

// pgEpoch is 2000-01-01 UTC, from which PostgreSQL counts microseconds.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func pgTime(us int64) time.Time {
	return time.UnixMicro(pgEpoch.UnixMicro() + us).UTC()
}
