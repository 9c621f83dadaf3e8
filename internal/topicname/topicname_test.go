package topicname

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for name, want := range map[string]error{
		"a": nil, "azAZ09._-": nil, "...": nil, "__consumer_offsets": nil, strings.Repeat("x", MaxLen): nil,
		"": errLength, ".": errLength, "..": errLength, strings.Repeat("x", MaxLen+1): errLength,
		"a b": errCharacter, "a/b": errCharacter, "Größe": errCharacter, "a\x00": errCharacter, "a\n": errCharacter, "{type}": errCharacter, "a:b": errCharacter,
	} {
		if err := Check(name); err != want {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}

func TestCollide(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a_b", true}, {"a_b.c", "a.b_c", true}, {"a.b", "a.b", false}, {"a.b", "a-b", false}, {"ab", "a.b", false},
	} {
		if got := Collide(test.a, test.b); got != test.want {
			t.Errorf("%s and %s: %t", test.a, test.b, got)
		}
	}
}

func TestInternal(t *testing.T) {
	for name, want := range map[string]bool{"__consumer_offsets": true, "_schemas": false, "a__b": false} {
		if got := Internal(name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
