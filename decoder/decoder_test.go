package decoder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pglogrepl"
)

// What follows writes pgoutput messages, so that the tests show what they decode.

type column struct {
	name string
	oid  uint32
}

const (
	uuidOID = 2950
	textOID = TextOID
)

var be = binary.BigEndian

func beginMessage(commit pglogrepl.LSN, at time.Time) []byte {
	b := be.AppendUint64([]byte{'B'}, uint64(commit))
	b = be.AppendUint64(b, uint64(at.Sub(pgEpoch).Microseconds()))
	return be.AppendUint32(b, 742)
}

func commitMessage(commit, end pglogrepl.LSN) []byte {
	b := be.AppendUint64([]byte{'C', 0}, uint64(commit))
	b = be.AppendUint64(b, uint64(end))
	return be.AppendUint64(b, 0)
}

func relationMessage(id uint32, schema, table string, columns ...column) []byte {
	b := be.AppendUint32([]byte{'R'}, id)
	b = append(b, schema+"\x00"+table+"\x00d"...)
	b = be.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		b = append(b, "\x00"+c.name+"\x00"...)
		b = be.AppendUint32(b, c.oid)
		b = append(b, 0xFF, 0xFF, 0xFF, 0xFF)
	}
	return b
}

// kind is a column without a value, such as 'u' for an unchanged one.
type kind byte

// insertMessage writes a row of texts; nil is NULL.
func insertMessage(id uint32, values ...any) []byte {
	b := be.AppendUint32([]byte{'I'}, id)
	b = be.AppendUint16(append(b, 'N'), uint16(len(values)))
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case kind:
			b = append(b, byte(v))
		case string:
			b = append(be.AppendUint32(append(b, 't'), uint32(len(v))), v...)
		}
	}
	return b
}

// named are the columns of some fields.
func named(names map[Field]string) []Column {
	columns := make([]Column, NumFields)
	for f, name := range names {
		columns[f] = Column{Name: name, Key: "outbox.columns." + f.String()}
	}
	return columns
}

const outboxID, otherID = 16390, 16400

var (
	outbox = Table{Schema: "public", Name: "outbox", Columns: named(map[Field]string{
		ID: "id", Type: "type", AggregateID: "aggregateid", Payload: "payload",
	})}
	outboxColumns = []column{{"id", uuidOID}, {"aggregateid", textOID}, {"type", textOID}, {"note", textOID}, {"payload", JSONBOID}}
	committedAt   = time.Date(2026, 7, 31, 12, 30, 0, 123456000, time.UTC)
)

// decoding is a decoder of the outbox above, in a transaction if begun.
type decoding struct {
	*Decoder
	t testing.TB
}

func decodeTable(t testing.TB, table Table) *decoding { return &decoding{New(table), t} }

// inTransaction returns a decoder inside a transaction that has described the
// outbox with these columns.
func inTransaction(t testing.TB, columns ...column) *decoding {
	t.Helper()
	if columns == nil {
		columns = outboxColumns
	}
	d := decodeTable(t, outbox)
	d.want(Begin, beginMessage(0x500, committedAt))
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", columns...))
	return d
}

func (d *decoding) want(want Kind, msg []byte) {
	d.t.Helper()
	if got, err := d.Decode(msg); got != want || err != nil {
		d.t.Fatalf("decoded %q as %v, %v; want %v", msg, got, err, want)
	}
}

