package debezium

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// Expansion is Debezium's table.expand.json.payload before a JsonConverter without
// schemas: the payload is parsed, given one of Connect's schemas, and printed
// again. That changes it: decimals become doubles as Java prints them, members
// that are null or an empty array have no schema and are left out, and objects in
// one array get each other's members as null.
//
// What Debezium cannot give a schema, such as an array of mixed types, it publishes
// as a string; what does not fit the schema that it chose ends its task, and is an
// error here.
type Expansion struct {
	KeepNulls       bool // table.json.payload.null.behavior=optional_bytes
	KeepEmptyArrays bool // table.json.payload.empty.array.behavior=optional_string
}

// append appends the payload. It goes wrong where Debezium's task would.
func (x *Expansion) append(b, payload []byte, envelope bool) ([]byte, error) {
	root, ok := parse(payload)
	if !ok {
		return appendString(b, payload), nil
	}
	s, err := x.schema(root)
	switch {
	case err != nil:
		return appendString(b, payload), nil
	case s == nil && !envelope:
		return appendString(b, payload), nil // []
	case root.kind != '{':
		return b, errors.New("its payload is a JSON array, which Debezium cannot expand (value.debezium.expand_json)")
	}
	n := len(b)
	if b, err = s.append(b, root); err == nil && envelope && format.JSONDepth(b[n:]) >= format.MaxDepth {
		err = fmt.Errorf("its payload is nested %d deep, and with value.debezium.envelope deeper than Jackson writes", format.MaxDepth)
	}
	return b, err
}

// shape is a Connect schema: of an object with its fields in order, of an array
// with its element, or of a scalar.
type shape struct {
	kind   byte // { [ " b, i int32, l int64, d double, y bytes
	names  memberNames
	fields []*shape
	item   *shape
}

var errNoSchema = errors.New("no schema")

// schema infers a value's schema, nil for one that is left out.
func (x *Expansion) schema(n *node) (*shape, error) {
	switch n.kind {
	case '"', 'b':
		return &shape{kind: n.kind}, nil
	case '0':
		return &shape{kind: numberKind(n.text)}, nil
	case 'n':
		if x.KeepNulls {
			return &shape{kind: 'y'}, nil
		}
		return nil, nil
	case '[':
		return x.array(n)
	}
	s := &shape{kind: '{'}
	for i, m := range n.members {
		f, err := x.schema(m)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		name := n.names.list[i]
		if name == "" {
			return nil, errNoSchema // Connect has no field without a name
		}
		s.names.add(name)
		s.fields = append(s.fields, f)
	}
	return s, nil
}

func numberKind(text []byte) byte {
	if bytes.ContainsAny(text, ".eE") {
		return 'd'
	}
	i, err := strconv.ParseInt(string(text), 10, 64)
	switch {
	case err != nil:
		return 'd'
	case i == int64(int32(i)):
		return 'i'
	}
	return 'l'
}

func (x *Expansion) array(n *node) (*shape, error) {
	if len(n.members) == 0 {
		if x.KeepEmptyArrays {
			return &shape{kind: '[', item: &shape{kind: '"'}}, nil
		}
		return nil, nil
	}
	sample := &node{kind: 'n'}
	for _, m := range n.members {
		switch {
		case m.kind == 'n':
		case sample.kind == 'n':
			sample = m
		case m.kind != sample.kind || m.kind == '0' && numberKind(m.text) != numberKind(sample.text):
			return nil, errNoSchema
		}
	}
	if sample.kind != '{' {
		item, err := x.schema(sample)
		if err == nil && item == nil {
			err = errNoSchema
		}
		return &shape{kind: '[', item: item}, err
	}
	item := &shape{kind: '{'}
	for _, m := range n.members {
		if m.kind != '{' {
			continue
		}
		s, err := x.schema(m)
		if err != nil {
			return nil, err
		}
		for i, name := range s.names.list {
			// Which element comes first is left to a hash in Debezium; here the
			// first in the array does.
			at := item.names.at(name)
			switch {
			case at < 0:
				item.names.add(name)
				item.fields = append(item.fields, s.fields[i])
			case item.fields[at].kind == 'y':
				item.fields[at] = s.fields[i]
			}
		}
	}
	return &shape{kind: '[', item: item}, nil
}

// maxExpanded is more than any record may take: see the sink.
const maxExpanded = 1 << 26

// append prints a value by its schema. The objects of an array get each other's
// members, which can be the square of the payload.
func (s *shape) append(b []byte, n *node) (_ []byte, err error) {
	if len(b) > maxExpanded {
		return b, fmt.Errorf("its payload, expanded, takes more than %d bytes, which no topic takes (value.debezium.expand_json)", maxExpanded)
	}
	if n == nil || n.kind == 'n' {
		return append(b, "null"...), nil
	}
	switch {
	case s.kind == '{' && n.kind == '{':
		b = append(b, '{')
		for i, name := range s.names.list {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, []byte(name))
			b = append(b, ':')
			if b, err = s.fields[i].append(b, n.member(name)); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	case s.kind == '[' && n.kind == '[':
		b = append(b, '[')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = s.item.append(b, m); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case s.kind == '"' && n.kind == '"':
		return appendString(b, n.text), nil
	case s.kind == 'b' && n.kind == 'b':
		return append(b, n.text...), nil
	case n.kind == '0' && s.kind == numberKind(n.text):
		if s.kind != 'd' {
			return strconv.AppendInt(b, integer(n.text), 10), nil // -0 is 0
		}
		f, err := strconv.ParseFloat(string(n.text), 64)
		if err == nil && bytes.ContainsAny(n.text, ".eE") && !math.IsInf(f, 0) {
			return appendJavaFloat(b, f, 64), nil
		}
	}
	return b, fmt.Errorf("its payload has the value %s, which Debezium cannot expand (value.debezium.expand_json)", decoder.Excerpt(n.text))
}

func integer(text []byte) int64 {
	i, _ := strconv.ParseInt(string(text), 10, 64)
	return i
}
