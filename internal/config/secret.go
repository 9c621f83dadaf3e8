package config

import (
	"fmt"
	"io"
)

// Secret is text that must not be shown. Every way of printing or encoding it
// gives "[hidden]"; only Reveal gives the text.
//
// Two places escape it, because no method is called there: an unexported field
// of a struct that fmt prints, and the key of a map that is encoded as JSON.
type Secret string

const hidden = "[hidden]"

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

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
