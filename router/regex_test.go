package router

import (
	"errors"
	"testing"

	"outboxd/decoder"
)

func TestRegex(t *testing.T) {
	for _, test := range []struct{ pattern, replacement, text, want string }{
		{"(?<v>.*)", "outbox.event.${v}", "order", "outbox.event.order"},
		{"([a-z]+)-v([0-9]+)", "$2.$1", "order-v12", "12.order"},
		{"([a-z]+)-v([0-9]+)", "$2.$1", "x.order-v12", "x.order-v12"}, // not the whole
		{"a|ab", "x", "ab", "xb"},                                     // the whole matches, the first match is shorter
		{"(a)|b", "x${1}", "b", "x"},                                  // a group that took no part
		{"a*", "x$$", "aa", "x$"},                                     //
		{"", "x", "", "x"},                                            //
		{"a*?", "x", "aa", "xaa"},                                     // the first match is empty
		{"(?i)ORDER", "o", "Order", "o"},
	} {
		re, err := NewRegex(decoder.Type, "type", test.pattern, test.replacement)
		if err != nil {
			t.Fatal(err)
		}
		ev := event(with(decoder.Type, test.text))
		if got, err := re.expand(nil, ev); err != nil || string(got) != test.want {
			t.Errorf("%s on %s: %q, %v; want %q", test.pattern, test.text, got, err, test.want)
		}
		if _, err := re.expand(nil, event(without(decoder.Type))); !errors.Is(err, ErrUnroutable) {
			t.Errorf("NULL: %v", err)
		}
	}
}
