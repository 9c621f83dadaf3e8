package sink

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/hamba/avro/v2"
)

// avroType is a schema made ready to encode by: names resolved, indexes and
// defaults in place. It does not change once made.
type avroType struct {
	kind    avro.Type
	logical avro.LogicalType // "" for none
	// name is how a union's tag names it: the full name, or the kind.
	name string

	fields  []avroField      // of a record
	index   map[string]int   // of a record: field by name
	symbols map[string]int64 // of an enum

	item     *avroType   // of an array or map
	branches []*avroType // of a union

	size             int // of a fixed, in bytes
	precision, scale int // of a decimal, in digits
}

// avroField is a record's field.
type avroField struct {
	name string
	typ  *avroType
	// absent is the encoded value of a field without a member: its default, or
	// null where it may be null; nil when there must be a member.
	absent []byte
	absurd error // why the default cannot be written
}

// newAvroType makes a schema ready.
func newAvroType(s avro.Schema) (*avroType, error) {
	c := typeCompiler{named: make(map[string]*avroType)}
	t := c.compile(s)
	// Defaults are encoded when all types are known.
	for _, set := range c.defaults {
		set()
	}
	return t, c.err
}

type typeCompiler struct {
	named    map[string]*avroType
	defaults []func()
	err      error
}

func (c *typeCompiler) compile(s avro.Schema) *avroType {
	if ref, ok := s.(*avro.RefSchema); ok {
		s = ref.Schema()
	}
	t := &avroType{kind: s.Type(), name: string(s.Type())}
	if n, ok := s.(avro.NamedSchema); ok {
		if known := c.named[n.FullName()]; known != nil {
			return known // a type within itself, among others
		}
		t.name = n.FullName()
		c.named[t.name] = t
	}
	if l, ok := s.(avro.LogicalTypeSchema); ok && l.Logical() != nil {
		t.logical = l.Logical().Type()
		if d, ok := l.Logical().(*avro.DecimalLogicalSchema); ok {
			t.precision, t.scale = d.Precision(), d.Scale()
		}
	}
	switch s := s.(type) {
	case *avro.RecordSchema:
		c.record(t, s)
	case *avro.EnumSchema:
		t.symbols = make(map[string]int64)
		for i, symbol := range s.Symbols() {
			t.symbols[symbol] = int64(i)
		}
	case *avro.ArraySchema:
		t.item = c.compile(s.Items())
	case *avro.MapSchema:
		t.item = c.compile(s.Values())
	case *avro.UnionSchema:
		for _, branch := range s.Types() {
			t.branches = append(t.branches, c.compile(branch))
		}
	case *avro.FixedSchema:
		t.size = s.Size()
	case *avro.PrimitiveSchema, *avro.NullSchema:
	default:
		c.err = fmt.Errorf("it has a type that is not known: %s", s.Type())
	}
	return t
}

func (c *typeCompiler) record(t *avroType, s *avro.RecordSchema) {
	t.kind = avro.Record // an error record is one, too
	t.index = make(map[string]int)
	t.fields = make([]avroField, len(s.Fields()))
	for i, f := range s.Fields() {
		field := &t.fields[i]
		*field = avroField{name: f.Name(), typ: c.compile(f.Type())}
		t.index[f.Name()] = i
		c.defaults = append(c.defaults, func() {
			if f.HasDefault() {
				field.absent, field.absurd = appendDefault([]byte{}, field.typ, f.Default())
			} else if n := slices.IndexFunc(field.typ.branches, isNull); n >= 0 {
				field.absent = appendLong(nil, int64(n))
			} else if isNull(field.typ) {
				field.absent = []byte{}
			}
		})
	}
}

func isNull(t *avroType) bool { return t.kind == avro.Null }

// maxExact is the largest integer of which the parser's float64 says that it is
// the one that was written.
const maxExact = 1 << 53

// appendDefault appends a default as the parser has it: a union's is of its
// first type, bytes and fixed are bytes already.
func appendDefault(b []byte, t *avroType, v any) (_ []byte, err error) {
	unfit := func() ([]byte, error) {
		return b, fmt.Errorf("its default in the schema is not a %s", t.name)
	}
	integer := func(n int64) ([]byte, error) {
		if n >= maxExact || n <= -maxExact {
			return b, fmt.Errorf("its default in the schema is beyond 2^53; write the member")
		}
		return appendLong(b, n), nil
	}
	switch t.kind {
	case avro.Union:
		if len(t.branches) == 0 {
			return unfit()
		}
		return appendDefault(appendLong(b, 0), t.branches[0], v)
	case avro.Null:
		return b, nil
	case avro.Record:
		members, _ := v.(map[string]any)
		for i := range t.fields {
			f := &t.fields[i]
			if member, ok := members[f.name]; ok {
				b, err = appendDefault(b, f.typ, member)
			} else {
				return unfit()
			}
			if err != nil {
				return b, err
			}
		}
		return b, nil
	case avro.Fixed:
		array := reflect.ValueOf(v)
		if array.Kind() != reflect.Array || array.Len() != t.size {
			return unfit()
		}
		for i := range t.size {
			b = append(b, byte(array.Index(i).Uint()))
		}
		return b, nil
	}
	switch v := v.(type) {
	case bool:
		return appendBoolean(b, v), nil
	case int:
		return integer(int64(v))
	case int64:
		return integer(v)
	case float32:
		return appendFloat(b, v), nil
	case float64:
		return appendDouble(b, v), nil
	case []byte:
		return appendBytes(b, v), nil
	case string:
		if t.kind == avro.Enum {
			return appendLong(b, t.symbols[v]), nil
		}
		return appendBytes(b, v), nil
	case []any:
		if len(v) > 0 {
			b = appendLong(b, int64(len(v)))
		}
		for _, item := range v {
			if b, err = appendDefault(b, t.item, item); err != nil {
				return b, err
			}
		}
		return appendLong(b, 0), nil
	case map[string]any:
		if len(v) > 0 {
			b = appendLong(b, int64(len(v)))
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if b, err = appendDefault(appendBytes(b, key), t.item, v[key]); err != nil {
				return b, err
			}
		}
		return appendLong(b, 0), nil
	}
	return unfit()
}

func appendBoolean(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendFloat(b []byte, v float32) []byte {
	return binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
}

func appendDouble(b []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}
