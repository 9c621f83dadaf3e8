// Package topicname has Kafka's rules for the names of topics
// (org.apache.kafka.common.internals.Topic), so that a bad name is found where it is
// made and not as a failed request.
package topicname

import (
	"errors"
	"fmt"
	"strings"
)

// MaxLen is how long a name may be, in bytes.
const MaxLen = 249

var (
	errLength    = fmt.Errorf("must have 1 to %d characters, and neither . nor .. is one", MaxLen)
	errCharacter = errors.New("has a character other than a-z A-Z 0-9 . _ -")
)

// Check says what is wrong with a name.
func Check(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || len(name) > MaxLen:
		return errLength
	case !Characters(name):
		return errCharacter
	}
	return nil
}

// Characters reports whether a text has only characters that a name may have.
func Characters(text string) bool {
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return false
	}
	return true
}

// Internal reports whether a name begins as those of Kafka's own topics.
func Internal(name string) bool { return strings.HasPrefix(name, "__") }

// Collide reports whether Kafka refuses to create one of two topics beside the other:
// it does not tell . from _ there.
func Collide(a, b string) bool {
	same := func(name string) string { return strings.ReplaceAll(name, ".", "_") }
	return a != b && same(a) == same(b)
}