func (d *decoding) wantError(want error, msg []byte, says ...string) {
	d.t.Helper()
	kind, err := d.Decode(msg)
	if !errors.Is(err, want) {
		d.t.Fatalf("decoded %q as %v, %v; want %v", msg, kind, err, want)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			d.t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

// wantValues compares the fields of the last event; a field that is not named is
// nil.
func (d *decoding) wantValues(want map[Field]string) {
	d.t.Helper()
	for f, got := range d.Event().Values {
		want, ok := want[Field(f)]
		if (got != nil) != ok || string(got) != want {
			d.t.Errorf("%s is %q (nil %t), want %q (nil %t)", Field(f), got, got == nil, want, !ok)
		}
	}
}

func TestDecode(t *testing.T) {
	d := inTransaction(t)
	d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "OrderPlaced", "a note", `{"a": 1}`))
	d.wantValues(map[Field]string{ID: "id-1", Type: "OrderPlaced", AggregateID: "order-1", Payload: `{"a": 1}`})
	ev := d.Event()
	if want := (Position{CommitLSN: 0x500, Number: 1}); ev.Position != want || d.Position() != want {
		t.Errorf("position %s, %s; want %s", ev.Position, d.Position(), want)
	}
	if !ev.CommittedAt.Equal(committedAt) || ev.CommittedAt.Location() != time.UTC {
		t.Errorf("committed at %s, want %s", ev.CommittedAt, committedAt)
	}
	if ev.Types[Payload] != JSONBOID {
		t.Errorf("payload type %d, want %d", ev.Types[Payload], JSONBOID)
	}
	d.want(Commit, commitMessage(0x500, 0x530))
	if d.CommitEnd() != 0x530 {
		t.Errorf("ends at %s, want 0/530", d.CommitEnd())
	}
}

func TestNullAndEmptyDiffer(t *testing.T) {
	d := inTransaction(t)
	d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "OrderPlaced", nil, nil))
	d.wantValues(map[Field]string{ID: "id-1", Type: "OrderPlaced", AggregateID: "order-1"})
	// Nothing of the row before remains.
	d.want(Insert, insertMessage(outboxID, "", "", nil, "", ""))
	d.wantValues(map[Field]string{ID: "", AggregateID: "", Payload: ""})
}

func TestEventsAreNumberedInTheirTransaction(t *testing.T) {
	d := decodeTable(t, outbox)
	describe := relationMessage(outboxID, "public", "outbox", outboxColumns...)
	other := relationMessage(otherID, "public", "orders", column{"id", 23})
	row := func() []byte { return insertMessage(outboxID, "id", "k", "T", nil, "{}") }
	position := func(want string) {
		t.Helper()
		d.want(Insert, row())
		if got := d.Event().Position.String(); got != want {
			t.Errorf("position %s, want %s", got, want)
		}
	}
	d.want(Begin, beginMessage(0x1_00000500, committedAt))
	d.want(Skipped, describe)
	d.want(Skipped, other)
	position("0000000100000500-00000001")
	d.want(Skipped, insertMessage(otherID, "12")) // not an event, not counted
	position("0000000100000500-00000002")
	// A row that cannot be read is an event all the same: its number is taken.
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", outboxColumns[1:]...))
	d.wantError(ErrRow, insertMessage(outboxID, "k", "T", nil, "{}"))
	d.want(Skipped, describe)
	position("0000000100000500-00000004")
	d.want(Commit, commitMessage(0x1_00000500, 0x1_00000530))
	d.want(Begin, beginMessage(0x1_00000600, committedAt))
	position("0000000100000600-00000001")
}

func TestOtherTablesAreIgnored(t *testing.T) {
	d := inTransaction(t)
	for _, name := range [][2]string{{"public", "orders"}, {"shop", "outbox"}, {"public", "Outbox"}, {"", "outbox"}, {"public", "outbox2"}} {
		d.want(Skipped, relationMessage(otherID, name[0], name[1], outboxColumns...))
		d.want(Skipped, insertMessage(otherID, "id-1", "order-1", "OrderPlaced", nil, "{}"))
		// Not even its form matters.
		d.want(Skipped, insertMessage(otherID, kind('?')))
	}
	if d.Position().Number != 0 {
		t.Errorf("rows of other tables were counted: %s", d.Position())
	}
}

func TestOtherMessagesAreIgnored(t *testing.T) {
	d := inTransaction(t)
	for _, msg := range []string{"U", "D\x00\x00", "T", "Ofrom elsewhere", "Y", "M"} {
		d.want(Skipped, []byte(msg))
	}
}

