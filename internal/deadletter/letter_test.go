package deadletter

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/router"
)

var (
	committed = time.Date(2026, 11, 28, 12, 30, 0, 123456000, time.UTC)
	setAside  = time.Date(2026, 11, 28, 12, 31, 0, 654321000, time.UTC)
	source    = Source{Slot: "outboxd", Database: "shop", Table: "public.outbox", Prefix: "orders"}
)

// column is one of a row in a test.
type column struct {
	name string
	oid  uint32
	text string // "NULL" is NULL
}

// table is today's configuration of the test rows.
func table(names ...string) decoder.Table {
	t := decoder.Table{Schema: "public", Name: "outbox", MessagePrefix: "orders", Columns: make([]decoder.Column, decoder.NumFields)}
	for f := range decoder.Field(decoder.NumFields) {
		for _, name := range names {
			if name == f.String() {
				t.Columns[f] = decoder.Column{Name: name, Key: "outbox.columns." + name}
			}
		}
	}
	return t
}

// decode takes a row through a decoder, as the stream would.
func decode(t *testing.T, tab decoder.Table, number int, columns []column) (*decoder.Event, decoder.Row, error) {
	t.Helper()
	d := decoder.New(tab)
	begin := binary.BigEndian.AppendUint64([]byte{'B'}, 0x1507C60)
	begin = binary.BigEndian.AppendUint64(begin, uint64(committed.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	begin = binary.BigEndian.AppendUint32(begin, 1)
	relation := append(binary.BigEndian.AppendUint32([]byte{'R'}, 77), "public\x00outbox\x00d"...)
	relation = binary.BigEndian.AppendUint16(relation, uint16(len(columns)))
	insert := append(binary.BigEndian.AppendUint32([]byte{'I'}, 77), 'N')
	insert = binary.BigEndian.AppendUint16(insert, uint16(len(columns)))
	for _, c := range columns {
		relation = append(append(append(relation, 0), c.name...), 0)
		relation = binary.BigEndian.AppendUint32(relation, c.oid)
		relation = binary.BigEndian.AppendUint32(relation, 0xFFFFFFFF)
		if c.text == "NULL" {
			insert = append(insert, 'n')
			continue
		}
		insert = append(binary.BigEndian.AppendUint32(append(insert, 't'), uint32(len(c.text))), c.text...)
	}
	frames := [][]byte{begin, relation}
	for range number {
		frames = append(frames, slices.Clone(insert))
	}
	var err error
	for _, frame := range frames {
		if _, err = d.Decode(frame); err != nil && !errors.Is(err, decoder.ErrRow) {
			t.Fatal(err)
		}
	}
	return d.Event(), d.Row(frames[len(frames)-1]), err
}

// encoded writes and reads a letter.
func encoded(t *testing.T, l *Letter, f Form) (*kgo.Record, *Letter) {
	t.Helper()
	r := l.Encode(f)
	back, err := parse(r)
	if err != nil {
		t.Fatal(err)
	}
	return r, back
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return "(none)"
}

var form = Form{Topic: "outbox.dead-letter", Limit: MaxBytes}

// The record is what the contract says.
func TestRecord(t *testing.T) {
	ev, row, err := decode(t, table("id", "type", "aggregate_id", "payload"), 2, []column{
		{"id", decoder.Int8OID, "13"}, {"aggregate_id", decoder.TextOID, "NULL"}, {"type", decoder.TextOID, "order \"paid\"\n"},
		{"payload", decoder.JSONBOID, `{"n": 1.50}`}, {"note", decoder.TextOID, ""}, {"paid", decoder.BoolOID, "t"},
		{"raw", decoder.ByteaOID, `\x00ff`},
	})
	if err != nil {
		t.Fatal(err)
	}
	cause := poison.NullKey.Mark(errors.New("its key is NULL"))
	l := New(ev, row, Made{Topic: "orders", Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("13")}}}, cause, source, setAside)
	r := l.Encode(form)
	want := `{"id":"13","aggregate_id":null,"type":"order \"paid\"\n","payload":"{\"n\": 1.50}","note":"","paid":"t","raw":"\\x00ff"}`
	if string(r.Value) != want {
		t.Errorf("value %s\nwant %s", r.Value, want)
	}
	if r.Key != nil || r.Topic != form.Topic || !r.Timestamp.Equal(setAside) {
		t.Errorf("key %q, topic %s, time %s", r.Key, r.Topic, r.Timestamp)
	}
	var keys []string
	for _, h := range r.Headers {
		keys = append(keys, h.Key)
	}
	if got := strings.Join(keys, " "); got != "error.kind error.message error.position error.topic error.time error.event id" {
		t.Errorf("headers %s", got)
	}
	for key, want := range map[string]string{
		"error.kind": "null_key", "error.message": "its key is NULL", "error.position": "0000000001507C60-00000002",
		"error.topic": "orders", "error.time": "2026-11-28T12:31:00.654321Z", "id": "13",
		"error.event": `{"slot":"outboxd","database":"shop","table":"public.outbox","committed_at":"2026-11-28T12:30:00.123456Z","id":"13","type":"order \"paid\"\n",` +
			`"columns":[{"name":"id","type":"int8"},{"name":"aggregate_id","type":"text"},{"name":"type","type":"text"},{"name":"payload","type":"jsonb"},` +
			`{"name":"note","type":"text"},{"name":"paid","type":"bool"},{"name":"raw","type":"bytea"}]}`,
	} {
		if got := header(r, key); got != want {
			t.Errorf("%s is %s\nwant %s", key, got, want)
		}
	}
}

