package decoder

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestJSONText(t *testing.T) {
	for _, test := range []struct{ literal, want, java string }{
		{`""`, "", ""},
		{`"a é 😀"`, "a é 😀", "a é 😀"},
		{`"\"\\\/\b\f\n\r\t"`, "\"\\/\b\f\n\r\t", "\"\\/\b\f\n\r\t"},
		{`"\u0000\u00e9\u20AC\uffff"`, "\x00é€\uffff", "\x00é€\uffff"},
		{`"\ud83d\ude00"`, "😀", "😀"},
		{`"x\ud83dy"`, "", "x\xed\xa0\xbdy"},
		{`"\ude00\ud83d"`, "", "\xed\xb8\x80\xed\xa0\xbd"},
		{`"\ud83d\ud83d\ude00"`, "", "\xed\xa0\xbd😀"},
		{`"\ud83d\\ude00"`, "", "\xed\xa0\xbd\\ude00"},
		{`"\ud83d\n"`, "", "\xed\xa0\xbd\n"},
	} {
		text, whole := AppendJSONText(nil, []byte(test.literal[1:len(test.literal)-1]))
		if string(text) != test.java || whole != (test.want == test.java) {
			t.Errorf("%s: %q, %t", test.literal, text, whole)
		}
		text, err := JSONText([]byte(test.literal))
		if string(text) != test.want || errors.Is(err, ErrHalfSurrogate) == whole {
			t.Errorf("%s: %q, %v", test.literal, text, err)
		}
	}
}

func FuzzJSONText(f *testing.F) {
	f.Add([]byte(`"a\u00e9\ud83d\ude00\n"`))
	f.Add([]byte(`"\ud83d"`))
	f.Fuzz(func(t *testing.T, literal []byte) {
		var want string
		if !utf8.Valid(literal) || bytes.TrimSpace(literal) == nil || json.Unmarshal(literal, &want) != nil {
			return
		}
		if literal = bytes.TrimSpace(literal); literal[0] != '"' {
			return
		}
		got, err := JSONText(literal)
		switch {
		case err != nil:
			// encoding/json puts U+FFFD in its place.
			if !strings.ContainsRune(want, utf8.RuneError) {
				t.Fatalf("%s: %v", literal, err)
			}
		case string(got) != want:
			t.Fatalf("%s: %q, want %q", literal, got, want)
		}
	})
}