func TestTableChangesWhileStreaming(t *testing.T) {
	d := inTransaction(t)
	row := map[Field]string{ID: "id", AggregateID: "k", Type: "T", Payload: "{}"}

	t.Log("a column is added in front, another at the end")
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", slices.Concat([]column{{"first", textOID}}, outboxColumns, []column{{"last", textOID}})...))
	d.want(Insert, insertMessage(outboxID, "x", "id", "k", "T", nil, "{}", "y"))
	d.wantValues(row)

	t.Log("columns change their order, as when the table is made anew")
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", column{"payload", textOID}, column{"type", textOID}, column{"aggregateid", textOID}, column{"id", uuidOID}))
	d.want(Insert, insertMessage(outboxID, "{}", "T", "k", "id"))
	d.wantValues(row)
	if d.Event().Types[Payload] != textOID {
		t.Errorf("payload type %d, want %d", d.Event().Types[Payload], textOID)
	}

	t.Log("mapped columns are dropped")
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", column{"id", uuidOID}, column{"type", textOID}))
	d.wantError(ErrRow, insertMessage(outboxID, "id", "T"),
		"public.outbox", `"aggregateid" (outbox.columns.aggregate_id)`, `"payload" (outbox.columns.payload)`)
	d.wantValues(map[Field]string{ID: "id", Type: "T"}) // so that the message can name the event

	t.Log("the old form does not fit any more")
	d.wantError(ErrProtocol, insertMessage(outboxID, "id", "k", "T", nil, "{}"))

	t.Log("another table takes the name; the former one is no longer the outbox")
	d.want(Skipped, relationMessage(outboxID, "public", "old", outboxColumns...))
	d.want(Skipped, relationMessage(otherID, "public", "outbox", outboxColumns...))
	d.want(Skipped, insertMessage(outboxID, "id", "k", "T", nil, "{}"))
	d.want(Insert, insertMessage(otherID, "id", "k", "T", nil, "{}"))
	d.wantValues(row)
}

func TestOneColumnForSeveralFields(t *testing.T) {
	table := outbox
	table.Columns = slices.Clone(table.Columns)
	table.Columns[CorrelationID].Name, table.Columns[CausationID].Name = "id", "id"
	d := decodeTable(t, table)
	d.want(Begin, beginMessage(0x500, committedAt))
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", outboxColumns...))
	d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "T", nil, "{}"))
	d.wantValues(map[Field]string{ID: "id-1", CorrelationID: "id-1", CausationID: "id-1", AggregateID: "order-1", Type: "T", Payload: "{}"})
	d.want(Insert, insertMessage(outboxID, nil, "order-1", "T", nil, "{}"))
	d.wantValues(map[Field]string{AggregateID: "order-1", Type: "T", Payload: "{}"})
}

