package avro

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/tidwall/gjson"

	"outboxd/decoder"
)

// jsonEncoder encodes JSON by Avro schemas. Numbers are taken from their text,
// so that none passes through a float64 that is not to be one. Its memory is used
// again; it belongs to one goroutine.
type jsonEncoder struct {
	// members are those of the records that are being encoded, one behind the
	// other, each in the order of its fields.
	members []gjson.Result
	left    int // of the work that the payload may still cost, see value
}

// What a payload may cost, in bytes that are looked at, once for each level that
// they are nested in, and for each value: the search for a union's type, in unions
// within unions of records that are all alike, multiplies.
const minEffort, effortPerByte, effortPerValue = 64 << 20, 128, 64

// misfit says where a payload does not fit, and why.
type misfit struct {
	path string // such as order.lines[2].price
	why  string
}

func (m *misfit) Error() string {
	if m.path == "" {
		return m.why
	}
	return decoder.Cut(m.path) + ": " + m.why
}

func misfitf(format string, args ...any) error {
	return &misfit{why: fmt.Errorf(format, args...).Error()}
}

// within puts a step of the path before what is inside it.
func within(step string, err error) error {
	m, ok := err.(*misfit)
	switch {
	case !ok || m.path == "":
		m = &misfit{path: step, why: err.Error()}
	case m.path[0] == '[':
		m.path = step + m.path
	default:
		m.path = step + "." + m.path
	}
	if len(m.path) > 2*decoder.MaxExcerpt { // its end is not shown
		m.path = m.path[:2*decoder.MaxExcerpt]
	}
	return m
}

// append appends the payload, which is valid JSON, by its type.
func (e *jsonEncoder) append(b []byte, t *avroType, payload []byte) ([]byte, error) {
	e.members, e.left = e.members[:0], minEffort+effortPerByte*len(payload)
	b, err := e.value(b, t, gjson.ParseBytes(payload))
	clear(e.members[:cap(e.members)]) // they hold the payload
	return b, err
}

func (e *jsonEncoder) value(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	if e.left -= effortPerValue + len(v.Raw); e.left < 0 {
		return b, misfitf("there are too many ways to read its unions; tag their values with the type, as in {%q: …}", t.name)
	}
	switch t.kind {
	case avro.Union:
		return e.union(b, t, v)
	case avro.Record:
		return e.record(b, t, v)
	case avro.Array:
		return e.array(b, t, v)
	case avro.Map:
		return e.mapping(b, t, v)
	case avro.Null:
		if v.Type != gjson.Null {
			return b, unexpected(t, v)
		}
		return b, nil
	case avro.Boolean:
		if v.Type != gjson.True && v.Type != gjson.False {
			return b, unexpected(t, v)
		}
		return appendBoolean(b, v.Type == gjson.True), nil
	case avro.Int, avro.Long:
		return appendInteger(b, t, v)
	case avro.Float, avro.Double:
		return appendFloating(b, t, v)
	case avro.Enum:
		n, ok := t.symbols[v.Str]
		if v.Type != gjson.String {
			return b, unexpected(t, v)
		}
		if !ok {
			return b, misfitf("%s is not a symbol of enum %s", show(v), t.name)
		}
		return appendLong(b, n), nil
	case avro.String:
		if v.Type != gjson.String {
			return b, unexpected(t, v)
		}
		if t.logical == avro.UUID && !isUUID(v.Str) {
			return b, misfitf("%s is not a UUID", show(v))
		}
		text, err := textOf(v)
		if err != nil {
			return b, misfitf("%s %w", show(v), err)
		}
		return appendBytes(b, text), nil
	default:
		return appendBinary(b, t, v)
	}
}

func (e *jsonEncoder) record(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	if !v.IsObject() {
		return b, unexpected(t, v)
	}
	base := len(e.members)
	e.members = append(e.members, make([]gjson.Result, len(t.fields))...)
	defer func() { e.members = e.members[:base] }()
	var err error
	v.ForEach(func(key, member gjson.Result) bool {
		i, ok := t.index[key.Str]
		if !ok {
			err = within(step(key.Str), misfitf("record %s has no such field", t.name))
			return false
		}
		e.members[base+i] = member
		return true
	})
	for i := range t.fields {
		if err != nil {
			return b, err
		}
		f := &t.fields[i]
		member := e.members[base+i]
		switch {
		case member.Raw != "":
			b, err = e.value(b, f.typ, member)
		case f.absurd != nil:
			err = f.absurd
		case f.absent == nil:
			err = misfitf("is missing, and record %s has no default for it", t.name)
		default:
			b = append(b, f.absent...)
		}
		if err != nil {
			err = within(step(f.name), err)
		}
	}
	return b, err
}

func (e *jsonEncoder) array(b []byte, t *avroType, v gjson.Result) (_ []byte, err error) {
	if !v.IsArray() {
		return b, unexpected(t, v)
	}
	b = appendCount(b, v)
	i := 0
	v.ForEach(func(_, item gjson.Result) bool {
		if b, err = e.value(b, t.item, item); err != nil {
			err = within("["+strconv.Itoa(i)+"]", err)
		}
		i++
		return err == nil
	})
	return append(b, 0), err
}

