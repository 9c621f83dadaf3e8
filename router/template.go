package router

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/template"
)

// topicTemplate is a topic name with places for fields.
type topicTemplate struct {
	parts []part
	text  string // as it was written
}

type part struct {
	text  string        // of a placeholder its name, for messages
	field decoder.Field // NoField: text
}

var placeholders = map[string]decoder.Field{
	"type":           decoder.Type,
	"aggregate_type": decoder.AggregateType,
}

func parseTemplate(s string, columns map[string]decoder.Field) (*topicTemplate, error) {
	parsed, err := template.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%q %w", s, err)
	}
	if len(parsed) == 0 {
		return nil, errors.New("is empty")
	}
	t := &topicTemplate{text: s}
	for _, p := range parsed {
		field, ok := decoder.NoField, true
		if p.Placeholder {
			if column, isColumn := template.Column(p.Text); isColumn {
				field, ok = columns[column]
			} else {
				field, ok = placeholders[p.Text]
			}
		}
		if !ok {
			return nil, fmt.Errorf("%q: unknown placeholder {%s}", s, p.Text)
		}
		t.parts = append(t.parts, part{p.Text, field})
	}
	return t, nil
}

// expand appends the name for an event.
func (t *topicTemplate) expand(dst []byte, ev *decoder.Event) ([]byte, error) {
	for i := range t.parts {
		p := &t.parts[i]
		if p.field == decoder.NoField {
			dst = append(dst, p.text...)
			continue
		}
		v := ev.Values[p.field]
		if v == nil {
			return dst, poison.NoRoute.Mark(fmt.Errorf("%w: {%s}, which names its topic, is NULL", ErrUnroutable, p.text))
		}
		dst = append(dst, v...)
	}
	return dst, nil
}

// String returns the template as it was written.
func (t *topicTemplate) String() string { return t.text }

// runeLen is the length of the first character.
func runeLen(b []byte) int {
	_, n := utf8.DecodeRune(b)
	return n
}
