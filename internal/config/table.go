package config

import (
	"errors"
	"strings"
)

// Table names a table. Its parts are as in the database's catalogue: without
// quotes, and in the case that is stored there. The zero value is no table.
type Table struct {
	Schema string
	Name   string
}

var errTable = errors.New(`is not a table name such as public.outbox or "My Schema"."outbox"`)

// UnmarshalText reads schema.table, or table in the schema public. As in SQL, a
// part in double quotes is taken as it is, with "" for one quote; one without
// quotes is folded to lower case. An empty text is no table.
func (t *Table) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Table{}
		return nil
	}
	first, rest, err := identifier(string(text))
	if err != nil {
		return err
	}
	if rest == "" {
		*t = Table{Schema: "public", Name: first}
		return nil
	}
	if rest[0] != '.' {
		return errTable
	}
	second, rest, err := identifier(rest[1:])
	if err != nil {
		return err
	}
	if rest != "" {
		return errTable
	}
	*t = Table{Schema: first, Name: second}
	return nil
}

// MarshalText returns the text that UnmarshalText reads.
func (t Table) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// String returns schema.table, with quotes where SQL needs them.
func (t Table) String() string {
	if t == (Table{}) {
		return ""
	}
	return quoteIfNeeded(t.Schema) + "." + quoteIfNeeded(t.Name)
}

// identifier takes one SQL identifier off the front of text.
func identifier(text string) (name, rest string, err error) {
	if strings.HasPrefix(text, `"`) {
		name, rest, err = quotedIdentifier(text[1:])
	} else {
		end := strings.IndexFunc(text, func(r rune) bool { return !isIdentifierRune(r) })
		if end < 0 {
			end = len(text)
		}
		name, rest = foldASCII(text[:end]), text[end:]
	}
	switch {
	case err != nil:
		return "", "", err
	case checkIdentifier(name) != "":
		return "", "", errTable
	}
	return name, rest, nil
}

// quotedIdentifier reads up to the closing quote.
func quotedIdentifier(text string) (name, rest string, err error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, `"`)
		if !found {
			return "", "", errTable
		}
		b.WriteString(before)
		if !strings.HasPrefix(after, `"`) {
			return b.String(), after, nil
		}
		b.WriteByte('"')
		text = after[1:]
	}
}

// isIdentifierRune tells what PostgreSQL allows without quotes. The rule that
// the first is no digit is left to the server, which knows all its own rules.
func isIdentifierRune(r rune) bool {
	return r == '_' || r == '$' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= 0x80
}

// foldASCII lowers only A to Z, as PostgreSQL does in a multi-byte encoding.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func quoteIfNeeded(name string) string {
	plain := name != "" && foldASCII(name) == name &&
		strings.IndexFunc(name, func(r rune) bool { return !isIdentifierRune(r) }) < 0
	if plain {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
