package format_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

func schemaFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPayloadSchema(t *testing.T) {
	newer, err := format.LoadSchema(schemaFile(t, `{"type": "object", "required": ["order"], "properties": {
		"order": {"type": "string"}, "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
		"$defs": {"line": {"properties": {"price": {"type": "number", "exclusiveMinimum": 0}, "n": {"type": "integer", "maximum": 9007199254740992}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	// A Boolean exclusiveMinimum is of draft 4.
	older, err := format.LoadSchema(schemaFile(t, `{"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 0, "exclusiveMinimum": true}`))
	if err != nil {
		t.Fatal(err)
	}
	v := format.Options{Schemas: format.Schemas{"OrderPaid": newer, "Old": older}}
	for _, test := range []struct {
		typ     string
		oid     uint32
		payload string
		says    []string // nil: it fits
	}{
		{"OrderPaid", decoder.JSONBOID, `{"order": "a", "lines": [{"price": 1}]}`, nil},
		{"OrderPaid", 25, ` {"order": "a"}`, nil},
		{"OrderPaid", decoder.JSONOID, `{}`, []string{`"OrderPaid"`, "value.schema", `at ""`, "missing property 'order'", "/required"}},
		{"OrderPaid", decoder.JSONBOID, `{"order": "a", "lines": [{"price": 1}, {"price": 0}]}`, []string{`at "/lines/1/price"`, "rule /$defs/line/properties/price/exclusiveMinimum"}},
		{"OrderPaid", decoder.JSONBOID, `{"order": "a", "lines": [{"n": 9007199254740993}]}`, []string{`at "/lines/0/n"`, "/maximum"}},
		{"OrderPaid", decoder.JSONBOID, `{"order": 1, "lines": [{"price": 0}, {"price": 0}, {"price": 0}, {"price": 0}]}`, []string{"and 2 more"}},
		{"OrderPaid", 25, `order`, []string{"not JSON", "value.schema"}},
		{"OrderPaid", decoder.ByteaOID, `{"order": "a"}`, []string{"bytea", "value.schema"}},
		{"Old", decoder.JSONBOID, `0`, []string{"exclusiveMinimum"}},
		{"Old", decoder.JSONBOID, `1`, nil},
		{"Other", decoder.ByteaOID, `anything`, nil},
	} {
		ev := formattest.Empty()
		ev.Values[decoder.Type], ev.Values[decoder.Payload], ev.Types[decoder.Payload] = []byte(test.typ), []byte(test.payload), test.oid
		r, err := formattest.Encode(v, format.Outbox{}, ev)
		value := r.Value
		if test.says == nil {
			if err != nil || string(value) != test.payload {
				t.Errorf("%s %s: %q, %v", test.typ, test.payload, value, err)
			}
			continue
		}
		if !errors.Is(err, record.ErrUndeliverable) {
			t.Errorf("%s %s: %v", test.typ, test.payload, err)
			continue
		}
		formattest.Says(t, err, test.says...)
	}
	// A tombstone has nothing to fit.
	ev := formattest.Empty()
	ev.Values[decoder.Type] = []byte("OrderPaid")
	if r, err := formattest.Encode(v, format.Outbox{}, ev); r.Value != nil || err != nil {
		t.Errorf("NULL payload: %q, %v", r.Value, err)
	}
}

func TestSchemaThatCannotBeLoaded(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		says []string
	}{
		"not JSON":       {`{`, []string{"schema.json"}},
		"not a schema":   {`{"type": "objekt"}`, []string{"schema.json", "type"}},
		"on the network": {`{"$ref": "http://127.0.0.1:1/a.json"}`, []string{"127.0.0.1:1"}},
		"bad pattern":    {`{"pattern": "("}`, []string{"pattern"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := format.LoadSchema(schemaFile(t, test.text))
			formattest.Says(t, err, test.says...)
		})
	}
	_, err := format.LoadSchema("/none/such.json")
	formattest.Says(t, err, "/none/such.json")
}
