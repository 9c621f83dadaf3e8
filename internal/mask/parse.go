package mask

import (
	"encoding/json"
	"fmt"

	"github.com/theory/jsonpath/spec"
)

const (
	// maxDepth is how deep objects and arrays may lie in each other.
	maxDepth = 1000
	// maxValues bounds the memory that a payload takes: about 200 bytes for a value.
	maxValues = 500_000
)

// value is a JSON value and where it is in the payload.
type value struct {
	// plain is the value as the library takes it: map[string]any, []any, string,
	// json.Number, bool or nil.
	plain any
	// start and end are those of the value, from the start of the member: its name's
	// in an object.
	from, start, end int
	members          []*value
	names            map[string]int // of an object's members
	rule             *rule          // that masks it, nil for none
}

// at returns the value at a path that the library has found.
func (v *value) at(path spec.NormalizedPath) *value {
	for _, step := range path {
		switch step := step.(type) {
		case spec.Name:
			v = v.members[v.names[string(step)]]
		case spec.Index:
			v = v.members[step]
		}
	}
	return v
}

// parse reads a payload.
func parse(payload []byte) (*value, error) {
	if !json.Valid(payload) {
		return nil, fmt.Errorf("%w: it is not JSON", ErrUnmaskable)
	}
	p := parser{b: payload}
	p.space()
	v := p.value(0)
	return v, p.err
}

// parser reads JSON that is valid.
type parser struct {
	b      []byte
	at     int
	values int
	err    error // the first
}

// space passes over white space, and over commas and colons, whose places are known to
// be right.
func (p *parser) space() {
	for p.at < len(p.b) {
		switch p.b[p.at] {
		case ' ', '\n', '\t', '\r', ',', ':':
			p.at++
		default:
			return
		}
	}
}

// value reads the value that begins here.
func (p *parser) value(depth int) *value {
	v := &value{from: p.at, start: p.at}
	if p.values++; p.values > maxValues {
		p.err = fmt.Errorf("%w: it has more than %d values", ErrUnmaskable, maxValues)
		return v
	}
	if depth > maxDepth {
		p.err = fmt.Errorf("%w: it is nested deeper than %d", ErrUnmaskable, maxDepth)
		return v
	}
	switch c := p.b[p.at]; c {
	case '{':
		p.object(v, depth)
	case '[':
		p.array(v, depth)
	case '"':
		v.plain = p.text()
	case 'n':
		p.at += len("null")
	case 't':
		v.plain, p.at = true, p.at+len("true")
	case 'f':
		v.plain, p.at = false, p.at+len("false")
	default:
		for p.at < len(p.b) && isNumber(p.b[p.at]) {
			p.at++
		}
		v.plain = json.Number(p.b[v.start:p.at])
	}
	v.end = p.at
	return v
}

func (p *parser) object(v *value, depth int) {
	plain := make(map[string]any)
	v.plain, v.names = plain, make(map[string]int)
	p.at++
	for p.space(); p.err == nil && p.b[p.at] != '}'; p.space() {
		from := p.at
		name := p.text()
		if _, twice := plain[name]; twice && p.err == nil {
			p.err = fmt.Errorf("%w: an object in it has two members of the same name", ErrUnmaskable)
		}
		p.space()
		member := p.value(depth + 1)
		member.from = from
		plain[name], v.names[name] = member.plain, len(v.members)
		v.members = append(v.members, member)
	}
	p.at++
}

func (p *parser) array(v *value, depth int) {
	plain := []any{}
	p.at++
	for p.space(); p.err == nil && p.b[p.at] != ']'; p.space() {
		member := p.value(depth + 1)
		plain = append(plain, member.plain)
		v.members = append(v.members, member)
	}
	v.plain = plain
	p.at++
}

// text reads a string.
func (p *parser) text() string {
	start := p.at
	escaped := false
	for p.at++; p.b[p.at] != '"'; p.at++ {
		if p.b[p.at] == '\\' {
			escaped = true
			p.at++
		}
	}
	p.at++
	if !escaped {
		return string(p.b[start+1 : p.at-1])
	}
	var s string
	if err := json.Unmarshal(p.b[start:p.at], &s); err != nil && p.err == nil {
		p.err = fmt.Errorf("%w: it has a string that cannot be read", ErrUnmaskable)
	}
	return s
}

func isNumber(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}
