package avro

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/hamba/avro/v2"
	"github.com/tidwall/gjson"
)

// rawDefault is the property of a field that keeps its default's JSON text.
const rawDefault = "outboxd.default"

// keepDefaults moves the defaults of a schema's fields out of the way of the
// library's parser, which refuses the whole schema for one that does not fit, and
// takes integers for float64. A default matters only for a payload without the
// member, as in Java.
func keepDefaults(schema []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(schema))
	d.UseNumber()
	var root any
	if err := d.Decode(&root); err != nil || d.More() {
		return schema // the parser says what is wrong with it
	}
	if !moveDefaults(root) {
		return schema
	}
	moved, err := json.Marshal(root)
	if err != nil {
		return schema
	}
	return moved
}

// moveDefaults reports whether there was one.
func moveDefaults(schema any) (moved bool) {
	switch s := schema.(type) {
	case []any:
		for _, branch := range s {
			moved = moveDefaults(branch) || moved
		}
	case map[string]any:
		for _, key := range []string{"type", "items", "values"} {
			moved = moveDefaults(s[key]) || moved
		}
		fields, _ := s["fields"].([]any)
		for _, f := range fields {
			field, ok := f.(map[string]any)
			if !ok {
				continue
			}
			moved = moveDefaults(field["type"]) || moved
			if value, ok := field["default"]; ok {
				text, _ := json.Marshal(value)
				field[rawDefault] = string(text)
				delete(field, "default")
				moved = true
			}
		}
	}
	return moved
}

// defaultOf returns the JSON of a field's default.
func defaultOf(f *avro.Field) (text string, ok bool) {
	text, ok = f.Prop(rawDefault).(string)
	return text, ok
}

// maxDefaultDepth bounds defaults that are made of other defaults, which may be
// within themselves.
const maxDefaultDepth = 100

// appendDefault appends a default: a union's is of its first type, that of bytes
// and of a fixed is a text with a character for each byte.
func appendDefault(b []byte, t *avroType, v gjson.Result, depth int) (_ []byte, err error) {
	unfit := fmt.Errorf("its default in the schema, %s, is not a %s; write the member, or correct the schema", show(v), t.name)
	if depth > maxDefaultDepth {
		return b, fmt.Errorf("its default in the schema is made of more than %d others", maxDefaultDepth)
	}
	switch t.kind {
	case avro.Union:
		if len(t.branches) == 0 {
			return b, unfit
		}
		first := t.branches[0]
		if b, err = appendDefault(appendLong(b, 0), first, v, depth+1); err != nil {
			return b, fmt.Errorf("its default in the schema, %s, is not a %s, the first type of its union; write the member, or correct the schema", show(v), first.name)
		}
		return b, nil
	case avro.Record:
		if !v.IsObject() {
			return b, unfit
		}
		members := make(map[string]gjson.Result)
		v.ForEach(func(key, member gjson.Result) bool {
			members[key.Str] = member
			return true
		})
		for i := range t.fields {
			f := &t.fields[i]
			member, ok := members[f.name]
			switch {
			case ok:
			case f.hasDefault:
				member = gjson.Parse(f.deflt)
			default:
				return b, unfit
			}
			if b, err = appendDefault(b, f.typ, member, depth+1); err != nil {
				return b, err
			}
		}
		return b, nil
	case avro.Array, avro.Map:
		if t.kind == avro.Array && !v.IsArray() || t.kind == avro.Map && !v.IsObject() {
			return b, unfit
		}
		b = appendCount(b, v)
		v.ForEach(func(key, item gjson.Result) bool {
			if t.kind == avro.Map {
				b = appendBytes(b, key.Str)
			}
			b, err = appendDefault(b, t.item, item, depth+1)
			return err == nil
		})
		return append(b, 0), err
	case avro.Bytes, avro.Fixed:
		if v.Type != gjson.String {
			return b, unfit
		}
		var data []byte
		for _, r := range v.Str {
			if r > 0xFF {
				return b, unfit
			}
			data = append(data, byte(r))
		}
		if t.kind == avro.Bytes {
			return appendBytes(b, data), nil
		}
		if len(data) != t.size {
			return b, unfit
		}
		return append(b, data...), nil
	case avro.String:
		if v.Type != gjson.String {
			return b, unfit
		}
		return appendBytes(b, v.Str), nil
	case avro.Int, avro.Long, avro.Float, avro.Double:
		if v.Type != gjson.Number {
			return b, unfit
		}
	}
	var e jsonEncoder
	e.left = len(v.Raw) + effortPerValue
	if b, err = e.value(b, t, v); err != nil {
		return b, unfit
	}
	return b, nil
}
