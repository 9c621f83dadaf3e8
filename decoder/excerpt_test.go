package decoder

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestExcerpt(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, test := range []struct{ content, want string }{
		{"", `""`},
		{"a\"b\n", `"a\"b\n"`},
		{"\xff", `"\xff"`},
		{long, `"` + long + `"`},
		{long + "x", `"` + long + `"…`},
		{long[1:] + "é", `"` + long[1:] + `"…`},
		{strings.Repeat("\x00", 1000), `"` + strings.Repeat(`\x00`, 50) + `"…`},
	} {
		if got := Excerpt(test.content); got != test.want {
			t.Errorf("Excerpt(%q) = %s, want %s", test.content, got, test.want)
		}
		if got := Excerpt([]byte(test.content)); got != test.want {
			t.Errorf("Excerpt of bytes %q = %s, want %s", test.content, got, test.want)
		}
	}
}

func TestCut(t *testing.T) {
	if got := Cut("short"); got != "short" {
		t.Errorf("short: %q", got)
	}
	got := Cut(strings.Repeat("x", 199) + "é and more")
	if got != strings.Repeat("x", 199)+"…" {
		t.Errorf("inside a character: %q", got)
	}
}

func FuzzExcerpt(f *testing.F) {
	f.Add([]byte("a"))
	f.Add([]byte(strings.Repeat("\U0010ffff", 100)))
	f.Fuzz(func(t *testing.T, content []byte) {
		got := Excerpt(content)
		quoted, cut := strings.CutSuffix(got, "…")
		text, err := strconv.Unquote(quoted)
		if err != nil || len(quoted) > MaxExcerpt+2 || !utf8.ValidString(got) {
			t.Fatalf("%q: %s: %v", content, got, err)
		}
		if !strings.HasPrefix(string(content), text) || cut != (len(text) < len(content)) {
			t.Fatalf("%q: %s", content, got)
		}
	})
}
