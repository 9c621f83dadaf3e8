package sink

import (
	"errors"
	"testing"

	"outboxd/decoder"
	"outboxd/router"
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
			c := &Connect{Converter: JSONConverter, Expand: &Expansion{KeepNulls: keep, KeepEmptyArrays: keep}}
			ev := newEvent()
			ev.Values[decoder.Payload] = []byte(test.payload)
			got, err := (&Value{Format: Debezium, Connect: c}).encode(ev, new(Delivery))
			if want == "!" {
				if !errors.Is(err, ErrUndeliverable) {
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
	extra := []router.ColumnHeader{{Key: "eventType", Field: decoder.Type}, {Key: "n", Field: decoder.Version}}
	struct_ := `{"schema":{"type":"struct","fields":[{"type":"string","optional":true,"field":"payload"},{"type":"string","optional":true,"field":"eventType"},` +
		`{"type":"int32","optional":true,"field":"n"}],"optional":false,"name":"shop.public.outbox.order.Value","version":3},"payload":{"payload":"x","eventType":"OrderPlaced","n":null}}`
	for _, test := range []struct {
		converter Converter
		envelope  []router.ColumnHeader
		empty     bool
		payload   string
		want      string
	}{
		{StringConverter, nil, false, "x", "x"},
		{StringConverter, nil, false, null, tombstone},
		{StringConverter, nil, true, " \x01\n", tombstone},
		{StringConverter, nil, true, "\u00a0", "\u00a0"}, // no space to Java's trim
		{JSONConverter, nil, false, null, "null"},
		{JSONConverter, nil, true, null, tombstone},
		{JSONConverter, nil, false, `{"a": 1}`, `"{\"a\": 1}"`},
		{JSONSchemaConverter, nil, false, null, `{"schema":{"type":"string","optional":true},"payload":null}`},
		{JSONConverter, extra, false, null, `{"payload":null,"eventType":"OrderPlaced","n":null}`},
		{JSONConverter, extra, true, null, tombstone},
		{StringConverter, extra, false, "x", "Struct{payload=x,eventType=OrderPlaced}"},
		{StringConverter, extra, false, null, "Struct{eventType=OrderPlaced}"},
		{JSONSchemaConverter, extra, false, "x", struct_},
	} {
		c := &Connect{Converter: test.converter, Envelope: test.envelope, RouteBy: decoder.AggregateType, TopicPrefix: "shop", Table: "public.outbox"}
		ev := newEvent()
		ev.Types = make([]uint32, decoder.NumFields)
		ev.Types[decoder.Payload], ev.Types[decoder.Version] = decoder.TextOID, decoder.Int4OID
		clear(ev.Values)
		ev.Values[decoder.Type], ev.Values[decoder.AggregateType], ev.Values[decoder.SchemaVersion] = []byte("OrderPlaced"), []byte("order"), []byte("3")
		if test.payload != null {
			ev.Values[decoder.Payload] = []byte(test.payload)
		}
		got, err := (&Value{Format: Debezium, Connect: c, EmptyIsTombstone: test.empty}).encode(ev, new(Delivery))
		if isTombstone := got == nil; err != nil || isTombstone != (test.want == tombstone) || !isTombstone && string(got) != test.want {
			t.Errorf("%+v: %q (nil %t), %v; want %q", test, got, got == nil, err, test.want)
		}
	}
}
