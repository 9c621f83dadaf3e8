package format

import (
	"fmt"

	"outboxd/decoder"
)

// What a payload that is parsed may be, so that neither our own code nor a library
// takes more memory or time for it than is in proportion to its size.
const (
	// MaxDepth is how deep objects and arrays may lie in each other. Jackson, and so
	// Debezium, has the same limit since 2.15.
	MaxDepth = 1000
	// maxExponent and maxNumber bound the digits that a number stands for, and has:
	// exact arithmetic writes them out.
	maxExponent, maxNumber = 400, 1000
)

// JSONDepth returns how deep JSON, which is valid, is nested: 0 for a scalar. It does
// not recurse.
func JSONDepth(b []byte) int {
	depth, most := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
			most = max(most, depth)
		case '}', ']':
			depth--
		case '"':
			i = EndOfString(b, i) - 1
		}
	}
	return most
}

// EndOfString returns the index behind the string that begins at i.
func EndOfString(b []byte, i int) int {
	for i++; i < len(b) && b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return min(i+1, len(b))
}

// checkJSON checks the limits of a payload that is valid JSON, and returns its
// depth.
func checkJSON(b []byte) (depth int, err error) {
	if depth = JSONDepth(b); depth > MaxDepth {
		return depth, fmt.Errorf("its payload is nested deeper than %d", MaxDepth)
	}
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			i = EndOfString(b, i)
		case c == '-' || c >= '0' && c <= '9':
			end := i + 1
			for end < len(b) && isNumberByte(b[end]) {
				end++
			}
			if number := b[i:end]; len(number) > maxNumber || exponentOf(number) > maxExponent {
				return depth, fmt.Errorf("its payload has the number %s, which is too large: more than %d digits, or an exponent beyond ±%d",
					decoder.Excerpt(number), maxNumber, maxExponent)
			}
			i = end
		default:
			i++
		}
	}
	return depth, nil
}

func isNumberByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// exponentOf returns the amount of a number's exponent, and no more than is
// certainly too much.
func exponentOf(number []byte) int {
	i := 0
	for i < len(number) && number[i] != 'e' && number[i] != 'E' {
		i++
	}
	n := 0
	for _, c := range number[min(i+1, len(number)):] {
		if c >= '0' && c <= '9' {
			n = min(10*n+int(c-'0'), maxExponent+1)
		}
	}
	return n
}
