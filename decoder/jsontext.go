package decoder

import (
	"bytes"
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrHalfSurrogate means that a JSON string has half of a surrogate pair (\ud83d),
// which JSON allows, PostgreSQL's type json too, and no UTF-8 text can hold. What
// most parsers put in its place, U+FFFD, is another text.
var ErrHalfSurrogate = errors.New(`has half of a surrogate pair (\ud800 to \udfff), which is no character`)

// JSONText returns the characters of a JSON string, which is valid and given with
// its quotes: a view of it where it has no escapes.
func JSONText(literal []byte) ([]byte, error) {
	inside := literal[1 : len(literal)-1 : len(literal)-1]
	if bytes.IndexByte(inside, '\\') < 0 {
		return inside, nil
	}
	text, whole := AppendJSONText(make([]byte, 0, len(inside)), inside)
	if !whole {
		return nil, ErrHalfSurrogate
	}
	return text, nil
}

// AppendJSONText appends the characters of a JSON string, which is valid and given
// without its quotes. It is not whole when it has half of a surrogate pair: that is
// appended in the three bytes that UTF-8 would have for it, as Java can hold it.
func AppendJSONText(dst, inside []byte) (_ []byte, whole bool) {
	whole = true
	for {
		i := bytes.IndexByte(inside, '\\')
		if i < 0 || i+1 == len(inside) {
			return append(dst, inside...), whole
		}
		dst = append(dst, inside[:i]...)
		c := inside[i+1]
		inside = inside[i+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			unit, ok := hexUnit(inside)
			if !ok {
				return dst, whole // not valid JSON
			}
			inside = inside[4:]
			if utf16.IsSurrogate(unit) {
				if len(inside) >= 6 && inside[0] == '\\' && inside[1] == 'u' {
					if low, ok := hexUnit(inside[2:]); ok {
						if r := utf16.DecodeRune(unit, low); r != utf8.RuneError {
							dst = utf8.AppendRune(dst, r)
							inside = inside[6:]
							continue
						}
					}
				}
				whole = false
				dst = append(dst, byte(0xE0|unit>>12), byte(0x80|unit>>6&0x3F), byte(0x80|unit&0x3F))
				continue
			}
			dst = utf8.AppendRune(dst, unit)
			continue
		}
		dst = append(dst, c)
	}
}

// hexUnit reads the four digits of a UTF-16 unit.
func hexUnit(b []byte) (unit rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		digit := hexDigit[c]
		if digit > 0xF {
			return 0, false
		}
		unit = unit<<4 | rune(digit)
	}
	return unit, true
}