func (e *jsonEncoder) mapping(b []byte, t *avroType, v gjson.Result) (_ []byte, err error) {
	if !v.IsObject() {
		return b, unexpected(t, v)
	}
	b = appendCount(b, v)
	v.ForEach(func(key, member gjson.Result) bool {
		var name string
		if name, err = textOf(key); err != nil {
			err = misfitf("the name %s %w", show(key), err)
			return false
		}
		if b, err = e.value(appendBytes(b, name), t.item, member); err != nil {
			err = within(step(name), err)
		}
		return err == nil
	})
	return append(b, 0), err
}

// appendCount appends how many items follow in one block, nothing for none.
func appendCount(b []byte, v gjson.Result) []byte {
	n := int64(0)
	v.ForEach(func(_, _ gjson.Result) bool { n++; return true })
	if n == 0 {
		return b
	}
	return appendLong(b, n)
}

// union writes a value by one of the union's types: the one that it is tagged
// with, as Avro's own JSON has it ({"string": "a"}), or else the first that it
// fits, those first that are made for its kind of JSON.
func (e *jsonEncoder) union(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	if tagged, i := tag(t, v); i >= 0 {
		encoded, err := e.value(appendLong(b, int64(i)), t.branches[i], tagged)
		if err == nil {
			return encoded, nil
		}
		// It may be an object with one member of that name.
		if encoded, plainErr := e.untagged(b, t, v); plainErr == nil {
			return encoded, nil
		}
		return b, within(step(t.branches[i].name), err)
	}
	return e.untagged(b, t, v)
}

// tag returns the value inside a tag and which type that names, or -1.
func tag(t *avroType, v gjson.Result) (inside gjson.Result, branch int) {
	branch = -1
	if !v.IsObject() {
		return
	}
	n := 0
	v.ForEach(func(key, member gjson.Result) bool {
		n++
		inside = member
		branch = slices.IndexFunc(t.branches, func(b *avroType) bool { return b.name == key.Str && !isNull(b) })
		return n == 1
	})
	if n != 1 {
		branch = -1
	}
	return
}

func (e *jsonEncoder) untagged(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	var why []error
	for wanted := natural; wanted > unlike; wanted-- {
		for i, branch := range t.branches {
			if likeness(branch, v) != wanted {
				continue
			}
			encoded, err := e.value(appendLong(b, int64(i)), branch, v)
			if err == nil {
				return encoded, nil
			}
			why = append(why, err)
		}
	}
	switch len(why) {
	case 0:
		return b, misfitf("%s is none of %s", show(v), names(t.branches))
	case 1:
		return b, why[0]
	}
	text := make([]string, len(why))
	for i, err := range why {
		text[i] = decoder.Cut(err.Error())
	}
	return b, misfitf("%s is none of %s: %s", show(v), names(t.branches), strings.Join(text, "; "))
}

func names(types []*avroType) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.name
		if t.logical != "" {
			names[i] += " (" + string(t.logical) + ")"
		}
	}
	return strings.Join(names, ", ")
}

// How well a kind of JSON goes with a type.
const (
	unlike = iota
	possible
	natural
)

func likeness(t *avroType, v gjson.Result) int {
	switch v.Type {
	case gjson.Null:
		if t.kind == avro.Null {
			return natural
		}
	case gjson.True, gjson.False:
		if t.kind == avro.Boolean {
			return natural
		}
	case gjson.Number:
		integral := !strings.ContainsAny(v.Raw, ".eE")
		switch {
		case t.kind == avro.Int || t.kind == avro.Long:
			return yes(integral)
		case t.kind == avro.Float || t.kind == avro.Double || t.logical == avro.Decimal:
			return yes(!integral)
		}
	case gjson.String:
		switch t.kind {
		case avro.String, avro.Enum:
			return natural
		case avro.Int, avro.Long:
			if t.logical != "" {
				return natural // a time
			}
		case avro.Bytes, avro.Fixed, avro.Float, avro.Double:
			return possible
		}
	case gjson.JSON:
		if v.IsArray() && t.kind == avro.Array || v.IsObject() && (t.kind == avro.Record || t.kind == avro.Map) {
			return natural
		}
	}
	return unlike
}

func yes(is bool) int {
	if is {
		return natural
	}
	return possible
}

func unexpected(t *avroType, v gjson.Result) error {
	want := t.name
	if t.logical != "" {
		want += " (" + string(t.logical) + ")"
	}
	return misfitf("%s is not a %s", show(v), want)
}

// show names a value in an error: a short one itself, another by its kind.
func show(v gjson.Result) string {
	const short = 40
	switch {
	case v.IsObject():
		return "an object"
	case v.IsArray():
		return "an array"
	case len(v.Raw) <= short:
		return v.Raw
	case v.Type == gjson.String:
		return "a long text"
	}
	return "a long number"
}

// textOf returns a string's characters.
func textOf(v gjson.Result) (string, error) {
	if strings.IndexByte(v.Raw, '\\') < 0 {
		return v.Str, nil
	}
	text, err := decoder.JSONText([]byte(v.Raw))
	return string(text), err
}

// step is how a path names a member.
func step(name string) string {
	name = decoder.Cut(name)
	for _, r := range name {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return "[" + strconv.Quote(name) + "]"
		}
	}
	if name == "" {
		return `[""]`
	}
	return name
}
