package avro

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"

	"outboxd/internal/format/formattest"
)

func avroTypeOf(t testing.TB, schema string) *avroType {
	t.Helper()
	if !strings.HasPrefix(schema, "{") && !strings.HasPrefix(schema, "[") {
		schema = `"` + schema + `"`
	}
	parsed, err := parseAvro(schema, &avro.SchemaCache{})
	if err != nil {
		t.Fatal(err)
	}
	typ, err := newAvroType(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

func recordOf(fields string) string {
	return `{"type": "record", "name": "R", "namespace": "shop", "fields": [` + fields + `]}`
}

// The bytes are those of "Avro specification, Binary Encoding", worked out by
// hand.
func TestJSONToAvro(t *testing.T) {
	const (
		decimal  = `{"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}`
		fixed8   = `{"type": "fixed", "name": "Money", "size": 8, "logicalType": "decimal", "precision": 18, "scale": 2}`
		duration = `{"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}`
		enum     = `{"type": "enum", "name": "E", "symbols": ["A", "B"]}`
	)
	logical := func(typ, name string) string { return `{"type": "` + typ + `", "logicalType": "` + name + `"}` }
	tests := []struct{ schema, payload, want string }{
		// Primitives.
		{"null", "null", ""},
		{"boolean", "true", "01"},
		{"boolean", "false", "00"},
		{"int", "2147483647", "feffffff0f"},
		{"int", "-2147483648", "ffffffff0f"},
		{"int", "5.00", "0a"},
		{"long", "9007199254740993", "8280808080808020"}, // 2^53+1, which no float64 is
		{"long", "9223372036854775807", "feffffffffffffffff01"},
		{"long", "-9223372036854775808", "ffffffffffffffffff01"},
		{"float", "1.5", "0000c03f"},
		{"double", "1.5", "000000000000f83f"},
		{"double", "3", "0000000000000840"},
		{"double", `"-Infinity"`, "000000000000f0ff"},
		{"string", `"gr\u00f6ße"`, "0e6772c3b6c39f65"},
		{"string", `""`, "00"},
		{"bytes", `"AP+A"`, "0600ff80"},
		{`{"type": "fixed", "name": "F", "size": 3}`, `"AP+A"`, "00ff80"},
		{enum, `"B"`, "02"},
		// Logical types.
		{decimal, "1234.5", "0601e23a"}, // 123450
		{decimal, `"1234.50"`, "0601e23a"},
		{decimal, "-1.28", "0280"},
		{decimal, "1.28", "040080"},
		{decimal, "-1.29", "04ff7f"},
		{decimal, "0.000", "0200"},
		{decimal, "0e-500", "0200"},
		{decimal, "1.2e3", "0601d4c0"},
		{decimal, "123456789012345678.99", "1200ab54a98ceb1f0adb"},
		{fixed8, "-0.01", "ffffffffffffffff"},
		{fixed8, "90071992547409.93", "0020000000000001"},
		{logical("string", "uuid"), `"8f3a7a0e-0000-4000-8000-00000000000A"`, "48" + hex.EncodeToString([]byte("8f3a7a0e-0000-4000-8000-00000000000A"))},
		{logical("int", "date"), `"1970-01-02"`, "02"},
		{logical("int", "date"), `"1969-12-31"`, "01"},
		{logical("int", "date"), "5", "0a"},
		{logical("int", "time-millis"), `"00:00:01.5"`, "b817"},
		{logical("long", "time-micros"), `"00:00:00.000002"`, "04"},
		{logical("long", "timestamp-millis"), `"1970-01-01T01:00:00.0029+01:00"`, "04"},
		{logical("long", "timestamp-micros"), `"1969-12-31T23:59:59.999999Z"`, "01"},
		{logical("long", "timestamp-micros"), "9007199254740993", "8280808080808020"},
		{logical("long", "local-timestamp-micros"), `"1970-01-01T00:00:00.000003"`, "06"},
		{logical("long", "timestamp-nanos"), "3", "06"}, // a plain long to whoever does not know it
		{duration, `"P1Y2M1W3DT1H1M1.5S"`, "0e000000" + "0a000000" + "bcde3700"},
		{duration, `"PT0.0019S"`, "00000000" + "00000000" + "01000000"},
		// Compounds.
		{`{"type": "array", "items": "int"}`, "[1, 2]", "04020400"},
		{`{"type": "array", "items": "int"}`, "[]", "00"},
		{`{"type": "map", "values": "int"}`, `{"a": 1, "b c": 2}`, "040261020662206304" + "00"},
		{`{"type": "map", "values": "int"}`, `{}`, "00"},
		// Defaults.
		{recordOf(`{"name": "a", "type": "int", "default": 3}, {"name": "b", "type": ["null", "string"], "default": null}, {"name": "c", "type": ["string", "null"], "default": "x"}`), `{}`, "06" + "00" + "000278"},
		{recordOf(`{"name": "a", "type": ["string", "null"]}`), `{}`, "02"}, // may be null, so it is
		{recordOf(`{"name": "a", "type": "bytes", "default": "\u00ff"}, {"name": "b", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "\u0001\u0080"}, {"name": "c", "type": ` + enum + `, "default": "B"}`), `{}`, "02ff" + "0180" + "02"},
		{recordOf(`{"name": "a", "type": {"type": "array", "items": "long"}, "default": [1]}, {"name": "b", "type": {"type": "map", "values": "double"}, "default": {"k": 1.5}}`), `{}`, "020200" + "02026b000000000000f83f00"},
		{recordOf(`{"name": "a", "type": {"type": "record", "name": "S", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "boolean", "default": true}]}, "default": {"x": 2}}`), `{}`, "0401"},
		// Members in another order, and one that is there twice.
		{recordOf(`{"name": "a", "type": "int"}, {"name": "b", "type": "int"}`), ` {"b": 1, "a": 2, "b": 3}`, "0406"},
		// Unions: plain, and tagged as in Avro's own JSON.
		{`["null", "string"]`, `"a"`, "020261"},
		{`["null", "string"]`, `{"string": "a"}`, "020261"},
		{`["null", "string"]`, `null`, "00"},
		{`["null", "double", "long"]`, "5", "040a"},
		{`["null", "long", "double"]`, "5.5", "04" + "0000000000001640"},
		{`["null", "int", "long"]`, "3000000000", "0480f882ad16"},
		{`["bytes", "string"]`, `"AP+A"`, "020841502b41"},
		{`["null", "bytes"]`, `"AP+A"`, "020600ff80"},
		{`["null", ` + decimal + `]`, `"1.28"`, "02040080"},
		{`["null", ` + decimal + `]`, `{"bytes": 1.28}`, "02040080"},
		{`["null", ` + logical("long", "timestamp-millis") + `, "string"]`, `"1970-01-01T00:00:00.001Z"`, "0202"},
		{`["null", ` + logical("long", "timestamp-millis") + `, "string"]`, `"soon"`, "0408736f6f6e"},
		{`["null", {"type": "map", "values": "int"}]`, `{"map": 1}`, "0202066d61700200"}, // not a tag
		{`["null", {"type": "map", "values": "int"}]`, `{"map": {"a": 1}}`, "020202610200"},
		{`["null", ` + recordOf(`{"name": "x", "type": "int"}`) + `]`, `{"shop.R": {"x": 1}}`, "0202"},
		{`["null", ` + recordOf(`{"name": "x", "type": "int"}`) + `, {"type": "record", "name": "S", "fields": [{"name": "y", "type": "int"}]}]`, `{"y": 1}`, "0402"},
		// A record within itself.
		{recordOf(`{"name": "v", "type": "int"}, {"name": "next", "type": ["null", "R"], "default": null}`), `{"v": 1, "next": {"v": 2, "next": {"shop.R": {"v": 3}}}}`, "02" + "0204" + "020600"},
	}
	var e jsonEncoder
	for _, test := range tests {
		got, err := e.append(nil, avroTypeOf(t, test.schema), []byte(test.payload))
		if err != nil || hex.EncodeToString(got) != test.want {
			t.Errorf("%s by %s: %x, %v; want %s", test.payload, test.schema, got, err, test.want)
		}
	}
}

// What does not fit is named by its path.
func TestJSONThatDoesNotFit(t *testing.T) {
	order := `{"type": "record", "name": "Event", "fields": [{"name": "order", "type": {"type": "record", "name": "Order", "fields": [
		{"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
			{"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
			{"name": "note", "type": ["null", "string"], "default": null},
			{"name": "tags", "type": {"type": "map", "values": "int"}, "default": {}}]}}}]}},
		{"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}, "default": "OPEN"},
		{"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null},
		{"name": "big", "type": "long", "default": 9223372036854775807},
		{"name": "hash", "type": [{"type": "fixed", "name": "Hash", "size": 4}, "null"], "default": "abcd"}]}`
	line := func(line string) string {
		return `{"big": 1, "order": {"lines": [{"price": 1}, {"price": 2}, ` + line + `]}}`
	}
	with := func(member string) string { return `{"big": 1, "order": {"lines": []}, ` + member + `}` }
	tests := []struct {
		payload string
		says    []string
	}{
		{line(`{"price": "much"}`), []string{"order.lines[2].price: ", `"much"`, "not a decimal"}},
		{line(`{"price": 1.001}`), []string{"order.lines[2].price: 1.001 has more than 2 digits after the point"}},
		{line(`{"price": 12345.67}`), []string{"order.lines[2].price: 12345.67 has more than 6 digits"}},
		{line(`{"price": 1e900}`), []string{"order.lines[2].price: ", "more than 6 digits"}},
		{line(`{"price": 1e999999999}`), []string{"order.lines[2].price: ", "not a decimal"}},
		{line(`{"price": true}`), []string{"order.lines[2].price: true is not a bytes (decimal)"}},
		{line(`{}`), []string{"order.lines[2].price: is missing"}},
		{line(`{"price": 1, "note": 5}`), []string{"order.lines[2].note: 5 is none of null, string"}},
		{line(`{"price": 1, "note": {"string": 5}}`), []string{"order.lines[2].note.string: 5 is not a string"}},
		{line(`{"price": 1, "tags": {"a b": "c"}}`), []string{`order.lines[2].tags["a b"]: "c" is not a int`}},
		{line(`{"price": 1, "colour": "red"}`), []string{"order.lines[2].colour: record Line has no such field"}},
		{line(`5`), []string{"order.lines[2]: 5 is not a Line"}},
		{with(`"state": "LOST"`), []string{`state: "LOST" is not a symbol of enum State`}},
		{with(`"at": "2026-07-31 12:00"`), []string{"at: ", "RFC 3339"}},
		{with(`"hash": "YWJj"`), []string{"hash: it has 3 bytes, fixed Hash has 4"}},
		{with(`"hash": "%"`), []string{"hash: ", "not base64"}},
		{with(`"big": 9223372036854775808`), []string{"big: 9223372036854775808 is not an integer of 64 bits"}},
		{with(`"big": 1.5`), []string{"big: 1.5 is not an integer"}},
		{with(`"big": "1"`), []string{`big: "1" is not a long`}},
		{`[]`, []string{"an array is not a Event"}},
		{`{"order": ` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`, []string{"order: an array is not a Order"}},
	}
	typ := avroTypeOf(t, order)
	var e jsonEncoder
	for _, test := range tests {
		_, err := e.append(nil, typ, []byte(test.payload))
		formattest.Says(t, err, test.says...)
	}
	span := avroTypeOf(t, `{"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}`)
	for _, text := range []string{"P", "PT", "P1DT", "P1S", "PT1Y", "P-1D", "P400000000Y", "PT999999999H", "AQAAAAIAAAADAAAA"} {
		if got, err := e.append(nil, span, []byte(`"`+text+`"`)); err == nil {
			t.Errorf("duration %s: %x", text, got)
		}
	}
	if _, err := e.append(nil, avroTypeOf(t, "int"), []byte("2147483648")); err == nil {
		t.Error("an int of more than 32 bits")
	}
}

// Unions of records that are all alike do not take for ever.
func TestAmbiguousUnionsAreBounded(t *testing.T) {
	node := func(name, of string) string {
		return `{"type": "record", "name": "` + name + `", "fields": [{"name": "next", "type": ` + of + `}]}`
	}
	schema := node("A", `["null", "A", `+node("B", `["null", "A", "B", "string"]`)+`]`)
	payload := strings.Repeat(`{"next": `, 60) + "5" + strings.Repeat("}", 60)
	var e jsonEncoder
	_, err := e.append(nil, avroTypeOf(t, schema), []byte(payload))
	formattest.Says(t, err, "too many ways")
}

func FuzzJSONToAvro(f *testing.F) {
	schemas := []string{
		recordOf(`{"name": "a", "type": ["null", "int", "double", "string", {"type": "map", "values": "R"}], "default": null}, {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, "default": "\u0000"}`),
		`["null", {"type": "array", "items": {"type": "long", "logicalType": "timestamp-micros"}}, "string"]`,
	}
	f.Add([]byte(`{"a": {"k": {"a": 1.5, "d": "1.25"}}}`))
	f.Add([]byte(`["2026-07-31T12:00:00Z", 5]`))
	var types []*avroType
	for _, s := range schemas {
		types = append(types, avroTypeOf(f, s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if !json.Valid(payload) {
			return
		}
		var e jsonEncoder
		for _, typ := range types {
			_, _ = e.append(nil, typ, payload)
		}
	})
}
