package format

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// What is printed must mean the same to any JSON parser.
func FuzzQuoted(f *testing.F) {
	for _, seed := range []string{"", "a", "\x00\x1f\x7f", "\"\\/\b\f\n\r\t", "\u2028\u2029", "\U0001F511\ufffd", "\xff", "a\xc3", "\xed\xa0\x80", "<script>&"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var o Object
		if ok := o.Quoted([]byte(text)); ok != utf8.ValidString(text) {
			t.Fatalf("%q: UTF-8 %t", text, ok)
		} else if !ok {
			return
		}
		var back string
		if err := json.Unmarshal(o.B, &back); err != nil || back != text {
			t.Fatalf("%q became %s, which is %q: %v", text, o.B, back, err)
		}
	})
}
