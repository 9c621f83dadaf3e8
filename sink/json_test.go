package sink

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"outboxd/decoder"
)

// full returns an event with every field set.
func full(change ...func(*decoder.Event)) *decoder.Event {
	ev := newEvent()
	ev.Position = decoder.Position{CommitLSN: 0x1507C60, Number: 1}
	ev.CommittedAt = committedAt
	ev.Time = time.Date(2026, 7, 31, 14, 0, 0, 5000, time.UTC)
	for f, value := range map[decoder.Field]string{
		decoder.ID: "8f3a", decoder.Type: "OrderPlaced", decoder.AggregateType: "order", decoder.AggregateID: "order-1",
		decoder.Version: "7", decoder.SchemaVersion: "2", decoder.CorrelationID: "c-1", decoder.CausationID: "c-0",
		decoder.TraceParent: "00-4bf9-00f0-01", decoder.Timestamp: "2026-07-31 14:00:00.000005+00", decoder.Payload: `{"a":  1.10}`,
	} {
		ev.Values[f] = []byte(value)
	}
	ev.Types[decoder.Version], ev.Types[decoder.SchemaVersion] = decoder.Int8OID, decoder.TextOID
	ev.Types[decoder.Payload] = decoder.JSONBOID
	for _, f := range change {
		f(ev)
	}
	return ev
}

func null(fields ...decoder.Field) func(*decoder.Event) {
	return func(ev *decoder.Event) {
		for _, f := range fields {
			ev.Values[f] = nil
		}
	}
}

func set(f decoder.Field, oid uint32, value string) func(*decoder.Event) {
	return func(ev *decoder.Event) { ev.Values[f], ev.Types[f] = []byte(value), oid }
}

func encoded(t testing.TB, v Value, ev *decoder.Event) string {
	t.Helper()
	d := new(Delivery)
	d.Key = ev.Values[decoder.AggregateID]
	b, err := v.encode(ev, d)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wellFormed demands one JSON object in UTF-8 whose keys do not repeat.
func wellFormed(t testing.TB, text string) {
	t.Helper()
	if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
		t.Errorf("not JSON: %q", text)
	}
	seen := make(map[string]bool)
	d := json.NewDecoder(strings.NewReader(text))
	_, _ = d.Token() // {
	for d.More() {
		var value json.RawMessage
		key, _ := d.Token()
		if err := d.Decode(&value); err != nil || seen[key.(string)] {
			t.Errorf("key %v, %v: %s", key, err, text)
			return
		}
		seen[key.(string)] = true
	}
}

func TestEnvelope(t *testing.T) {
	for name, test := range map[string]struct {
		event *decoder.Event
		want  string
	}{
		"all": {full(), `{"id":"8f3a","type":"OrderPlaced","aggregate_type":"order","aggregate_id":"order-1","version":7,"schema_version":"2",` +
			`"timestamp":"2026-07-31T14:00:00.000005Z","committed_at":"2026-07-31T12:30:00.123456Z","correlation_id":"c-1","causation_id":"c-0",` +
			`"position":"0000000001507C60-00000001","payload":{"a":  1.10}}`},
		"NULL is absent": {full(null(decoder.ID, decoder.Type, decoder.AggregateType, decoder.AggregateID, decoder.Version, decoder.SchemaVersion,
			decoder.Timestamp, decoder.CorrelationID, decoder.CausationID, decoder.TraceParent)),
			`{"committed_at":"2026-07-31T12:30:00.123456Z","position":"0000000001507C60-00000001","payload":{"a":  1.10}}`},
		"empty is not": {full(set(decoder.ID, 0, ""), null(decoder.Type, decoder.AggregateType, decoder.AggregateID, decoder.Version, decoder.Timestamp,
			decoder.CorrelationID, decoder.CausationID), set(decoder.SchemaVersion, decoder.Int2OID, "-3"), set(decoder.Payload, decoder.TextOID, "")),
			`{"id":"","schema_version":-3,"committed_at":"2026-07-31T12:30:00.123456Z","position":"0000000001507C60-00000001","payload":""}`},
	} {
		got := encoded(t, Value{Format: JSON}, test.event)
		if got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, test.want)
		}
		wellFormed(t, got)
	}
}