func TestBytea(t *testing.T) {
	columns := slices.Clone(outboxColumns)
	columns[4].oid = ByteaOID
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for text, want := range map[string]string{
		`\x`:                           "",
		`\x00`:                         "\x00",
		`\xdeadBEEF`:                   "\xde\xad\xbe\xef",
		fmt.Sprintf(`\x%x`, all):       string(all),
		fmt.Sprintf(`\x%X`, all[128:]): string(all[128:]),
	} {
		d := inTransaction(t, columns...)
		d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "T", nil, text))
		d.wantValues(map[Field]string{ID: "id-1", AggregateID: "order-1", Type: "T", Payload: want})
	}
	d := inTransaction(t, columns...)
	for _, text := range []string{"", "x00", `\y00`, `\`, `\x0`, `\x0g`, `\xg0`, `\x 1`, `\000abc`} {
		d.wantError(ErrRow, insertMessage(outboxID, "id-1", "order-1", "T", nil, text), "bytea")
	}
	d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "T", nil, nil))
	d.wantValues(map[Field]string{ID: "id-1", AggregateID: "order-1", Type: "T"})
}

// Decoding bytea rewrites the row in place, which another field that shows the
// same column must not feel.
func TestByteaForSeveralFields(t *testing.T) {
	table := outbox
	table.Columns = slices.Concat(table.Columns, []Column{{Name: "payload", Key: "outbox.headers.raw"}})
	table.Columns[ID].Name = "payload"
	d := decodeTable(t, table)
	d.want(Begin, beginMessage(0x500, committedAt))
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", column{"payload", ByteaOID}, column{"type", textOID}, column{"aggregateid", textOID}))
	d.want(Insert, insertMessage(outboxID, `\x616263`, "T", "k"))
	d.wantValues(map[Field]string{ID: `\x616263`, Type: "T", AggregateID: "k", Payload: "abc", Field(NumFields): `\x616263`})
}

func TestFurtherColumns(t *testing.T) {
	table := outbox
	table.Columns = slices.Concat(table.Columns, []Column{{Name: "note", Key: "route.key"}, {Name: "id", Key: "outbox.headers.i"}})
	table.Domains = map[uint32]uint32{99999: BoolOID}
	columns := slices.Clone(outboxColumns)
	columns[3].oid = 99999
	const note, id = Field(NumFields), Field(NumFields + 1)
	d := decodeTable(t, table)
	d.want(Begin, beginMessage(0x500, committedAt))
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", columns...))
	d.want(Insert, insertMessage(outboxID, "id-1", "order-1", "T", "t", "{}"))
	d.wantValues(map[Field]string{ID: "id-1", AggregateID: "order-1", Type: "T", Payload: "{}", note: "t", id: "id-1"})
	if types := d.Event().Types; types[note] != BoolOID || types[id] != uuidOID || types[ID] != uuidOID || types[Version] != 0 {
		t.Errorf("types %d", types)
	}
	d.want(Insert, insertMessage(outboxID, nil, "order-1", "T", nil, "{}"))
	d.wantValues(map[Field]string{AggregateID: "order-1", Type: "T", Payload: "{}"})
	d.want(Skipped, relationMessage(outboxID, "public", "outbox", outboxColumns[1:]...))
	d.wantError(ErrRow, insertMessage(outboxID, "order-1", "T", "t", "{}"), "outbox.headers.i")
}

func TestBusinessTime(t *testing.T) {
	table := outbox
	table.Columns = slices.Clone(table.Columns)
	table.Columns[Timestamp].Name = "at"
	for _, test := range []struct {
		oid  uint32
		text string
		want string // "" is an error
	}{
		{TimestampTZOID, "2024-05-06 07:08:09.123456+00", "2024-05-06T07:08:09.123456Z"},
		{TimestampTZOID, "2024-05-06 07:08:09+05:30", "2024-05-06T01:38:09Z"},
		{TimestampTZOID, "1999-12-31 23:59:59.5-00:00:10", "2000-01-01T00:00:09.5Z"},
		{TimestampOID, "2024-05-06 07:08:09.1", "2024-05-06T07:08:09.1Z"},
		{TimestampOID, "0001-01-01 00:00:00", "0001-01-01T00:00:00Z"},
		{TimestampOID, "9999-12-31 23:59:59.999999", "9999-12-31T23:59:59.999999Z"},
		{Int8OID, "1714979289123", "2024-05-06T07:08:09.123Z"},
		{Int8OID, "-1", "1969-12-31T23:59:59.999Z"},
		{TimestampTZOID, "infinity", ""},
		{TimestampTZOID, "-infinity", ""},
		{TimestampOID, "0044-03-15 12:00:00 BC", ""},
		{TimestampTZOID, "10000-01-01 00:00:00+00", ""},
		{TimestampTZOID, "9999-12-31 23:59:59-01", ""},
		{TimestampTZOID, "2024-05-06 07:08:0x+00", ""},
		{TimestampTZOID, "2024-05-06 07:08:09+0", ""},
		{TimestampTZOID, "2024-05-06 07:08:09+00:00:00:00", ""},
		{Int8OID, "9223372036854775807", ""},
		{Int8OID, "x", ""},
		{textOID, "2024-05-06 07:08:09", ""},
	} {
		d := decodeTable(t, table)
		d.want(Begin, beginMessage(0x500, committedAt))
		d.want(Skipped, relationMessage(outboxID, "public", "outbox", column{"id", uuidOID}, column{"at", test.oid}, column{"type", textOID}, column{"aggregateid", textOID}, column{"payload", textOID}))
		row := insertMessage(outboxID, "id-1", test.text, "T", "k", "{}")
		if test.want == "" {
			d.wantError(ErrRow, row, "outbox.columns.timestamp")
			continue
		}
		d.want(Insert, row)
		if got := d.Event().Time.Format(time.RFC3339Nano); got != test.want {
			t.Errorf("%s: %s, want %s", test.text, got, test.want)
		}
	}
}

func TestProtocolErrors(t *testing.T) {
	row := insertMessage(outboxID, "id", "k", "T", nil, "{}")
	tests := []struct {
		name  string
		after [][]byte // decoded before, without an error
		msg   []byte
		says  string
	}{
		{name: "empty", says: "empty"},
		{name: "unknown type", msg: []byte("Stream"), says: "'S'"},
		{name: "insert outside a transaction", after: [][]byte{relationMessage(outboxID, "public", "outbox", outboxColumns...)}, msg: row, says: "outside a transaction"},
		{name: "insert after the commit", after: [][]byte{beginMessage(0x500, committedAt), relationMessage(outboxID, "public", "outbox", outboxColumns...), commitMessage(0x500, 0x530)}, msg: row, says: "outside a transaction"},
		{name: "relation not described", after: [][]byte{beginMessage(0x500, committedAt)}, msg: row, says: "16390"},
		{name: "begin twice", after: [][]byte{beginMessage(0x500, committedAt)}, msg: beginMessage(0x600, committedAt), says: "0/500"},
		{name: "commit without begin", msg: commitMessage(0x500, 0x530), says: "0/500"},
		{name: "commit twice", after: [][]byte{beginMessage(0x500, committedAt), commitMessage(0x500, 0x530)}, msg: commitMessage(0x500, 0x530), says: "0/500"},
		{name: "commit of another transaction", after: [][]byte{beginMessage(0x500, committedAt)}, msg: commitMessage(0x501, 0x530), says: "0/501"},
		{name: "commit that ends before itself", after: [][]byte{beginMessage(0x500, committedAt)}, msg: commitMessage(0x500, 0x4FF), says: "0/4FF"},
		{name: "too few columns", after: [][]byte{beginMessage(0x500, committedAt), relationMessage(outboxID, "public", "outbox", outboxColumns...)},
			msg: insertMessage(outboxID, "id", "k", "T", nil), says: "5 columns"},
		{name: "unchanged column", after: [][]byte{beginMessage(0x500, committedAt), relationMessage(outboxID, "public", "outbox", outboxColumns...)},
			msg: insertMessage(outboxID, "id", "k", "T", nil, kind('u')), says: "'u'"},
		{name: "binary column", after: [][]byte{beginMessage(0x500, committedAt), relationMessage(outboxID, "public", "outbox", outboxColumns...)},
			msg: insertMessage(outboxID, kind('b'), "k", "T", nil, nil), says: "'b'"},
		{name: "old row", after: [][]byte{beginMessage(0x500, committedAt)}, msg: []byte("I\x00\x00\x40\x06O\x00\x00"), says: "without a new row"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := decodeTable(t, outbox)
			for _, msg := range test.after {
				if _, err := d.Decode(msg); err != nil {
					t.Fatal(err)
				}
			}
			d.wantError(ErrProtocol, test.msg, test.says)
		})
	}
}

// A commit that was refused does not count as one.
func TestRefusedCommitChangesNothing(t *testing.T) {
	d := inTransaction(t)
	d.wantError(ErrProtocol, commitMessage(0x501, 0x530))
	if d.CommitEnd() != 0 {
		t.Errorf("ends at %s after a Commit that was refused", d.CommitEnd())
	}
}

// A message that ends too early, at whatever byte, or too late, is an error.
func TestTruncatedMessages(t *testing.T) {
	columns := slices.Clone(outboxColumns)
	columns[4].oid = ByteaOID
	messages := map[string][]byte{
		"Begin":                     beginMessage(0x600, committedAt),
		"Commit":                    commitMessage(0x500, 0x530),
		"Relation":                  relationMessage(outboxID, "public", "outbox", columns...),
		"Relation of another table": relationMessage(otherID, "public", "orders", columns...),
		"Insert":                    insertMessage(outboxID, "id-1", "order-1", "", nil, `\x00ff`),
	}
	for name, msg := range messages {
		t.Run(name, func(t *testing.T) {
			try := func(msg []byte) error {
				d := inTransaction(t, columns...)
				if name == "Begin" {
					d.want(Commit, commitMessage(0x500, 0x530))
				}
				_, err := d.Decode(bytes.Clone(msg))
				return err
			}
			if err := try(msg); err != nil {
				t.Fatalf("the whole message: %v", err)
			}
			for n := range msg {
				if err := try(msg[:n]); !errors.Is(err, ErrProtocol) {
					t.Errorf("the first %d of %d bytes: %v", n, len(msg), err)
				}
			}
			if err := try(append(bytes.Clone(msg), 0)); !errors.Is(err, ErrProtocol) {
				t.Errorf("a byte too many: %v", err)
			}
		})
	}
}

// Lengths that lie do not lead outside the message.
func TestLengthsThatLie(t *testing.T) {
	for _, n := range []uint32{5, 1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		d := inTransaction(t, column{"id", uuidOID})
		msg := insertMessage(outboxID, "abcd")
		be.PutUint32(msg[9:], n)
		d.wantError(ErrProtocol, msg)
	}
}

func TestPosition(t *testing.T) {
	var ordered []Position
	for _, p := range []struct {
		lsn    pglogrepl.LSN
		number uint32
	}{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {1, 9}, {1, 10}, {1, 1 << 31}, {9, 1}, {10, 1}, {0xFFFFFFFF, 2}, {1 << 32, 1}, {1 << 63, 1}} {
		ordered = append(ordered, Position{CommitLSN: p.lsn, Number: p.number})
	}
	for i, p := range ordered {
		if s := p.String(); len(s) != PositionLen {
			t.Errorf("%q has %d characters, want %d", s, len(s), PositionLen)
		}
		for j, q := range ordered {
			if got, want := p.After(q), i > j; got != want {
				t.Errorf("%s after %s: %t, want %t", p, q, got, want)
			}
			if got, want := p.String() > q.String(), i > j; got != want {
				t.Errorf("as text, %s after %s: %t, want %t", p, q, got, want)
			}
		}
	}
	if got, want := (Position{CommitLSN: 0x1507C60, Number: 1}).String(), "0000000001507C60-00000001"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFieldNames(t *testing.T) {
	seen := make(map[string]bool)
	for f := range Field(NumFields) {
		if f.String() == "" || seen[f.String()] {
			t.Errorf("field %d has the name %q", int(f), f)
		}
		seen[f.String()] = true
	}
}

// FuzzDecode takes a stream of frames, each after its length. Whatever they are,
// nothing panics, and a row's event never refers to anything but its frame.
func FuzzDecode(f *testing.F) {
	for _, version := range goldenVersions {
		frames := readGolden(f, version)
		f.Add(joinFrames(frames))
		// Short streams are changed in more telling places than long ones.
		for i := 0; i+6 <= len(frames); i += 6 {
			f.Add(joinFrames(frames[i : i+6]))
		}
	}
	f.Add(joinFrames([][]byte{
		beginMessage(0x500, committedAt),
		relationMessage(outboxID, "public", "outbox", outboxColumns...),
		insertMessage(outboxID, "id-1", "order-1", "T", nil, "{}"),
		commitMessage(0x500, 0x530),
	}))
	f.Fuzz(func(t *testing.T, stream []byte) {
		d := New(goldenMessages)
		var last Position
		for len(stream) > 0 {
			n, used := binary.Uvarint(stream)
			if used <= 0 || n > uint64(len(stream)-used) {
				return
			}
			frame := bytes.Clone(stream[used : used+int(n)])
			stream = stream[used+int(n):]
			kind, err := d.Decode(frame)
			switch {
			case err != nil && !errors.Is(err, ErrRow) && !errors.Is(err, ErrProtocol):
				t.Fatalf("an error of neither kind: %v", err)
			case err != nil && !errors.Is(err, ErrRow):
				return
			case err != nil && kind != Insert:
				t.Fatalf("a row error of kind %v", kind)
			case kind == Begin:
				last = Position{}
			case kind == Insert:
				if p := d.Event().Position; last.Number+1 != p.Number {
					t.Fatalf("position %s after %s", p, last)
				}
				last = d.Event().Position
				for field, v := range d.Event().Values {
					// A message's texts with escapes are not in it as they are.
					if frame[0] != 'M' && !within(v, frame) {
						t.Fatalf("%s lies outside its frame", Field(field))
					}
				}
			case kind == Commit:
				if d.CommitEnd() < d.Position().CommitLSN {
					t.Fatalf("%s ends at %s", d.Position(), d.CommitEnd())
				}
			}
		}
	})
}

func joinFrames(frames [][]byte) (stream []byte) {
	for _, f := range frames {
		stream = append(binary.AppendUvarint(stream, uint64(len(f))), f...)
	}
	return stream
}

// within tells whether v, up to its capacity, is part of frame.
func within(v, frame []byte) bool {
	if cap(v) == 0 {
		return true
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(v)))
	base := uintptr(unsafe.Pointer(unsafe.SliceData(frame)))
	return start >= base && start+uintptr(cap(v)) <= base+uintptr(len(frame))
}

// insertPath is one insert that can be decoded again and again.
type insertPath struct {
	d          *Decoder
	row, frame []byte
}

func newInsertPath(t testing.TB, payloadType uint32, payload string) *insertPath {
	columns := slices.Clone(outboxColumns)
	columns[4].oid = payloadType
	d := inTransaction(t, columns...)
	row := insertMessage(outboxID, "8f3a7a0e-0000-4000-8000-000000000001", "order-12345", "OrderPlaced", nil, payload)
	return &insertPath{d.Decoder, row, make([]byte, len(row))}
}

func (p *insertPath) decode() error {
	copy(p.frame, p.row) // bytea is rewritten in place
	_, err := p.d.Decode(p.frame)
	return err
}

var insertPayloads = []struct {
	name    string
	oid     uint32
	payload string
}{
	{"json", JSONBOID, `{"data": "` + strings.Repeat("x", 290) + `"}`},
	{"bytea", ByteaOID, `\x` + strings.Repeat("5a", 300)},
}

func TestInsertDoesNotAllocate(t *testing.T) {
	for _, p := range insertPayloads {
		path := newInsertPath(t, p.oid, p.payload)
		if n := testing.AllocsPerRun(1000, func() {
			if err := path.decode(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations for an insert", p.name, n)
		}
	}
}

func BenchmarkInsert(b *testing.B) {
	for _, p := range insertPayloads {
		b.Run(p.name, func(b *testing.B) {
			path := newInsertPath(b, p.oid, p.payload)
			b.SetBytes(int64(len(path.row)))
			b.ReportAllocs()
			for b.Loop() {
				if err := path.decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRelation(b *testing.B) {
	d := New(outbox)
	msg := relationMessage(outboxID, "public", "outbox", outboxColumns...)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Decode(msg); err != nil {
			b.Fatal(err)
		}
	}
}

// A payload of one of PostgreSQL's types that none can be.
func TestPayloadOfAnUnknownType(t *testing.T) {
	table := Table{Schema: "public", Name: "outbox", Domains: map[uint32]uint32{20_000: JSONBOID}, Columns: named(map[Field]string{ID: "id", Payload: "payload"})}
	for oid, want := range map[uint32]error{
		JSONOID: nil, JSONBOID: nil, TextOID: nil, VarcharOID: nil, 20_000: nil, 20_001: nil, Int4OID: ErrRow,
	} {
		d := decodeTable(t, table)
		d.want(Begin, beginMessage(1, pgEpoch))
		d.want(Skipped, relationMessage(1, "public", "outbox", column{"id", textOID}, column{"payload", oid}))
		insert := insertMessage(1, "7", `{"a": 1}`)
		if want != nil {
			d.wantError(want, insert, `"payload"`, "outbox.columns.payload", fmt.Sprint(oid))
			if string(d.Event().Values[ID]) != "7" {
				t.Errorf("the event has lost its id")
			}
			continue
		}
		d.want(Insert, insert)
		if oid == 20_000 && d.Event().Types[Payload] != JSONBOID {
			t.Errorf("the domain's type is %d", d.Event().Types[Payload])
		}
	}
}
