package template

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	text, name := func(s string) Part { return Part{Text: s} }, func(s string) Part { return Part{Text: s, Placeholder: true} }
	for s, want := range map[string]Template{
		"":                  nil,
		"orders":            {text("orders")},
		"{type}":            {name("type")},
		"a.{type}":          {text("a."), name("type")},
		"{a}{b}c":           {name("a"), name("b"), text("c")},
		"{}":                {name("")},
		"{ type }":          {name(" type ")},
		"{column:x y}-{a}z": {name("column:x y"), text("-"), name("a"), text("z")},
	} {
		got, err := Parse(s)
		if err != nil || !slices.Equal(got, want) || got.String() != s {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"{", "}", "a}b", "{a", "{a{b}}", "{{a}}", "{a}}", "a{b}{"} {
		if got, err := Parse(s); !errors.Is(err, ErrBraces) {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}

func TestPartsOfATemplate(t *testing.T) {
	parsed, err := Parse("a.{type}-{column:x}{column:}z")
	if err != nil {
		t.Fatal(err)
	}
	if text, whole := parsed.Literal(); text != "a.-z" || whole {
		t.Errorf("literal %q, whole %t", text, whole)
	}
	if names := parsed.Placeholders(); !slices.Equal(names, []string{"type", "column:x", "column:"}) {
		t.Errorf("placeholders %q", names)
	}
	if names := Columns("a.{type}-{column:x}{column:}z"); !slices.Equal(names, []string{"x", ""}) {
		t.Errorf("columns %q", names)
	}
	if names := Columns("aggregate_id"); names != nil {
		t.Errorf("columns %q", names)
	}
	whole, _ := Parse("orders")
	if text, is := whole.Literal(); text != "orders" || !is {
		t.Errorf("literal %q, whole %t", text, is)
	}
}

// What is read is what was written, with braces only around names.
func FuzzParse(f *testing.F) {
	f.Add("outbox.event.{type}")
	f.Add("{a}{column:b}c{}")
	f.Add("{a{b}}")
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := Parse(s)
		if err != nil {
			if !strings.ContainsAny(s, "{}") {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if parsed.String() != s {
			t.Fatalf("%q is read as %q", s, parsed)
		}
		for _, p := range parsed {
			if strings.ContainsAny(p.Text, "{}") || !p.Placeholder && p.Text == "" {
				t.Fatalf("%q has the part %q", s, p.Text)
			}
		}
	})
}
