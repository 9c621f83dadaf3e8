package avro

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	formatjson "outboxd/internal/format/json"
)

// U+FFFD in place of half a surrogate pair is another text.
func TestAvroHalfSurrogates(t *testing.T) {
	typ := avroTypeOf(t, recordOf(`{"name": "b", "type": ["null", "string"]}, {"name": "m", "type": {"type": "map", "values": "int"}, "default": {}},
		{"name": "l", "type": {"type": "array", "items": "string"}, "default": []}`))
	var e jsonEncoder
	for payload, because := range map[string]string{
		`{"b":"x\ud83dy"}`:                "b: ",
		`{"b":{"string":"\ude00\ud83d"}}`: "b.string: ",
		`{"b":null,"m":{"x\ud83d":1}}`:    "m: the name",
		`{"b":null,"l":["a","\ud800"]}`:   "l[1]: ",
	} {
		_, err := e.append(nil, typ, []byte(payload))
		formattest.Says(t, err, because, "half of a surrogate pair")
	}
	got, err := e.append(nil, typ, []byte(`{"b":"\ud83d\ude00\u00e9\n"}`))
	if want := "020ef09f9880c3a90a" + "0000"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x, %v; want %s", got, err, want)
	}
	// In the envelope the payload stays the text that it is.
	ev := formattest.Empty()
	ev.Values[decoder.Payload], ev.Types[decoder.Payload] = []byte(`{"b":"x\ud83dy"}`), decoder.JSONOID
	for name, f := range map[string]format.Format{"json": formatjson.Format{}, "raw": format.Raw} {
		if r, err := formattest.Encode(format.Options{Format: f}, format.Outbox{}, ev); err != nil || !strings.Contains(string(r.Value), `{"b":"x\ud83dy"}`) {
			t.Errorf("%s: %s, %v", name, r.Value, err)
		}
	}
}

// A default that fits no type matters only for a payload without the member.
func TestAvroDefaultsThatDoNotFit(t *testing.T) {
	var e jsonEncoder
	for _, test := range []struct{ field, with, encoded, says string }{
		{`{"name": "a", "type": ["string", "null"], "default": null}`, `"x"`, "000278", "a: its default in the schema, null, is not a string"},
		{`{"name": "a", "type": ["null", "string"], "default": "x"}`, `"y"`, "020279", `a: its default in the schema, "x", is not a null`},
		{`{"name": "a", "type": "int", "default": "7"}`, `7`, "0e", `a: its default in the schema, "7", is not a int`},
		{`{"name": "a", "type": "int", "default": 1.5}`, `7`, "0e", `a: its default in the schema, 1.5, is not a int`},
		{`{"name": "a", "type": "long", "default": 9223372036854775808}`, `7`, "0e", `a: its default in the schema, 9223372036854775808, is not a long`},
		{`{"name": "a", "type": {"type": "array", "items": "int"}, "default": {}}`, `[]`, "00", `a: its default in the schema, an object, is not a array`},
		{`{"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["A"]}, "default": "B"}`, `"A"`, "00", `a: its default in the schema, "B", is not a shop.E`},
		{`{"name": "a", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "abc"}`, `"AP8="`, "00ff", `a: its default in the schema, "abc", is not a shop.F`},
		{`{"name": "a", "type": "bytes", "default": "\u0100"}`, `"AP8="`, "0400ff", `a: its default in the schema`},
		{`{"name": "a", "type": ["null", "R"], "default": {}}`, `null`, "00", `a: its default in the schema, an object, is not a null`},
		{`{"name": "a", "type": ["R", "null"], "default": {}}`, `null`, "02", `a: its default in the schema`}, // within itself
	} {
		typ := avroTypeOf(t, recordOf(test.field))
		got, err := e.append(nil, typ, []byte(`{"a": `+test.with+`}`))
		if err != nil || hex.EncodeToString(got) != test.encoded {
			t.Errorf("%s: %x, %v", test.field, got, err)
		}
		_, err = e.append(nil, typ, []byte(`{}`))
		formattest.Says(t, err, test.says)
	}
	// None is taken for a float64 on its way.
	typ := avroTypeOf(t, recordOf(`{"name": "a", "type": "long", "default": 9223372036854775807}`))
	if got, err := e.append(nil, typ, []byte(`{}`)); err != nil || hex.EncodeToString(got) != "feffffffffffffffff01" {
		t.Errorf("%x, %v", got, err)
	}
}

// Alike types within each other multiply, and each look at a level reads all that is
// inside it.
func TestAvroWorkIsBounded(t *testing.T) {
	node := func(name, of string) string {
		return `{"type": "record", "name": "` + name + `", "fields": [{"name": "next", "type": ` + of + `}]}`
	}
	alike := avroTypeOf(t, node("A", `["null", "A", `+node("B", `["null", "A", "B", "string"]`)+`]`))
	large := avroTypeOf(t, node("A", `["null", "A", `+node("B", `["null", "A", "B"]`)+`, {"type": "array", "items": "string"}]`))
	deep := func(n int, inside string) string {
		return strings.Repeat(`{"next":`, n) + inside + strings.Repeat("}", n)
	}
	for name, test := range map[string]struct {
		typ     *avroType
		payload string
	}{
		"small": {alike, deep(60, "5")},
		"large": {large, deep(60, "["+strings.Repeat(`"x",`, 1<<20)+"5]")},
		"deep":  {alike, deep(9000, "5")},
	} {
		start := time.Now()
		var e jsonEncoder
		_, err := e.append(nil, test.typ, []byte(test.payload))
		if err == nil || len(err.Error()) > 3000 {
			t.Errorf("%s: %.200v", name, err)
		}
		took := time.Since(start)
		if t.Logf("%s: %v", name, took); took > 2*time.Minute {
			t.Errorf("%s took %v", name, took)
		}
	}
	// No step of a path, nor all of it, shows more than a message may.
	var e jsonEncoder
	_, err := e.append(nil, alike, []byte(`{"`+strings.Repeat("x", 1<<20)+`":1}`))
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("%.200v", err)
	}
}
