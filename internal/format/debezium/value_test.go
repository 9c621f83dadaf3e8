package debezium

import (
	"errors"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

// What Debezium 3.7 makes of payloads; e2e compares with it.
func TestExpansion(t *testing.T) {
	for _, test := range []struct {
		payload, want string
		keep          string // with both kept, if it differs
	}{
		{`{"a": 1, "b": "x", "c": true, "g": 1.10, "h": 1e2, "i": 3000000000, "j": -0}`, `{"a":1,"b":"x","c":true,"g":1.1,"h":100.0,"i":3000000000,"j":0}`, ""},
		{`{"d": null, "e": [], "f": {}}`, `{"f":{}}`, `{"d":null,"e":[],"f":{}}`},
		{`{"a": [{"x": 1}, {"y": 2}, null]}`, `{"a":[{"x":1,"y":null},{"x":null,"y":2},null]}`, ""},
		{`{"a": [1, "x"]}`, `"{\"a\": [1, \"x\"]}"`, ""},
		{`{"a": [1, 2.5]}`, `"{\"a\": [1, 2.5]}"`, ""},
		{`{"a": [null]}`, `"{\"a\": [null]}"`, `{"a":[null]}`},
		{`{"dup": 1, "x": 2, "dup": "last"}`, `{"dup":"last","x":2}`, ""},
		{`{"": 1}`, `"{\"\": 1}"`, ""},
		{`{"a": 1, "": null}`, `{"a":1}`, `"{\"a\": 1, \"\": null}"`},
		{`{"a": 1} rest`, `{"a":1}`, ""},
		{` {"a": 1}`, `" {\"a\": 1}"`, ""},
		{`"scalar"`, `"\"scalar\""`, ""},
		{``, `""`, ""},
		{`{"a": `, `"{\"a\": "`, ""},
		{`[]`, `"[]"`, "!"},
		{`[1]`, "!", "!"},
		{`[1, "x"]`, `"[1, \"x\"]"`, ""},
		{`{"big": 9223372036854775808}`, "!", "!"},
		{`{"a": [{"x": 1}, {"x": 3000000000}]}`, "!", "!"},
	} {
		for _, keep := range []bool{false, true} {
			want := test.want
			if keep && test.keep != "" {
				want = test.keep
			}
			o := Options{Value: JSON, KeyField: decoder.NoField, Expand: &Expansion{KeepNulls: keep, KeepEmptyArrays: keep}}
			ev := formattest.Empty()
			ev.Values[decoder.Payload] = []byte(test.payload)
			r, err := formattest.Encode(format.Options{Format: New(o)}, format.Outbox{}, ev)
			got := r.Value
			if want == "!" {
				if !errors.Is(err, record.ErrUndeliverable) {
					t.Errorf("%s: %s, %v; Debezium fails", test.payload, got, err)
				}
				continue
			}
			if err != nil || string(got) != want {
				t.Errorf("%s: %s, %v; want %s", test.payload, got, err, want)
			}
		}
	}
}

func TestConnectValues(t *testing.T) {
	const null, tombstone = "\x00null", "\x00tombstone"
	extra := []format.ColumnHeader{{Key: "eventType", Field: decoder.Type}, {Key: "n", Field: decoder.Version}}
	struct_ := `{"schema":{"type":"struct","fields":[{"type":"string","optional":true,"field":"payload"},{"type":"string","optional":true,"field":"eventType"},` +
		`{"type":"int32","optional":true,"field":"n"}],"optional":false,"name":"shop.public.outbox.order.Value","version":3},"payload":{"payload":"x","eventType":"OrderPlaced","n":null}}`
	for _, test := range []struct {
		converter Converter
		envelope  []format.ColumnHeader
		empty     bool
		payload   string
		want      string
	}{
		{String, nil, false, "x", "x"},
		{String, nil, false, null, tombstone},
		{String, nil, true, " \x01\n", tombstone},
		{String, nil, true, "\u00a0", "\u00a0"}, // no space to Java's trim
		{JSON, nil, false, null, "null"},
		{JSON, nil, true, null, tombstone},
		{JSON, nil, false, `{"a": 1}`, `"{\"a\": 1}"`},
		{JSONSchema, nil, false, null, `{"schema":{"type":"string","optional":true},"payload":null}`},
		{JSON, extra, false, null, `{"payload":null,"eventType":"OrderPlaced","n":null}`},
		{JSON, extra, true, null, tombstone},
		{String, extra, false, "x", "Struct{payload=x,eventType=OrderPlaced}"},
		{String, extra, false, null, "Struct{eventType=OrderPlaced}"},
		{JSONSchema, extra, false, "x", struct_},
	} {
		o := Options{Value: test.converter, KeyField: decoder.NoField, Envelope: test.envelope, RouteBy: decoder.AggregateType, TopicPrefix: "shop", Table: "public.outbox", EmptyIsTombstone: test.empty}
		ev := formattest.Empty()
		ev.Types = make([]uint32, decoder.NumFields)
		ev.Types[decoder.Payload], ev.Types[decoder.Version] = decoder.TextOID, decoder.Int4OID
		clear(ev.Values)
		ev.Values[decoder.Type], ev.Values[decoder.AggregateType], ev.Values[decoder.SchemaVersion] = []byte("OrderPlaced"), []byte("order"), []byte("3")
		if test.payload != null {
			ev.Values[decoder.Payload] = []byte(test.payload)
		}
		r, err := formattest.Encode(format.Options{Format: New(o), EmptyIsTombstone: test.empty}, format.Outbox{}, ev)
		got := r.Value
		if isTombstone := got == nil; err != nil || isTombstone != (test.want == tombstone) || !isTombstone && string(got) != test.want {
			t.Errorf("%+v: %q (nil %t), %v; want %q", test, got, got == nil, err, test.want)
		}
	}
}