func TestCloudEvent(t *testing.T) {
	v := Value{Format: CloudEvents, Source: "/shop/public.outbox"}
	for name, test := range map[string]struct {
		event *decoder.Event
		want  string
	}{
		"all": {full(), `{"specversion":"1.0","id":"8f3a","source":"/shop/public.outbox","type":"OrderPlaced","subject":"order-1","time":"2026-07-31T14:00:00.000005Z",` +
			`"datacontenttype":"application/json","partitionkey":"order-1","sequence":"0000000001507C60-00000001","correlationid":"c-1","causationid":"c-0",` +
			`"traceparent":"00-4bf9-00f0-01","data":{"a":  1.10}}`},
		// CloudEvents knows no empty attribute.
		"bytes": {full(set(decoder.Payload, decoder.ByteaOID, "\x00\xff"), null(decoder.Timestamp), set(decoder.AggregateID, 0, ""),
			set(decoder.CorrelationID, 0, ""), null(decoder.CausationID), set(decoder.TraceParent, 0, "")),
			`{"specversion":"1.0","id":"8f3a","source":"/shop/public.outbox","type":"OrderPlaced","time":"2026-07-31T12:30:00.123456Z",` +
				`"datacontenttype":"application/octet-stream","sequence":"0000000001507C60-00000001","data_base64":"AP8="}`},
		"text": {full(set(decoder.Payload, decoder.VarcharOID, "a \"b\""), null(decoder.Timestamp, decoder.CorrelationID, decoder.CausationID, decoder.TraceParent)),
			`{"specversion":"1.0","id":"8f3a","source":"/shop/public.outbox","type":"OrderPlaced","subject":"order-1","time":"2026-07-31T12:30:00.123456Z",` +
				`"datacontenttype":"text/plain; charset=utf-8","partitionkey":"order-1","sequence":"0000000001507C60-00000001","data":"a \"b\""}`},
	} {
		got := encoded(t, v, test.event)
		if got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, test.want)
		}
		wellFormed(t, got)
	}
	for _, f := range []decoder.Field{decoder.ID, decoder.Type} {
		for _, change := range []func(*decoder.Event){null(f), set(f, 0, "")} {
			_, err := v.encode(full(change), new(Delivery))
			if !errors.Is(err, ErrUndeliverable) {
				t.Errorf("%s is NULL or empty: %v", f, err)
				continue
			}
			says(t, err, "outbox.columns."+f.String(), "CloudEvent")
		}
	}
}

// A payload is in the envelope as it is in the table.
func TestEmbeddedPayloads(t *testing.T) {
	for _, payload := range []string{
		`null`, `true`, `12345678901234567890.10`, `"\u00e9\u0000"`, `[]`, ` { "b":1,"a" : 1.0e2,   "a":2}`, "{\n\"\u2028\": \"\U0001F511\"}\n",
		"\"\x7f\"", `1e400`,
	} {
		got := encoded(t, Value{Format: JSON}, full(set(decoder.Payload, decoder.JSONOID, payload)))
		if !strings.HasSuffix(got, `,"payload":`+payload+`}`) {
			t.Errorf("payload %q became %s", payload, got)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("not JSON: %q", got)
		}
	}
	data := bytes.Repeat([]byte("\x00\x01\xfe\xff"), 1000)
	var o struct{ Payload []byte }
	if err := json.Unmarshal([]byte(encoded(t, Value{Format: JSON}, full(set(decoder.Payload, decoder.ByteaOID, string(data))))), &o); err != nil || !bytes.Equal(o.Payload, data) {
		t.Errorf("%v: %q", err, o.Payload)
	}
}

// A NULL payload is a tombstone in every format, an empty one where it is to be.
func TestTombstones(t *testing.T) {
	for _, format := range []Format{Raw, JSON, CloudEvents} {
		for payload, v := range map[string]Value{"NULL": {}, "": {EmptyIsTombstone: true}, " \n": {EmptyIsTombstone: true}} {
			v.Format = format
			ev := full(set(decoder.Payload, decoder.TextOID, payload))
			if payload == "NULL" {
				ev.Values[decoder.Payload] = nil
			}
			if b, err := v.encode(ev, new(Delivery)); err != nil || b != nil {
				t.Errorf("format %d, payload %q: %q, %v", format, payload, b, err)
			}
		}
		if b, err := (&Value{Format: format}).encode(full(set(decoder.Payload, decoder.TextOID, "")), new(Delivery)); err != nil || b == nil {
			t.Errorf("format %d: an empty payload is a tombstone without being asked for; %v", format, err)
		}
		v := Value{Format: format, NullIsError: true}
		_, err := v.encode(full(null(decoder.Payload)), new(Delivery))
		says(t, err, "payload", "NULL", "value.null_payload")
	}
}

// A database in SQL_ASCII holds any bytes; JSON holds UTF-8.
func TestNotUTF8(t *testing.T) {
	const bad = "Gr\xf6\xdfe"
	for _, test := range []struct {
		format Format
		field  decoder.Field
		oid    uint32
		says   string
	}{
		{JSON, decoder.ID, 0, "outbox.columns.id"},
		{JSON, decoder.AggregateType, 0, "outbox.columns.aggregate_type"},
		{JSON, decoder.CorrelationID, 0, "outbox.columns.correlation_id"},
		{JSON, decoder.Payload, decoder.TextOID, "outbox.columns.payload"},
		{JSON, decoder.Payload, decoder.JSONOID, "outbox.columns.payload"},
		{CloudEvents, decoder.Type, 0, "outbox.columns.type"},
		{CloudEvents, decoder.TraceParent, 0, "outbox.columns.traceparent"},
		{CloudEvents, decoder.Payload, decoder.JSONBOID, "outbox.columns.payload"},
	} {
		v := Value{Format: test.format}
		_, err := v.encode(full(set(test.field, test.oid, bad)), new(Delivery))
		if !errors.Is(err, ErrUndeliverable) {
			t.Errorf("%s: %v", test.says, err)
			continue
		}
		says(t, err, test.says, "UTF-8")
	}
	d := new(Delivery)
	d.Key = []byte(bad)
	_, err := (&Value{Format: CloudEvents}).encode(full(), d)
	says(t, err, "route.key", "UTF-8")
	// Bytes are bytes, and raw says nothing about them.
	encoded(t, Value{Format: JSON}, full(set(decoder.Payload, decoder.ByteaOID, bad)))
	if got := encoded(t, Value{}, full(set(decoder.Payload, decoder.TextOID, bad))); got != bad {
		t.Errorf("raw: %q", got)
	}
}