// Every column comes back with its type, and the event is the one that was: NULL is not
// empty, bytes are bytes, a boolean is one. The position and the time are those of then.
func TestRoundTrip(t *testing.T) {
	mapped := []string{"id", "type", "aggregate_type", "aggregate_id", "version", "timestamp", "traceparent", "payload"}
	for name, payload := range map[string]column{
		"jsonb": {"payload", decoder.JSONBOID, `{"a": "\u00e9\\n", "n": 12345678901234567890}`},
		"json":  {"payload", decoder.JSONOID, "{\n  \"a\" : 1\t}"},
		"text":  {"payload", decoder.TextOID, "line\nline\t\u2028 \u0001 €😀"},
		"empty": {"payload", decoder.VarcharOID, ""},
		"bytea": {"payload", decoder.ByteaOID, `\x00ff80`}, "empty bytea": {"payload", decoder.ByteaOID, `\x`},
		"NULL": {"payload", decoder.JSONBOID, "NULL"}, "enum": {"type", 16400, "paid"},
		"timestamp": {"timestamp", decoder.TimestampOID, "2024-05-06 07:08:09.123456"}, "timestamptz": {"timestamp", decoder.TimestampTZOID, "2024-05-06 07:08:09+02"},
		"ms": {"timestamp", decoder.Int8OID, "1700000000123"}, "int2": {"version", decoder.Int2OID, "-7"},
		"boolean": {"traceparent", decoder.BoolOID, "f"}, "not UTF-8": {"aggregate_id", decoder.TextOID, "gr\xfc\xdfe"},
	} {
		t.Run(name, func(t *testing.T) {
			columns := []column{
				{"id", decoder.UUIDOID, "3fa85f64-5717-4562-b3fc-2c963f66afa6"}, {"type", decoder.TextOID, ""}, {"unmapped", decoder.ByteaOID, `\x01`},
				{"aggregate_id", decoder.TextOID, "k"}, {"payload", decoder.TextOID, "x"}, {"version", decoder.Int4OID, "NULL"},
				{"timestamp", decoder.TimestampTZOID, "NULL"}, {"traceparent", decoder.TextOID, "NULL"}, {"aggregate_type", decoder.TextOID, "order"},
			}
			for i := range columns {
				if columns[i].name == payload.name {
					columns[i] = payload
				}
			}
			tab := table(mapped...)
			want, row, err := decode(t, tab, 3, columns)
			if err != nil {
				t.Fatal(err)
			}
			l := New(want, row, Made{Topic: "orders", Key: []byte("k")}, errors.New("why"), source, setAside)
			r, back := encoded(t, l, form)
			if !json.Valid(r.Value) || !utf8.Valid(r.Value) {
				t.Errorf("the value is no JSON: %s", r.Value)
			}
			got, err := back.Rebuild(tab)
			if err != nil {
				t.Fatal(err)
			}
			same(t, got, want)
		})
	}
}

func same(t *testing.T, got, want *decoder.Event) {
	t.Helper()
	if got.Position != want.Position || !got.CommittedAt.Equal(want.CommittedAt) || !got.Time.Equal(want.Time) {
		t.Errorf("position %s of %s at %s, want %s of %s at %s", got.Position, got.CommittedAt, got.Time, want.Position, want.CommittedAt, want.Time)
	}
	for f := range want.Values {
		if (got.Values[f] == nil) != (want.Values[f] == nil) || !bytes.Equal(got.Values[f], want.Values[f]) || want.Values[f] != nil && got.Types[f] != want.Types[f] {
			t.Errorf("%s is %q of type %d, want %q of type %d", decoder.Field(f), got.Values[f], got.Types[f], want.Values[f], want.Types[f])
		}
	}
}

