package format_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/debezium"
	"outboxd/internal/format/formattest"
	formatjson "outboxd/internal/format/json"
	"outboxd/internal/record"
)

// FuzzMembers compares headers_column with what encoding/json makes of it.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"b": "x\u00e9\"\n", "a": 1.10, "n": null, "o": {"k":  [1, 2]}, "": "", "id": "forged", "a": "again"}`))
	f.Add([]byte(`{"x\ud83d\ude00":"\ud83d"}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		// PostgreSQL lets nothing else through.
		if !json.Valid(object) || !utf8.Valid(object) {
			return
		}
		o := format.Options{}
		o.Headers, o.Object = debezium.IDHeader, formattest.Note
		left := make(map[string]bool)
		o.OnLeftOut = func(_ *decoder.Event, name string) { left[name] = true }
		var m record.Record
		err := encode(opened(o), formattest.Named(formattest.With(formattest.Note, string(object)), formattest.Null(decoder.ID)), &m)
		var want map[string]json.RawMessage
		if json.Unmarshal(object, &want) != nil || want == nil {
			if err == nil {
				t.Fatalf("%q is no object, and gave %q", object, formattest.Headers(&m))
			}
			return
		}
		if err != nil {
			if !bytes.Contains(bytes.ToLower(object), []byte(`\ud`)) {
				t.Fatalf("%q: %v", object, err)
			}
			return
		}
		for _, h := range m.Headers {
			raw, ok := want[h.Key]
			if !ok || left[h.Key] {
				t.Fatalf("%q: header %q", object, h.Key)
			}
			value := string(raw)
			if raw[0] == '"' {
				_ = json.Unmarshal(raw, &value)
			}
			if string(h.Value) != value {
				t.Fatalf("%q: header %q is %q, want %q", object, h.Key, h.Value, value)
			}
			delete(want, h.Key)
		}
		for name, raw := range want {
			if string(raw) != "null" && !left[name] {
				t.Fatalf("%q: %q is missing", object, name)
			}
		}
	})
}

// fuzzTypes are types whose text a format looks into, and one that it does not.
var fuzzTypes = []uint32{
	decoder.TextOID, decoder.BoolOID, decoder.Int4OID, decoder.Float8OID, decoder.Float4OID, decoder.DateOID,
	decoder.TimestampOID, decoder.TimestampTZOID, decoder.JSONOID, decoder.UUIDOID, decoder.ByteaOID, 12345,
}

// fuzzEncoders are of every style of headers, and form of keys and values.
func fuzzEncoders() (encoders []*format.Encoder) {
	add := func(o format.Options) {
		if o.Headers.Columns() {
			o.Columns, o.Object = []format.ColumnHeader{{Key: "tenant", Field: formattest.Tenant}, {Key: "type of it", Field: decoder.Type}}, formattest.Note
		}
		encoders = append(encoders, opened(o))
	}
	for _, h := range []format.Headers{format.Plain, cloudevents.Headers{}, debezium.IDHeader, format.None} {
		for _, f := range []format.Format{format.Raw, formatjson.Format{}, cloudevents.Format{}} {
			add(format.Options{Headers: h, Format: f})
		}
	}
	for c := debezium.String; c <= debezium.JSONSchema; c++ {
		o := debezium.Options{Value: c, Key: c, Headers: c, KeyField: decoder.AggregateID, Context: "shop", RouteBy: decoder.AggregateType,
			Columns: []format.ColumnHeader{{Key: "tenant", Field: formattest.Tenant}, {Key: "type of it", Field: decoder.Type}}}
		add(format.Options{Headers: debezium.NewHeaders(o), Format: debezium.New(o)})
		o.Envelope, o.Expand, o.EmptyIsTombstone = o.Columns, &debezium.Expansion{}, true
		add(format.Options{Headers: debezium.NewHeaders(o), Format: debezium.New(o), EmptyIsTombstone: true, ContentType: "application/json"})
	}
	return encoders
}

// FuzzEncode encodes what a hostile server may send: any text, also an empty one, in
// a column of any type. The columns are separated by 0xFF, and one that is "-" is
// NULL.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("1\xffOrderPlaced\xfforder\xffk\xff3\xff\xff-\xff-\xfft\xff2026-01-02 03:04:05\xff{}\xfft\xff{\"a\":1}"), uint64(0))
	f.Add(bytes.Repeat([]byte("\xff"), decoder.NumFields+2), uint64(0x111111111111))
	f.Add(bytes.Repeat([]byte("_schemas\xff"), decoder.NumFields+2), uint64(0xfedcba9876543))
	encoders := fuzzEncoders()
	f.Fuzz(func(t *testing.T, columns []byte, types uint64) {
		ev := formattest.Named()
		for i := range ev.Values {
			var v []byte
			v, columns, _ = bytes.Cut(columns, []byte{0xFF})
			if ev.Values[i] = v; string(v) == "-" {
				ev.Values[i] = nil
			} else if v == nil {
				ev.Values[i] = []byte{}
			}
			ev.Types[i] = fuzzTypes[types>>(4*(i%16))&0xF%uint64(len(fuzzTypes))]
		}
		for i, e := range encoders {
			var r record.Record
			if err := encode(e, ev, &r); err != nil {
				if !errors.Is(err, record.ErrUndeliverable) || len(err.Error()) > 1000 {
					t.Fatalf("%v", err)
				}
				continue
			}
			count := make(map[string]int)
			for _, h := range r.Headers {
				if count[h.Key]++; count[h.Key] > 1 {
					t.Fatalf("header %q is there twice: %q", h.Key, formattest.Headers(&r))
				}
			}
			// The last ones write keys as JSON.
			if i >= len(encoders)-4 && utf8.Valid(r.Key) && !json.Valid(r.Key) && ev.Types[decoder.AggregateID] != decoder.Int4OID {
				t.Fatalf("key %q", r.Key)
			}
		}
	})
}
