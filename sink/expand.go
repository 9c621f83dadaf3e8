package sink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"outboxd/router"
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
		return router.AppendConnectString(b, payload), nil
	}
	s, err := x.schema(root)
	switch {
	case err != nil:
		return router.AppendConnectString(b, payload), nil
	case s == nil && !envelope:
		return router.AppendConnectString(b, payload), nil // []
	case root.kind != '{':
		return b, errors.New("its payload is a JSON array, which Debezium cannot expand (value.debezium.expand_json)")
	}
	return s.append(b, root)
}

// node is a parsed JSON value.
type node struct {
	kind    byte   // { [ " 0 b n
	text    []byte // of a string its characters, else the JSON
	names   []string
	members []*node // of an object or an array
}

// parse reads the payload; it is not ok if Debezium would not try to expand it.
func parse(payload []byte) (*node, bool) {
	if len(payload) == 0 || payload[0] != '{' && payload[0] != '[' {
		return nil, false
	}
	if !gjson.ValidBytes(payload) {
		// Jackson reads one value and does not look at what comes behind.
		var first json.RawMessage
		if json.NewDecoder(bytes.NewReader(payload)).Decode(&first) != nil {
			return nil, false
		}
		payload = first
	}
	return newNode(gjson.ParseBytes(payload)), true
}

func newNode(r gjson.Result) *node {
	switch r.Type {
	case gjson.Null:
		return &node{kind: 'n'}
	case gjson.String:
		return &node{kind: '"', text: []byte(r.Str)}
	case gjson.Number:
		return &node{kind: '0', text: []byte(r.Raw)}
	case gjson.True, gjson.False:
		return &node{kind: 'b', text: []byte(r.Raw)}
	}
	n := &node{kind: '['}
	if r.IsObject() {
		n.kind = '{'
	}
	r.ForEach(func(key, value gjson.Result) bool {
		if n.kind == '{' {
			if i := slices.Index(n.names, key.Str); i >= 0 {
				n.members[i] = newNode(value) // the last of the same name, in the first's place
				return true
			}
			n.names = append(n.names, key.Str)
		}
		n.members = append(n.members, newNode(value))
		return true
	})
	return n
}

func (n *node) member(name string) *node {
	if i := slices.Index(n.names, name); i >= 0 {
		return n.members[i]
	}
	return nil
}

// shape is a Connect schema: of an object with its fields in order, of an array
// with its element, or of a scalar.
type shape struct {
	kind   byte // { [ " b, i int32, l int64, d double, y bytes
	names  []string
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
		if f != nil && n.names[i] == "" {
			return nil, errNoSchema // Connect has no field without a name
		}
		if f != nil {
			s.names, s.fields = append(s.names, n.names[i]), append(s.fields, f)
		}
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
		for i, name := range s.names {
			// Which element comes first is left to a hash in Debezium; here the
			// first in the array does.
			at := slices.Index(item.names, name)
			switch {
			case at < 0:
				item.names, item.fields = append(item.names, name), append(item.fields, s.fields[i])
			case item.fields[at].kind == 'y':
				item.fields[at] = s.fields[i]
			}
		}
	}
	return &shape{kind: '[', item: item}, nil
}

// append prints a value by its schema.
func (s *shape) append(b []byte, n *node) (_ []byte, err error) {
	if n == nil || n.kind == 'n' {
		return append(b, "null"...), nil
	}
	switch {
	case s.kind == '{' && n.kind == '{':
		b = append(b, '{')
		for i, name := range s.names {
			if i > 0 {
				b = append(b, ',')
			}
			b = router.AppendConnectString(b, []byte(name))
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
		return router.AppendConnectString(b, n.text), nil
	case s.kind == 'b' && n.kind == 'b':
		return append(b, n.text...), nil
	case n.kind == '0' && s.kind == numberKind(n.text):
		if s.kind != 'd' {
			return strconv.AppendInt(b, integer(n.text), 10), nil // -0 is 0
		}
		f, err := strconv.ParseFloat(string(n.text), 64)
		if err == nil && bytes.ContainsAny(n.text, ".eE") && !math.IsInf(f, 0) {
			return router.AppendJavaFloat(b, f, 64), nil
		}
	}
	return b, fmt.Errorf("its payload has the value %.100s, which Debezium cannot expand (value.debezium.expand_json)", n.text)
}

func integer(text []byte) int64 {
	i, _ := strconv.ParseInt(string(text), 10, 64)
	return i
}
