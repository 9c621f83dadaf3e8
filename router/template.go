package router

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"outboxd/decoder"
)

// template is a topic name with places for fields.
type template []part

type part struct {
	text  string
	field decoder.Field // NoField: text
	name  string        // the placeholder, for messages
}

var placeholders = map[string]decoder.Field{
	"type":           decoder.Type,
	"aggregate_type": decoder.AggregateType,
}

func parseTemplate(s string, columns map[string]decoder.Field) (template, error) {
	var t template
	for rest := s; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			open = len(rest)
		}
		if text := rest[:open]; text != "" {
			t = append(t, part{text: text, field: decoder.NoField})
		}
		if rest = rest[open:]; rest == "" {
			break
		}
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return nil, fmt.Errorf("%q: { without }", s)
		}
		name := rest[1:end]
		field, ok := placeholders[name]
		if column, isColumn := strings.CutPrefix(name, "column:"); isColumn {
			field, ok = columns[column]
		}
		if !ok {
			return nil, fmt.Errorf("%q: unknown placeholder {%s}", s, name)
		}
		t = append(t, part{field: field, name: name})
		rest = rest[end+1:]
	}
	if len(t) == 0 {
		return nil, errors.New("is empty")
	}
	return t, nil
}

// expand appends the name for an event.
func (t template) expand(dst []byte, ev *decoder.Event) ([]byte, error) {
	for i := range t {
		p := &t[i]
		if p.field == decoder.NoField {
			dst = append(dst, p.text...)
			continue
		}
		v := ev.Values[p.field]
		if v == nil {
			return dst, fmt.Errorf("%w: {%s}, which names its topic, is NULL", ErrUnroutable, p.name)
		}
		dst = append(dst, v...)
	}
	return dst, nil
}

// String returns the template as it was written.
func (t template) String() string {
	var b strings.Builder
	for _, p := range t {
		if b.WriteString(p.text); p.field != decoder.NoField {
			b.WriteString("{" + p.name + "}")
		}
	}
	return b.String()
}

// runeLen is the length of the first character.
func runeLen(b []byte) int {
	_, n := utf8.DecodeRune(b)
	return n
}
