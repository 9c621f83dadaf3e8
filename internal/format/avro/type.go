package avro

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/hamba/avro/v2"
	"github.com/tidwall/gjson"
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
	// deflt is the default's JSON, if it hasDefault.
	deflt      string
	hasDefault bool
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
		field.deflt, field.hasDefault = defaultOf(f)
		t.index[f.Name()] = i
		c.defaults = append(c.defaults, func() {
			if field.hasDefault {
				field.absent, field.absurd = appendDefault([]byte{}, field.typ, gjson.Parse(field.deflt), 0)
			} else if n := slices.IndexFunc(field.typ.branches, isNull); n >= 0 {
				field.absent = appendLong(nil, int64(n))
			} else if isNull(field.typ) {
				field.absent = []byte{}
			}
		})
	}
}

func isNull(t *avroType) bool { return t.kind == avro.Null }

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