// What could be read of a row that cannot be decoded is in the letter, and the event can
// be made of it once the cause is gone.
func TestUndecodable(t *testing.T) {
	good := []column{{"id", decoder.Int8OID, "13"}, {"type", decoder.TextOID, "paid"}, {"payload", decoder.ByteaOID, `\x0102`}, {"timestamp", decoder.TimestampTZOID, "2024-05-06 07:08:09+00"}}
	for name, test := range map[string]struct {
		change func(c []column, t *decoder.Table) []column
		kind   poison.Kind
		value  string
	}{
		"a column is gone": {func(c []column, t *decoder.Table) []column {
			t.Columns[decoder.AggregateID] = decoder.Column{Name: "aggregate_id", Key: "outbox.columns.aggregate_id"}
			return c
		}, poison.ColumnMissing, `{"id":"13","type":"paid","payload":"\\x0102","timestamp":"2024-05-06 07:08:09+00"}`},
		"a time": {func(c []column, _ *decoder.Table) []column { c[3].text = "infinity"; return c }, poison.Timestamp,
			`{"id":"13","type":"paid","payload":"\\x0102","timestamp":"infinity"}`},
		"bytes": {func(c []column, _ *decoder.Table) []column { c[2].text = `\x01ffAbzz`; return c }, poison.Undecodable,
			`{"id":"13","type":"paid","payload":"\\x01ffabzz","timestamp":"2024-05-06 07:08:09+00"}`},
		"a type": {func(c []column, _ *decoder.Table) []column { c[2].oid, c[2].text = 1700, "1.5"; return c }, poison.Undecodable,
			`{"id":"13","type":"paid","payload":"1.5","timestamp":"2024-05-06 07:08:09+00"}`},
	} {
		t.Run(name, func(t *testing.T) {
			tab := table("id", "type", "payload", "timestamp")
			columns := test.change(slices.Clone(good), &tab)
			ev, row, err := decode(t, tab, 1, columns)
			if !errors.Is(err, decoder.ErrRow) {
				t.Fatal(err)
			}
			r, back := encoded(t, New(ev, row, Made{}, err, source, setAside), form)
			if string(r.Value) != test.value || header(r, "error.kind") != string(test.kind) || back.Event.ID == nil || *back.Event.ID != "13" {
				t.Errorf("%s of kind %s, want %s of kind %s", r.Value, header(r, "error.kind"), test.value, test.kind)
			}
			if _, err := back.Rebuild(tab); !errors.Is(err, decoder.ErrRow) {
				t.Errorf("made again with the same configuration: %v", err)
			}
			// A configuration that does not need what was bad.
			tab = table("id", "type")
			again, err := back.Rebuild(tab)
			if err != nil || string(again.Values[decoder.Type]) != "paid" {
				t.Errorf("made again: %v", err)
			}
		})
	}
}

// A message is kept as it was, whatever it holds.
func TestMessage(t *testing.T) {
	for name, content := range map[string]string{
		"an object": `{"id": "13", "type": "paid", "payload": {"n": 1}}`, "no object": "[1]", "not JSON": "{", "not UTF-8": "{\"id\": \"\xff\"}", "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			tab := table("id", "type", "payload")
			d := decoder.New(tab)
			begin := append([]byte{'B'}, make([]byte, 20)...)
			frame := append(append([]byte{'M', 1}, make([]byte, 8)...), "orders\x00"...)
			frame = append(binary.BigEndian.AppendUint32(frame, uint32(len(content))), content...)
			if _, err := d.Decode(begin); err != nil {
				t.Fatal(err)
			}
			_, decodeErr := d.Decode(frame)
			ev := d.Event()
			l := New(ev, d.Row(frame), Made{}, cmpErr(decodeErr), source, setAside)
			r, back := encoded(t, l, form)
			if !json.Valid(r.Value) || back.Event.Prefix != "orders" || back.Event.Table != "" {
				t.Errorf("%s, %+v", r.Value, back.Event)
			}
			if string(back.Values[0]) != content {
				t.Errorf("content %q, want %q", back.Values[0], content)
			}
			got, err := back.Rebuild(tab)
			if fmt.Sprint(err) != fmt.Sprint(decodeErr) {
				t.Errorf("made again: %v, was %v", err, decodeErr)
			}
			if decodeErr == nil {
				same(t, got, ev)
			}
			tab.MessagePrefix = ""
			if _, err := back.Rebuild(tab); err == nil || !strings.Contains(err.Error(), "outbox.message_prefix") {
				t.Errorf("without a prefix: %v", err)
			}
		})
	}
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("why")
	}
	return err
}

