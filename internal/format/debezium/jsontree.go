package debezium

import (
	"bytes"
	"encoding/json"
	"slices"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// node is a parsed JSON value.
type node struct {
	kind    byte   // { [ " 0 b n
	text    []byte // of a string its characters, else the JSON
	members []*node
	names   memberNames // of an object's members
}

// memberNames are different names in their order, found in about constant time.
type memberNames struct {
	list  []string
	index map[string]int // of all in list, nil while they are few
}

// fewNames is up to how many names a list is searched through.
const fewNames = 16

// at returns a name's place, -1 for none.
func (n *memberNames) at(name string) int {
	if n.index == nil {
		return slices.Index(n.list, name)
	}
	if i, ok := n.index[name]; ok {
		return i
	}
	return -1
}

// add appends a name that is not there.
func (n *memberNames) add(name string) {
	n.list = append(n.list, name)
	switch {
	case n.index != nil:
		n.index[name] = len(n.list) - 1
	case len(n.list) > fewNames:
		n.index = make(map[string]int, 2*len(n.list))
		for i, name := range n.list {
			n.index[name] = i
		}
	}
}

// member returns the member of that name, nil for none.
func (n *node) member(name string) *node {
	if i := n.names.at(name); i >= 0 {
		return n.members[i]
	}
	return nil
}

// parse reads the payload; it is not ok if Debezium would not try to expand it, or
// Jackson not read it.
func parse(payload []byte) (*node, bool) {
	if len(payload) == 0 || payload[0] != '{' && payload[0] != '[' {
		return nil, false
	}
	if !json.Valid(payload) { // unlike gjson's, it does not recurse
		// Jackson reads one value and does not look at what comes behind.
		var first json.RawMessage
		if json.NewDecoder(bytes.NewReader(payload)).Decode(&first) != nil {
			return nil, false
		}
		payload = first
	}
	if format.JSONDepth(payload) > format.MaxDepth {
		return nil, false
	}
	p := treeParser{b: payload}
	n := p.value()
	return n, !p.refused
}

// What Jackson reads no more of, each counted in its own way.
const (
	maxJacksonName   = 50_000 // UTF-16 units
	maxJacksonDigits = 1000   // of a number, its exponent included, but not a zero before the point
)

// treeParser reads JSON that is valid and not nested deeper than format.MaxDepth, in one
// pass. b is what is still to be read.
type treeParser struct {
	b       []byte
	refused bool // by Jackson
}

// next passes over white space, commas and colons, whose places are known to be
// right, and returns the byte that follows.
func (p *treeParser) next() byte {
	for {
		switch p.b[0] {
		case ' ', '\n', '\t', '\r', ',', ':':
			p.b = p.b[1:]
		default:
			return p.b[0]
		}
	}
}

func (p *treeParser) value() *node {
	switch c := p.next(); c {
	case '{':
		n := &node{kind: c}
		for p.b = p.b[1:]; p.next() != '}'; {
			name := string(p.text())
			p.refused = p.refused || len(name) > maxJacksonName && utf16Len(name) > maxJacksonName
			value := p.value()
			if i := n.names.at(name); i >= 0 {
				n.members[i] = value // the last of the same name, in the first's place
				continue
			}
			n.names.add(name)
			n.members = append(n.members, value)
		}
		p.b = p.b[1:]
		return n
	case '[':
		n := &node{kind: c}
		for p.b = p.b[1:]; p.next() != ']'; {
			n.members = append(n.members, p.value())
		}
		p.b = p.b[1:]
		return n
	case '"':
		return &node{kind: c, text: p.text()}
	}
	end := 1
	for end < len(p.b) && bytes.IndexByte([]byte(" \n\t\r,]}"), p.b[end]) < 0 {
		end++
	}
	n := &node{kind: '0', text: p.b[:end:end]}
	switch n.text[0] {
	case 'n':
		n.kind = 'n'
	case 't', 'f':
		n.kind = 'b'
	default:
		p.refused = p.refused || len(n.text) > maxJacksonDigits && digits(n.text) > maxJacksonDigits
	}
	p.b = p.b[end:]
	return n
}

// text returns the characters of a string: a view where it has no escapes. Half of
// a surrogate pair is held as Java holds it.
func (p *treeParser) text() []byte {
	end := format.EndOfString(p.b, 0)
	inside := p.b[1 : end-1 : end-1]
	p.b = p.b[end:]
	if bytes.IndexByte(inside, '\\') < 0 {
		return inside
	}
	text, _ := decoder.AppendJSONText(make([]byte, 0, len(inside)), inside)
	return text
}

func digits(number []byte) (n int) {
	number = bytes.TrimPrefix(number, []byte("-"))
	if bytes.HasPrefix(number, []byte("0.")) {
		number = number[1:]
	}
	for _, c := range number {
		if c >= '0' && c <= '9' {
			n++
		}
	}
	return n
}

func utf16Len(s string) (n int) {
	for _, r := range s {
		n++
		if r > 0xFFFF {
			n++
		}
	}
	return n
}
