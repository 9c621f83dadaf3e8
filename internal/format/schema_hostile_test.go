package format_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

// fitsSchema checks one payload against one schema.
func fitsSchema(t *testing.T, schema, payload string) error {
	t.Helper()
	s, err := format.LoadSchema(schemaFile(t, schema))
	if err != nil {
		t.Fatal(err)
	}
	ev := formattest.Empty()
	ev.Values[decoder.Type] = []byte("pay")
	ev.Values[decoder.Payload], ev.Types[decoder.Payload] = []byte(payload), decoder.JSONOID
	v := format.Options{Schemas: format.Schemas{"pay": s}}
	_, err = formattest.Encode(v, format.Outbox{}, ev)
	if err != nil && !errors.Is(err, record.ErrUndeliverable) {
		t.Fatalf("not a poison event: %v", err)
	}
	return err
}

func TestSchemaNumbersAreBounded(t *testing.T) {
	amount := func(rule string) string { return `{"properties": {"amount": {` + rule + `}}}` }
	digits := strings.Repeat("7", 1000)
	for _, test := range []struct {
		rule, number string
		fits         bool
	}{
		{`"minimum": 0`, "1e10000000", false},
		{`"maximum": 0`, "1e10000000", false},
		{`"multipleOf": 3`, "1e10000000", false},
		{`"minimum": 0`, "1e-10000000", false},
		{`"minimum": 0`, "1E+99999999999999999999999999", false},
		{`"minimum": 0`, "1e400", true},
		{`"minimum": 0`, "1e-400", true},
		{`"minimum": 0`, "1e401", false},
		{`"minimum": 0`, "1e-401", false},
		{`"minimum": 0`, "1e000000000000000000401", false},
		{`"minimum": 0`, "1E000000000000000000400", true},
		{`"minimum": 0`, digits, true},
		{`"minimum": 0`, digits + "7", false},
		{`"minimum": 0`, "0." + digits, false},
	} {
		if err := fitsSchema(t, amount(test.rule), `{"amount": `+test.number+`}`); (err == nil) != test.fits {
			t.Errorf("%s, %.40s: %v", test.rule, test.number, err)
		} else if err != nil {
			formattest.Says(t, err, "its payload has the number", "too large")
		}
	}
	// In a text, or as a name, it is no number.
	if err := fitsSchema(t, amount(`"type": "string"`), `{"amount": "1e999 \" 1e999", "1e999": ["\\", "1e999"]}`); err != nil {
		t.Error(err)
	}
}

// Time and memory do not grow with what a schema makes of a payload: recursion
// that branches is exponential in the payload's depth.
func TestSchemaWorkIsBounded(t *testing.T) {
	nested := func(depth int, leaf string) string {
		return strings.Repeat(`{"a":`, depth) + leaf + strings.Repeat("}", depth)
	}
	const twice = `{"properties": {"a": {"$ref": "#/$defs/n"}}, "additionalProperties": false}`
	for name, test := range map[string]struct{ schema, payload string }{
		"anyOf": {`{"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "anyOf": [` + twice + `, ` + twice + `]}}}`,
			nested(60, `1`)},
		"oneOf": {`{"$ref": "#/$defs/n", "$defs": {"n": {"oneOf": [` + twice + `, ` + twice + `]}}}`, nested(60, `{}`)},
		"not": {`{"not": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "object", "patternProperties": {"a": {"$ref": "#/$defs/n"}, "^a": {"$ref": "#/$defs/n"}}}}}`,
			nested(60, `{}`)},
		"draft 7": {`{"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/n", "definitions": {"n": {"anyOf": [
			{"properties": {"a": {"$ref": "#/definitions/n"}}, "required": ["b"]}, {"properties": {"a": {"$ref": "#/definitions/n"}}, "required": ["b"]}]}}}`, nested(60, `{}`)},
		"if": {`{"$ref": "#/$defs/n", "$defs": {"n": {"if": {"properties": {"a": {"$ref": "#/$defs/n"}}}, "then": {"properties": {"a": {"$ref": "#/$defs/n"}}}}}}`, nested(60, `{}`)},
		// Texts of these have one hash, and each would be compared with each.
		"uniqueItems": {`{"uniqueItems": true}`, alike(40_000)},
		// Each violation names its place: here 300,000 of them, each 900 deep.
		"deep violations": {`{"properties": {"a": {"$ref": "#"}}, "items": {"type": "string"}}`, nested(900, "["+strings.Repeat("1,", 300_000)+"1]")},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			err := fitsSchema(t, test.schema, test.payload)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("it fits")
			}
			t.Logf("%v, %d MiB: %v", took, (after.TotalAlloc-before.TotalAlloc)>>20, err)
			if took > 2*time.Minute {
				t.Errorf("it took %v", took)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			// TotalAlloc counts what is garbage long since, and other goroutines, too.
			if n := after.TotalAlloc - before.TotalAlloc; n > 4<<30 {
				t.Errorf("%d MiB allocated", n>>20)
			}
		})
	}
	if err := fitsSchema(t, `{}`, nested(1000, `1`)); err != nil {
		t.Errorf("1,000 deep: %v", err)
	}
	err := fitsSchema(t, `{"properties": {"a": {"$ref": "#"}}}`, nested(1001, `1`))
	formattest.Says(t, err, "deeper than 1000")
}

// alike returns an array of n arrays that differ and have one hash in the library,
// which does not tell where a text ends and the next begins.
func alike(n int) string {
	var b strings.Builder
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`["a`)
		for bit := range 17 {
			if i>>bit&1 == 1 {
				b.WriteString(`","a`)
			} else {
				b.WriteString("\\u0004a")
			}
		}
		b.WriteString(`"]`)
	}
	b.WriteByte(']')
	return b.String()
}

func TestSchemaErrorsAreShort(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	var members []string
	for i := range 10_000 {
		members = append(members, fmt.Sprintf(`"%s%d": 1`, long[:40], i))
	}
	for name, test := range map[string]struct{ schema, payload string }{
		"pattern":              {`{"pattern": "^y$"}`, `"` + long + `"`},
		"format":               {`{"$schema": "http://json-schema.org/draft-07/schema#", "format": "date"}`, `"` + long + `"`},
		"additionalProperties": {`{"additionalProperties": false}`, "{" + strings.Join(members, ",") + "}"},
		"propertyNames":        {`{"propertyNames": {"maxLength": 3}}`, `{"` + long + `": 1}`},
		"path":                 {`{"additionalProperties": {"type": "string"}}`, `{"` + long + `": 1}`},
		"number":               {`{"minimum": 0}`, strings.Repeat("7", 1<<20)},
		"not JSON":             {`{}`, long},
	} {
		t.Run(name, func(t *testing.T) {
			err := fitsSchema(t, test.schema, test.payload)
			if err == nil {
				t.Fatal("it fits")
			}
			if text := err.Error(); len(text) > 1000 || strings.Contains(text, long[:decoder.MaxExcerpt+1]) {
				t.Errorf("%d bytes: %.300s", len(text), text)
			}
		})
	}
}
