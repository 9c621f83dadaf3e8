package mask

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/theory/jsonpath"
)

// ErrUnmaskable is wrapped by the error of a payload in which nobody can say what has
// to be masked. The error quotes nothing of it.
var ErrUnmaskable = errors.New("the payload cannot be masked")

// How says what becomes of a part.
type How string

const (
	Remove  How = "remove"  // with its member's name, or its place in the array
	Hash    How = "hash"    // a string with the HMAC-SHA-256, in hexadecimal
	Encrypt How = "encrypt" // a string with what Key.Encrypt returns, in base64
)

// Rule masks the parts that a path selects.
type Rule struct {
	Path string // JSONPath, RFC 9535
	How  How
	Key  *Key // for Hash and Encrypt
}

// Masker applies rules. It is used by one goroutine at a time.
type Masker struct {
	rules []rule
	// unmatched is called with the path of a rule that selects nothing in a payload.
	unmatched func(path string)
}

type rule struct {
	Rule
	path *jsonpath.Path
}

// New returns a Masker, or an error that names the path that is wrong. unmatched may be
// nil.
func New(rules []Rule, unmatched func(path string)) (*Masker, error) {
	m := &Masker{unmatched: unmatched}
	for _, r := range rules {
		path, err := ParsePath(r.Path)
		switch {
		case err != nil:
			return nil, err
		case r.How == Remove && len(path.Query().Segments()) == 0:
			return nil, fmt.Errorf("path %q is the whole payload, which cannot be removed", r.Path)
		case r.How != Remove && r.Key == nil:
			return nil, fmt.Errorf("path %q: %s needs a key", r.Path, r.How)
		case r.How == Encrypt && !r.Key.Encrypts():
			return nil, fmt.Errorf("path %q: a key to encrypt with is written ID:BASE64", r.Path)
		case r.How == Hash && r.Key.Encrypts():
			return nil, fmt.Errorf("path %q: its key is one to encrypt with (ID:BASE64), and a key is for one purpose only", r.Path)
		}
		m.rules = append(m.rules, rule{r, path})
	}
	return m, nil
}

// ParsePath returns a path, or an error that says what is wrong with it.
func ParsePath(path string) (*jsonpath.Path, error) {
	p, err := jsonpath.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("path %q is no JSONPath (RFC 9535): %w", path, err)
	}
	return p, nil
}

// edit replaces the bytes from start to end.
type edit struct {
	start, end int
	by         []byte
}

// Append appends the payload, with its parts masked, to dst. The error wraps
// ErrUnmaskable, but for one of the system's random numbers.
func (m *Masker) Append(dst, payload []byte) ([]byte, error) {
	root, err := parse(payload)
	if err != nil {
		return nil, err
	}
	found := 0
	for i := range m.rules {
		r := &m.rules[i]
		nodes := r.path.SelectLocated(root.plain)
		if len(nodes) == 0 && m.unmatched != nil {
			m.unmatched(r.Path)
		}
		found += len(nodes)
		for _, n := range nodes {
			// Of several rules for one part the first counts.
			if v := root.at(n.Path); v.rule == nil {
				v.rule = r
			}
		}
	}
	if found == 0 {
		return append(dst, payload...), nil
	}
	edits, err := root.edits(payload, nil)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	at := 0
	for _, e := range edits {
		dst = append(append(dst, payload[at:e.start]...), e.by...)
		at = e.end
	}
	return append(dst, payload[at:]...), nil
}

// edits appends the edits of a value and of what is inside it. What is inside a part
// that is masked is masked with it.
func (v *value) edits(payload []byte, edits []edit) ([]edit, error) {
	if v.rule != nil {
		by, err := v.rule.replace(payload[v.start:v.end], v)
		return append(edits, edit{v.start, v.end, by}), err
	}
	var err error
	for i, member := range v.members {
		if member.rule == nil || member.rule.How != Remove {
			if edits, err = member.edits(payload, edits); err != nil {
				return nil, err
			}
			continue
		}
		edits = append(edits, v.without(i))
	}
	return edits, nil
}

// without cuts a member out, with the comma that it needs no more. The members that
// stay keep one between each two: a member that is cut takes the comma behind it,
// and where only such members follow, the one before it.
func (v *value) without(i int) edit {
	stays := func(m *value) bool { return m.rule == nil || m.rule.How != Remove }
	member := v.members[i]
	if slices.ContainsFunc(v.members[i+1:], stays) {
		return edit{member.from, v.members[i+1].from, nil}
	}
	if i == 0 {
		return edit{member.from, member.end, nil}
	}
	return edit{v.members[i-1].end, member.end, nil}
}

// replace returns what takes the place of a part.
func (r *rule) replace(text []byte, v *value) ([]byte, error) {
	if r.How == Encrypt {
		return r.Key.encrypted(text)
	}
	if s, ok := v.plain.(string); ok {
		text = []byte(s)
	}
	return r.Key.hashed(text), nil
}
