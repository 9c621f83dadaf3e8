package format_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/formattest"
	formatjson "outboxd/internal/format/json"
	"outboxd/internal/record"
)

var named = map[string]format.Format{"raw": format.Raw, "json": formatjson.Format{}, "cloudevents": cloudevents.Format{}}

// A NULL payload is a tombstone in every format, an empty one where it is to be.
func TestTombstones(t *testing.T) {
	for name, f := range named {
		for payload, v := range map[string]format.Options{"NULL": {}, "": {EmptyIsTombstone: true}, " \n": {EmptyIsTombstone: true}} {
			v.Format = f
			ev := formattest.Full(formattest.Set(decoder.Payload, decoder.TextOID, payload))
			if payload == "NULL" {
				ev.Values[decoder.Payload] = nil
			}
			if r, err := formattest.Encode(v, format.Outbox{}, ev); err != nil || r.Value != nil {
				t.Errorf("%s, payload %q: %q, %v", name, payload, r.Value, err)
			}
		}
		if r, err := formattest.Encode(format.Options{Format: f}, format.Outbox{}, formattest.Full(formattest.Set(decoder.Payload, decoder.TextOID, ""))); err != nil || r.Value == nil {
			t.Errorf("%s: an empty payload is a tombstone without being asked for; %v", name, err)
		}
		_, err := formattest.Encode(format.Options{Format: f, NullIsError: true}, format.Outbox{}, formattest.Full(formattest.Null(decoder.Payload)))
		formattest.Says(t, err, "payload", "NULL", "value.null_payload")
	}
}

// A database in SQL_ASCII holds any bytes; JSON holds UTF-8.
func TestNotUTF8(t *testing.T) {
	const bad = "Gr\xf6\xdfe"
	for _, test := range []struct {
		format string
		field  decoder.Field
		oid    uint32
		says   string
	}{
		{"json", decoder.ID, 0, "outbox.columns.id"},
		{"json", decoder.AggregateType, 0, "outbox.columns.aggregate_type"},
		{"json", decoder.CorrelationID, 0, "outbox.columns.correlation_id"},
		{"json", decoder.Payload, decoder.TextOID, "outbox.columns.payload"},
		{"json", decoder.Payload, decoder.JSONOID, "outbox.columns.payload"},
		{"cloudevents", decoder.Type, 0, "outbox.columns.type"},
		{"cloudevents", decoder.TraceParent, 0, "outbox.columns.traceparent"},
		{"cloudevents", decoder.Payload, decoder.JSONBOID, "outbox.columns.payload"},
	} {
		_, err := formattest.Encode(format.Options{Format: named[test.format]}, format.Outbox{}, formattest.Full(formattest.Set(test.field, test.oid, bad)))
		if !errors.Is(err, record.ErrUndeliverable) {
			t.Errorf("%s: %v", test.says, err)
			continue
		}
		formattest.Says(t, err, test.says, "UTF-8")
	}
	r := &record.Record{Record: kgo.Record{Key: []byte(bad)}}
	err := format.New(format.Options{Format: cloudevents.Format{}}).Encode(formattest.Full(), r)
	formattest.Says(t, err, "route.key", "UTF-8")
	// Bytes are bytes, and raw says nothing about them.
	if _, err := formattest.Encode(format.Options{Format: formatjson.Format{}}, format.Outbox{}, formattest.Full(formattest.Set(decoder.Payload, decoder.ByteaOID, bad))); err != nil {
		t.Error(err)
	}
	if r, err := formattest.Encode(format.Options{}, format.Outbox{}, formattest.Full(formattest.Set(decoder.Payload, decoder.TextOID, bad))); err != nil || string(r.Value) != bad {
		t.Errorf("raw: %q, %v", r.Value, err)
	}
}

func TestEncodeDoesNotAllocate(t *testing.T) {
	long := strings.Repeat("/a-long-source", 10)
	for name, f := range named {
		for style, h := range map[string]format.Headers{"plain": format.Plain, "cloudevents": cloudevents.Headers{}} {
			e := format.New(format.Options{Format: f, Headers: h, Clock: record.BusinessTime})
			e.Open(format.Outbox{Source: []byte(long)})
			r := new(record.Record)
			events := []*decoder.Event{formattest.Full(), formattest.Full(formattest.Set(decoder.Payload, decoder.TextOID, "a \"text\"\n")), formattest.Full(formattest.Set(decoder.Payload, decoder.ByteaOID, long))}
			encode := func() {
				for _, ev := range events {
					r.Reset()
					r.Key = ev.Values[decoder.AggregateID]
					if err := e.Encode(ev, r); err != nil {
						t.Fatal(err)
					}
				}
			}
			encode()
			if n := testing.AllocsPerRun(100, encode); n != 0 {
				t.Errorf("%s, headers %s: %v allocations for %d events", name, style, n, len(events))
			}
		}
	}
}

// What is encoded lies in the record's own memory, about as much as it needs, and the
// payload itself takes none.
func TestEncodedMemory(t *testing.T) {
	large := `"` + strings.Repeat("x", 1<<20) + `"`
	for name, made := range map[string]bool{"json": true, "cloudevents": true, "raw": false} {
		for _, oid := range []uint32{decoder.JSONBOID, decoder.TextOID, decoder.ByteaOID} {
			r, err := formattest.Encode(format.Options{Format: named[name]}, format.Outbox{}, formattest.Full(formattest.Set(decoder.Payload, oid, large)))
			if err != nil {
				t.Fatal(err)
			}
			if made != (r.Made() > len(large)) || r.Made() > 2<<20 {
				t.Errorf("%s, type %d: a value of %d bytes takes %d", name, oid, len(r.Value), r.Made())
			}
			if made && &r.Value[0] != &r.Buffer[0] {
				t.Errorf("%s, type %d: the value is not in the record's memory", name, oid)
			}
		}
	}
}

// BenchmarkEncode encodes an event with every field and a payload of 300 bytes.
func BenchmarkEncode(b *testing.B) {
	for name, f := range named {
		b.Run(name, func(b *testing.B) {
			e := format.New(format.Options{Format: f})
			e.Open(format.Outbox{Source: []byte("/shop/public.outbox")})
			ev := formattest.Full(formattest.Set(decoder.Payload, decoder.JSONBOID, `{"data": "`+strings.Repeat("x", 290)+`"}`))
			r := new(record.Record)
			b.SetBytes(int64(len(ev.Values[decoder.Payload])))
			b.ReportAllocs()
			for b.Loop() {
				r.Headers = r.Headers[:0] // the router resets the record
				r.Key = ev.Values[decoder.AggregateID]
				if err := e.Encode(ev, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
