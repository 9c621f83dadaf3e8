package config

import (
	"fmt"
	"io"
)

// Secret is text that must not be shown. Every way of printing or encoding it
// gives "[hidden]"; only Reveal and Current give the text.
//
// Two places escape it, because no method is called there: an unexported field
// of a struct that fmt prints, and the key of a map that is encoded as JSON.
//
// It is a value and does not change; any goroutine may use it.
type Secret struct {
	text string
	from *reference // nil: no part of it is a file's content
}

// reference is a text with ${} in it, and what resolves that. The environment is
// that of the load.
type reference struct {
	template string
	resolve  func(string) (string, error)
}

// NewSecret returns a secret that does not change.
func NewSecret(text string) Secret { return Secret{text: text} }

const hidden = "[hidden]"

// Reveal returns the text as it was when the configuration was loaded.
func (s Secret) Reveal() string { return s.text }

// IsEmpty reports a secret without text.
func (s Secret) IsEmpty() bool { return s.text == "" }

// Current returns the text with the files that ${file:} names read again, so that
// a secret can be replaced while the program runs. Ask when a connection is made;
// an error names the file and is worth another attempt, since whoever replaces a
// file may not be done.
func (s Secret) Current() (string, error) {
	if s.from == nil {
		return s.text, nil
	}
	return s.from.resolve(s.from.template)
}

// UnmarshalText makes a secret that does not change.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// String returns "[hidden]".
func (Secret) String() string { return hidden }

// GoString returns "[hidden]".
func (Secret) GoString() string { return hidden }

// Format writes "[hidden]" for every verb, including those, such as %x and %d,
// that would not ask for a string.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalJSON returns "[hidden]" as a JSON string. zerolog's Interface and Any
// come here too.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalText returns "[hidden]", for the encoders that ask for text.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
