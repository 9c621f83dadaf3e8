// Package template reads the texts of the configuration in which names in braces stand
// for what an event has: topics, and subjects of a schema registry.
package template

import (
	"errors"
	"strings"
)

// Template is a text with placeholders.
type Template []Part

// Part is a piece of a template: text, or the name of a placeholder without its braces.
type Part struct {
	Text        string
	Placeholder bool
}

// ErrBraces is returned for braces that are not in pairs.
var ErrBraces = errors.New("has a { or } without its partner")

// Parse reads a template. Which placeholders there are is its user's matter.
func Parse(text string) (t Template, err error) {
	for text != "" {
		before, rest, found := strings.Cut(text, "{")
		if strings.Contains(before, "}") {
			return nil, ErrBraces
		}
		if before != "" {
			t = append(t, Part{Text: before})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || strings.Contains(name, "{") {
			return nil, ErrBraces
		}
		t = append(t, Part{name, true})
		text = after
	}
	return t, nil
}

// Literal returns the text without the placeholders, and whether there are none.
func (t Template) Literal() (text string, whole bool) {
	whole = true
	for _, p := range t {
		if p.Placeholder {
			whole = false
			continue
		}
		text += p.Text
	}
	return text, whole
}

// Placeholders returns their names.
func (t Template) Placeholders() (names []string) {
	for _, p := range t {
		if p.Placeholder {
			names = append(names, p.Text)
		}
	}
	return names
}

// Column returns the column of a placeholder {column:NAME}.
func Column(placeholder string) (name string, ok bool) {
	return strings.CutPrefix(placeholder, "column:")
}

// Columns returns the columns that a template names, nil for none.
func Columns(text string) (names []string) {
	t, _ := Parse(text) // its errors are those of the configuration, found before
	for _, placeholder := range t.Placeholders() {
		if name, ok := Column(placeholder); ok {
			names = append(names, name)
		}
	}
	return names
}

// String returns the template as it was written.
func (t Template) String() string {
	var b strings.Builder
	for _, p := range t {
		if p.Placeholder {
			b.WriteString("{" + p.Text + "}")
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}
