package debezium

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"unicode"
)

// yaml is a file in the making.
type yaml struct {
	head, body bytes.Buffer
}

func (y *yaml) bytes() []byte { return append(y.head.Bytes(), y.body.Bytes()...) }

func (y *yaml) preface(lines []string) {
	for _, line := range lines {
		y.head.WriteString(strings.TrimRight("# "+oneLine(line), " ") + "\n")
	}
	y.head.WriteString("\n")
}

// oneLine keeps a comment from ending before its text does.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) || r == '\ufeff' {
			return ' '
		}
		return r
	}, s)
}

func indent(depth int) string { return strings.Repeat("  ", depth) }

// group begins a mapping.
func (y *yaml) group(depth int, key string) { y.body.WriteString(indent(depth) + key + ":\n") }

// set writes a key, with comments above it.
func (y *yaml) set(depth int, key, value string, comments ...string) {
	for _, c := range comments {
		y.body.WriteString(indent(depth) + "# " + oneLine(c) + "\n")
	}
	y.body.WriteString(indent(depth) + scalar(key) + ": " + value + "\n")
}

// text writes a key whose value is text.
func (y *yaml) text(depth int, key, value string, comments ...string) {
	y.set(depth, key, scalar(value), comments...)
}

var plain = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./-]*$`)

// scalar quotes what YAML would not take for text.
func scalar(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
	default:
		if plain.MatchString(s) {
			return s
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can always be encoded
	return strings.TrimSuffix(b.String(), "\n")
}

// literal keeps outboxd from taking ${ for a reference of its own.
func literal(s string) string { return strings.ReplaceAll(s, "${", "$${") }
