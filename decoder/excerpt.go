package decoder

import (
	"strconv"
	"unicode/utf8"
)

// MaxExcerpt is how many bytes of a row's content a message shows at one place.
const MaxExcerpt = 200

// Excerpt quotes content of a row (a column, a topic or header made of one) for a
// message: at most MaxExcerpt bytes of it, escapes included, with … behind them
// when there is more. Content may be of any size and hold what does not concern
// whoever reads the log, so that no message takes it in by another way.
func Excerpt[T []byte | string](content T) string {
	b := append(make([]byte, 0, MaxExcerpt+8), '"')
	// One byte more than fits, and what its character may need.
	head := string(content[:min(len(content), MaxExcerpt+utf8.UTFMax)])
	at := 0
	for at < len(head) {
		_, n := utf8.DecodeRuneInString(head[at:])
		quoted := strconv.Quote(head[at : at+n])
		if len(b)-1+len(quoted)-2 > MaxExcerpt {
			break
		}
		b = append(b, quoted[1:len(quoted)-1]...)
		at += n
	}
	b = append(b, '"')
	if at < len(content) {
		b = append(b, "…"...)
	}
	return string(b)
}

// Cut shortens a text that was made of content to MaxExcerpt bytes, with … behind
// them when there was more.
func Cut(text string) string {
	if len(text) <= MaxExcerpt {
		return text
	}
	at := MaxExcerpt
	for at > 0 && !utf8.RuneStart(text[at]) {
		at--
	}
	return text[:at] + "…"
}