// A letter that would be too large is cut until it fits, says what is missing, and is
// not published again.
func TestCut(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	tab := table("id", "payload")
	for range 80 {
		columns := []column{{"id", decoder.Int8OID, "13"}, {"payload", decoder.TextOID, text(rnd, rnd.IntN(60_000))},
			{"note", decoder.TextOID, text(rnd, rnd.IntN(9_000))}, {"gone", decoder.TextOID, "NULL"}, {"bytes", decoder.TextOID, "\xff" + text(rnd, rnd.IntN(3000))}}
		ev, row, err := decode(t, tab, 1, columns)
		if err != nil {
			t.Fatal(err)
		}
		limit := 6_000 + rnd.IntN(100_000)
		key := []byte(text(rnd, rnd.IntN(5000)))
		made := Made{Key: key, Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("13")}, {Key: "note", Value: []byte(columns[2].text)}}}
		l := New(ev, row, made, errors.New(text(rnd, rnd.IntN(2*maxReason))), source, setAside)
		whole := size(l.Encode(form))
		r, back := encoded(t, l, Form{Topic: "t", Limit: limit, Connect: rnd.IntN(2) == 0})
		if n := size(r); n > limit && whole <= limit || n > limit {
			t.Fatalf("%d bytes do not fit into %d", n, limit)
		}
		if !json.Valid(r.Value) {
			t.Fatalf("the value is no JSON: %.200s", r.Value)
		}
		if whole <= limit-2_000 && back.Truncated.is() {
			t.Errorf("%d bytes of %d are cut: %+v", whole, limit, back.Truncated)
		}
		for i, v := range back.Values {
			name, was := columns[i].name, []byte(columns[i].text)
			if columns[i].text == "NULL" {
				was = nil
			}
			if cut := back.Truncated.Columns[name]; cut == 0 && !bytes.Equal(v, was) || cut > 0 && (len(v) >= cut || name != "bytes" && !bytes.HasPrefix(was, v)) || v == nil != (was == nil) {
				t.Errorf("column %s has %d bytes of %d, %+v", name, len(v), len(was), back.Truncated)
			}
		}
		if len(back.Truncated.Columns) > 0 {
			if _, err := back.Rebuild(tab); !errors.Is(err, ErrTruncated) {
				t.Errorf("a letter that is cut: %v", err)
			}
		}
	}
}

// text is random text with characters of all lengths, and some that JSON escapes.
func text(rnd *rand.Rand, n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString([]string{"a", "é", "€", "😀", "\n", "\"", "\\", "\x01", " "}[rnd.IntN(9)])
	}
	return b.String()
}

// Kafka Connect's tools find theirs, each kind with a stage of Connect's.
func TestConnectHeaders(t *testing.T) {
	stages := []string{"TRANSFORMATION", "KEY_CONVERTER", "VALUE_CONVERTER", "HEADER_CONVERTER", "KAFKA_PRODUCE", "TASK_POLL"}
	for _, kind := range poison.Kinds {
		l := &Letter{Kind: kind, Reason: "why", Topic: "orders", Time: setAside, Position: decoder.Position{CommitLSN: 0x1507C60, Number: 2}, Event: Event{Slot: "outboxd"}}
		r := l.Encode(Form{Limit: MaxBytes, Connect: true})
		for key, want := range map[string]string{
			"topic": "orders", "partition": "0", "offset": "22051936", "connector.name": "outboxd", "task.id": "0", "class.name": "outboxd", "exception.message": "why",
		} {
			if got := header(r, "__connect.errors."+key); got != want {
				t.Errorf("%s: %s is %q, want %q", kind, key, got, want)
			}
		}
		if !slices.Contains(stages, header(r, "__connect.errors.stage")) || !strings.HasSuffix(header(r, "__connect.errors.exception.class.name"), "Exception") {
			t.Errorf("%s: stage %s, %s", kind, header(r, "__connect.errors.stage"), header(r, "__connect.errors.exception.class.name"))
		}
		if header(l.Encode(Form{Limit: MaxBytes}), "__connect.errors.stage") != "(none)" {
			t.Errorf("%s: without being asked for", kind)
		}
		back, err := parse(r)
		if err != nil || len(back.Headers) != 0 {
			t.Errorf("%s: %v, the event's own headers are %v", kind, err, back.Headers)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want poison.Kind
	}{
		{fmt.Errorf("a: %w", poison.TooLarge.Mark(decoder.ErrRow)), poison.TooLarge},
		{fmt.Errorf("a: %w", decoder.ErrRow), poison.Undecodable},
		{fmt.Errorf("a: %w", router.ErrUnroutable), poison.NoRoute},
		{errors.New("a"), poison.Encoding},
	} {
		if got := KindOf(test.err); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

func TestParsePosition(t *testing.T) {
	want := decoder.Position{CommitLSN: 0x1507C60, Number: 0x11}
	if got, err := ParsePosition(want.String()); err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"", "1507C60-1", "0000000001507C60-00000000", "0000000001507C6G-00000001", "0000000001507C60", "0000000001507C60-0000000g", "+000000001507C60-00000001"} {
		if p, err := ParsePosition(bad); err == nil {
			t.Errorf("%q is %s", bad, p)
		}
	}
}
