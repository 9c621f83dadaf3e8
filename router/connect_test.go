package router

import (
	"errors"
	"math"
	"strings"
	"testing"

	"outboxd/decoder"
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
		if got := string(AppendJavaFloat(nil, f, 64)); got != want {
			t.Errorf("%v is %s, want %s", f, got, want)
		}
	}
	if got := string(AppendJavaFloat(nil, float64(float32(0.1)), 32)); got != "0.1" {
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
		a := Attribute{Modifier: test.modifier}
		text, err := ConnectText([]byte(test.value), test.typ, a, &scratch)
		if err != nil || string(text) != test.text {
			t.Errorf("type %d: %q is %q, %v; want %q", test.typ, test.value, text, err, test.text)
		}
		json, err := AppendConnectJSON([]byte("x"), []byte(test.value), test.typ, a)
		if err != nil || string(json) != "x"+test.json_ {
			t.Errorf("type %d: %q is in JSON %s, %v; want %s", test.typ, test.value, json, err, test.json_)
		}
	}
	for typ, value := range map[uint32]string{decoder.TimestampOID: "infinity", decoder.TimestampTZOID: "0044-03-15 00:00:00+00 BC", decoder.DateOID: "infinity"} {
		if _, err := AppendConnectJSON(nil, []byte(value), typ, Attribute{}); !errors.Is(err, ErrUnroutable) {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestConnectKeys(t *testing.T) {
	const null = "\x00null"
	for form, want := range map[KeyForm][2]string{
		ConnectKey:           {`k"1`, null},
		ConnectJSONKey:       {`"k\"1"`, "null"},
		ConnectJSONSchemaKey: {`{"schema":{"type":"string","optional":false},"payload":"k\"1"}`, `{"schema":{"type":"string","optional":false},"payload":null}`},
	} {
		rules := base("t", decoder.AggregateID)
		rules.KeyForm, rules.Attributes = form, make([]Attribute, decoder.NumFields)
		rules.Attributes[decoder.AggregateID].NotNull = true
		r := mustNew(t, rules)
		var m Message
		for i, change := range []func(*decoder.Event){with(decoder.AggregateID, `k"1`), without(decoder.AggregateID)} {
			err := r.Route(event(change), &m)
			if got := string(m.Key); err != nil || got != want[i] && !(m.Key == nil && want[i] == null) {
				t.Errorf("form %d: key %q, %v; want %q", form, got, err, want[i])
			}
		}
	}
}

// What is not a view of the event is told of, and a spare message keeps none of it.
func TestReset(t *testing.T) {
	rules := base("t", decoder.AggregateID)
	rules.KeyForm = ConnectJSONKey
	var m Message
	if err := mustNew(t, rules).Route(event(with(decoder.AggregateID, strings.Repeat("k", 1<<20))), &m); err != nil {
		t.Fatal(err)
	}
	if n := m.Converted(); n < 1<<20 || n > 3<<20 {
		t.Errorf("a key of 1 MiB takes %d bytes", n)
	}
	views := m.Headers
	if len(views) == 0 {
		t.Fatal("no headers")
	}
	m.Reset()
	if m.Key != nil || len(m.Headers) > 0 || m.Converted() > 4<<10 {
		t.Errorf("a message that was reset has a key of %d bytes, %d headers and %d bytes", len(m.Key), len(m.Headers), m.Converted())
	}
	for _, h := range views {
		if h.Key != "" || h.Value != nil {
			t.Errorf("it keeps the header %s", h.Key)
		}
	}
}

// A NULL is a header without a value, as Connect writes it.
func TestConnectHeaders(t *testing.T) {
	rules := base("t", decoder.NoField)
	rules.Style, rules.Context = ConnectHeaders, "shop"
	rules.Headers = []ColumnHeader{{"tenant", tenant}, {"note", note}}
	rules.Partition = decoder.NoField
	r := mustNew(t, rules)
	ev := event(without(note))
	ev.Types[tenant] = decoder.DateOID
	ev.Values[tenant] = []byte("1970-01-02")
	var m Message
	if err := r.Route(ev, &m); err != nil {
		t.Fatal(err)
	}
	want := "__debezium.context.connectorLogicalName=shop __debezium.context.taskId=0 __debezium.context.connectorName=postgresql id=value of id tenant=1 note="
	if got := strings.Join(headers(&m), " "); got != want {
		t.Errorf("headers %s\nwant    %s", got, want)
	}
	if h := m.Headers[len(m.Headers)-1]; h.Value != nil {
		t.Errorf("a NULL is %q", h.Value)
	}
	if n := testing.AllocsPerRun(100, func() { _ = r.Route(ev, &m) }); n > 1 { // time.Parse's copy of the text
		t.Errorf("%v allocations an event", n)
	}
}

func TestRegex(t *testing.T) {
	for _, test := range []struct{ pattern, replacement, text, want string }{
		{"(?<v>.*)", "outbox.event.${v}", "order", "outbox.event.order"},
		{"([a-z]+)-v([0-9]+)", "$2.$1", "order-v12", "12.order"},
		{"([a-z]+)-v([0-9]+)", "$2.$1", "x.order-v12", "x.order-v12"}, // not the whole
		{"a|ab", "x", "ab", "xb"},                                     // the whole matches, the first match is shorter
		{"(a)|b", "x${1}", "b", "x"},                                  // a group that took no part
		{"a*", "x$$", "aa", "x$"},                                     //
		{"", "x", "", "x"},                                            //
		{"a*?", "x", "aa", "xaa"},                                     // the first match is empty
		{"(?i)ORDER", "o", "Order", "o"},
	} {
		re, err := NewRegex(decoder.Type, "type", test.pattern, test.replacement)
		if err != nil {
			t.Fatal(err)
		}
		ev := event(with(decoder.Type, test.text))
		if got, err := re.expand(nil, ev); err != nil || string(got) != test.want {
			t.Errorf("%s on %s: %q, %v; want %q", test.pattern, test.text, got, err, test.want)
		}
		if _, err := re.expand(nil, event(without(decoder.Type))); !errors.Is(err, ErrUnroutable) {
			t.Errorf("NULL: %v", err)
		}
	}
}