// What is printed must mean the same to any JSON parser.
func FuzzQuoted(f *testing.F) {
	for _, seed := range []string{"", "a", "\x00\x1f\x7f", "\"\\/\b\f\n\r\t", "\u2028\u2029", "\U0001F511\ufffd", "\xff", "a\xc3", "\xed\xa0\x80", "<script>&"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var o object
		if ok := o.quoted([]byte(text)); ok != utf8.ValidString(text) {
			t.Fatalf("%q: UTF-8 %t", text, ok)
		} else if !ok {
			return
		}
		var back string
		if err := json.Unmarshal(o.b, &back); err != nil || back != text {
			t.Fatalf("%q became %s, which is %q: %v", text, o.b, back, err)
		}
	})
}

// Whatever the columns hold, the envelope is JSON and gives them back.
func FuzzEnvelope(f *testing.F) {
	f.Add("1", "t", "k", "text\n", false)
	f.Add("", "\x01", "\u2028\\", "\xff\x00", true)
	f.Fuzz(func(t *testing.T, id, typ, key, payload string, binary bool) {
		oid := uint32(decoder.TextOID)
		if binary {
			oid = decoder.ByteaOID
		}
		ev := full(set(decoder.ID, 0, id), set(decoder.Type, 0, typ), set(decoder.AggregateID, 0, key), set(decoder.Payload, oid, payload))
		v := Value{Format: JSON}
		b, err := v.encode(ev, new(Delivery))
		fits := utf8.ValidString(id) && utf8.ValidString(typ) && utf8.ValidString(key) && (binary || utf8.ValidString(payload))
		if (err == nil) != fits {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		var o struct {
			ID, Type, Payload string
			Aggregate         string `json:"aggregate_id"`
			Version           int
		}
		if err := json.Unmarshal(b, &o); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if binary {
			raw, err := base64.StdEncoding.DecodeString(o.Payload)
			if err != nil {
				t.Fatal(err)
			}
			o.Payload = string(raw)
		}
		if o.ID != id || o.Type != typ || o.Aggregate != key || o.Payload != payload || o.Version != 7 {
			t.Fatalf("%+v", o)
		}
	})
}

func TestEncodeDoesNotAllocate(t *testing.T) {
	long := strings.Repeat("/a-long-source", 10)
	for _, format := range []Format{JSON, CloudEvents} {
		v := Value{Format: format, Source: long, Timestamp: BusinessTime}
		d := new(Delivery)
		d.Key = []byte("order-1")
		events := []*decoder.Event{full(), full(set(decoder.Payload, decoder.TextOID, "a \"text\"\n")), full(set(decoder.Payload, decoder.ByteaOID, long))}
		encode := func() {
			for _, ev := range events {
				if _, err := v.encode(ev, d); err != nil {
					t.Fatal(err)
				}
			}
		}
		encode()
		if n := testing.AllocsPerRun(100, encode); n != 0 {
			t.Errorf("format %d: %v allocations for %d events", format, n, len(events))
		}
	}
}

// The memory of a large event is told of what its envelope and the client's copies of it
// take, and a spare delivery keeps none of it.
func TestValueMemory(t *testing.T) {
	large := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, test := range []struct {
		format  Format
		payload string
		oids    []uint32
	}{
		{JSON, large, []uint32{decoder.JSONBOID, decoder.TextOID, decoder.ByteaOID}},
		{Raw, large, []uint32{decoder.JSONBOID, decoder.ByteaOID}},
		{Raw, large[:300], []uint32{decoder.TextOID}},
	} {
		for _, oid := range test.oids {
			v := Value{Format: test.format}
			ev := full(set(decoder.Payload, oid, test.payload))
			w := &witness{}
			d := &Delivery{Memory: w}
			value, err := v.encode(ev, d)
			if err != nil {
				t.Fatal(err)
			}
			d.record.Value = value
			d.charge()
			want := cap(d.value)
			if len(test.payload) > 1<<20 {
				want += 2 * len(value)
			}
			if made := test.format == JSON; made != (cap(d.value) > 0) || cap(d.value) > 2<<20 {
				t.Errorf("%v, type %d: a value of %d bytes", test.format, oid, cap(d.value))
			}
			if got := w.charged.Load(); got != int64(want) {
				t.Errorf("%v, type %d, %d bytes: charged %d for the value, want %d", test.format, oid, len(test.payload), got, want)
			}
			if d.recycle(); d.value != nil {
				t.Errorf("a spare delivery keeps %d bytes", cap(d.value))
			}
		}
	}
}
