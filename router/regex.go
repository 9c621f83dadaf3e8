package router

import (
	"fmt"
	"regexp"

	"outboxd/decoder"
	"outboxd/internal/poison"
)

// Regex makes a topic of a column's text, as Kafka Connect's RegexRouter does: a
// text that matches as a whole has the first match in it replaced, any other is
// the topic as it is. The first match can be shorter than the whole: a|ab finds a
// in ab.
type Regex struct {
	field        decoder.Field
	column       string
	whole, first *regexp.Regexp
	replacement  []byte
}

// NewRegex compiles a pattern in Go's syntax and a replacement with $1, ${1},
// ${name} and $$. column names the field in messages.
func NewRegex(field decoder.Field, column, pattern, replacement string) (*Regex, error) {
	first, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("route.regex.match: %w", err)
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("route.regex.match: %w", err)
	}
	return &Regex{field: field, column: column, whole: whole, first: first, replacement: []byte(replacement)}, nil
}

// expand appends the topic's name for an event.
func (r *Regex) expand(dst []byte, ev *decoder.Event) ([]byte, error) {
	v := ev.Values[r.field]
	if v == nil {
		return dst, poison.NoRoute.Mark(fmt.Errorf("%w: column %q, which names its topic (route.regex), is NULL", ErrUnroutable, r.column))
	}
	if !r.whole.Match(v) {
		return append(dst, v...), nil
	}
	m := r.first.FindSubmatchIndex(v)
	dst = append(dst, v[:m[0]]...)
	dst = r.first.Expand(dst, r.replacement, v, m)
	return append(dst, v[m[1]:]...), nil
}
