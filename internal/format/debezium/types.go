package debezium

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// Kafka Connect's view of a column, as Debezium's PostgreSQL connector makes it
// with its default options: the value that each type becomes, how Connect prints
// that in a header or a string, and how its JsonConverter writes it.

// Types are the types, by their names in pg_type, of columns whose Connect
// value is known here, besides bytea for payloads.
func Types() []string {
	return []string{"text", "varchar", "uuid", "json", "jsonb", "bool", "int2", "int4", "int8", "float4", "float8", "timestamptz", "timestamp", "date"}
}

// connectType is a type's JSON schema: its primitive type, and its name if it has
// one.
func schemaType(typ uint32, a format.Attribute) (primitive, name string) {
	switch typ {
	case decoder.UUIDOID:
		return "string", "io.debezium.data.Uuid"
	case decoder.JSONOID, decoder.JSONBOID:
		return "string", "io.debezium.data.Json"
	case decoder.TimestampTZOID:
		return "string", "io.debezium.time.ZonedTimestamp"
	case decoder.TimestampOID:
		if millis(a) {
			return "int64", "io.debezium.time.Timestamp"
		}
		return "int64", "io.debezium.time.MicroTimestamp"
	case decoder.DateOID:
		return "int32", "io.debezium.time.Date"
	case decoder.BoolOID:
		return "boolean", ""
	case decoder.Int2OID:
		return "int16", ""
	case decoder.Int4OID:
		return "int32", ""
	case decoder.Int8OID:
		return "int64", ""
	case decoder.Float4OID:
		return "float", ""
	case decoder.Float8OID:
		return "double", ""
	case decoder.ByteaOID:
		return "bytes", ""
	}
	return "string", ""
}

// millis tells a timestamp of at most three decimals, which counts milliseconds.
func millis(a format.Attribute) bool { return a.Modifier >= 0 && a.Modifier <= 3 }

// appendSchema appends the JSON schema of a column, of a struct's field if
// field is not empty.
func appendSchema(dst []byte, typ uint32, a format.Attribute, field string) []byte {
	primitive, name := schemaType(typ, a)
	dst = fmt.Appendf(dst, `{"type":"%s","optional":%t`, primitive, !a.NotNull)
	if name != "" {
		dst = fmt.Appendf(dst, `,"name":"%s","version":1`, name)
	}
	if field != "" {
		dst = append(dst, `,"field":`...)
		dst = appendString(dst, []byte(field))
	}
	return append(dst, '}')
}

// connectText returns a value as Connect's SimpleHeaderConverter and
// StringConverter print it: v itself where that is PostgreSQL's text, else the
// text appended to *scratch.
func connectText(v []byte, typ uint32, a format.Attribute, scratch *[]byte) ([]byte, error) {
	switch typ {
	case decoder.BoolOID:
		return format.BoolText(v), nil
	case decoder.Float4OID, decoder.Float8OID, decoder.TimestampOID, decoder.TimestampTZOID, decoder.DateOID:
		n := len(*scratch)
		b, err := appendConverted(*scratch, v, typ, a)
		if err != nil {
			return nil, err
		}
		*scratch = b
		return b[n:len(b):len(b)], nil
	}
	return v, nil
}

// appendJSON appends a value as Connect's JsonConverter writes it.
func appendJSON(dst, v []byte, typ uint32, a format.Attribute) ([]byte, error) {
	switch typ {
	case decoder.BoolOID:
		return append(dst, format.BoolText(v)...), nil
	case decoder.Int2OID, decoder.Int4OID, decoder.Int8OID:
		if len(v) == 0 {
			return dst, errors.New("an integer without a digit")
		}
		return append(dst, v...), nil
	case decoder.Float4OID, decoder.Float8OID:
		if bytes.HasSuffix(v, []byte("N")) || bytes.HasSuffix(v, []byte("y")) { // NaN and Infinity, which JSON has only as strings
			return appendString(dst, v), nil
		}
		return appendConverted(dst, v, typ, a)
	case decoder.TimestampOID, decoder.DateOID:
		return appendConverted(dst, v, typ, a)
	case decoder.TimestampTZOID:
		dst, err := appendConverted(append(dst, '"'), v, typ, a)
		return append(dst, '"'), err
	}
	return appendString(dst, v), nil
}

// appendConverted appends the text of a type whose Connect value is not
// PostgreSQL's.
func appendConverted(dst, v []byte, typ uint32, a format.Attribute) ([]byte, error) {
	switch typ {
	case decoder.Float4OID, decoder.Float8OID:
		bits := 64
		if typ == decoder.Float4OID {
			bits = 32
		}
		f, err := strconv.ParseFloat(string(v), bits)
		if err != nil {
			return dst, fmt.Errorf("%s is not a number", decoder.Excerpt(v))
		}
		return appendJavaFloat(dst, f, bits), nil
	}
	return appendTime(dst, v, typ, a)
}

// zonedTimestamp is Java's ISO_OFFSET_DATE_TIME with as many decimals as the column
// has.
func zonedTimestamp(a format.Attribute) string {
	if n := a.Modifier; n >= 0 && n < 6 {
		return zonedTimestamps[n]
	}
	return zonedTimestamps[6]
}

var zonedTimestamps = [...]string{
	"2006-01-02T15:04:05Z",
	"2006-01-02T15:04:05.0Z", "2006-01-02T15:04:05.00Z", "2006-01-02T15:04:05.000Z",
	"2006-01-02T15:04:05.0000Z", "2006-01-02T15:04:05.00000Z", "2006-01-02T15:04:05.000000Z",
}

// appendJavaFloat appends a number as Java's Double.toString and Float.toString
// print it (since Java 19; older ones print a digit too many of a few numbers).
func appendJavaFloat(dst []byte, f float64, bits int) []byte {
	switch abs := max(f, -f); {
	case f != f:
		return append(dst, "NaN"...)
	case abs > maxFloat:
		if f < 0 {
			dst = append(dst, '-')
		}
		return append(dst, "Infinity"...)
	case abs == 0 || abs >= 1e-3 && abs < 1e7:
		n := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, bits)
		for _, c := range dst[n:] {
			if c == '.' {
				return dst
			}
		}
		return append(dst, ".0"...)
	}
	// Go has d.ddde+xx, with at least two digits of exponent and perhaps no point.
	var buf [32]byte
	b := strconv.AppendFloat(buf[:0], f, 'e', -1, bits)
	e := len(b) - 1
	for b[e] != 'e' {
		e--
	}
	mantissa, exponent := b[:e], b[e+1:]
	dst = append(dst, mantissa...)
	if len(mantissa) <= 2 { // one digit, perhaps a sign
		dst = append(dst, ".0"...)
	}
	dst = append(dst, 'E')
	if exponent[0] == '-' {
		dst = append(dst, '-')
	}
	exponent = exponent[1:]
	for len(exponent) > 1 && exponent[0] == '0' {
		exponent = exponent[1:]
	}
	return append(dst, exponent...)
}

const maxFloat = 0x1p1023 * (1 + (1 - 0x1p-52))

// appendString appends a JSON string as Jackson writes it: the units of
// surrogate pairs are escaped, and halves of them in the form of
// decoder.AppendJSONText, too.
func appendString(dst, v []byte) []byte {
	const hex = "0123456789ABCDEF"
	dst = append(dst, '"')
	done := 0
	for i, c := range v {
		if c == 0xED && i+2 < len(v) && v[i+1]>>5 == 0b101 && v[i+2]>>6 == 0b10 {
			dst = append(dst, v[done:i]...)
			done = i + 3
			u := rune(c&0xF)<<12 | rune(v[i+1]&0x3F)<<6 | rune(v[i+2]&0x3F)
			dst = append(dst, '\\', 'u', hex[u>>12], hex[u>>8&0xF], hex[u>>4&0xF], hex[u&0xF])
			continue
		}
		if c >= 0xF0 {
			r, n := utf8.DecodeRune(v[i:])
			if n != 4 {
				continue // not UTF-8, which no database with that encoding holds
			}
			dst = append(dst, v[done:i]...)
			done = i + n
			high, low := utf16.EncodeRune(r)
			for _, u := range [...]rune{high, low} {
				dst = append(dst, '\\', 'u', hex[u>>12], hex[u>>8&0xF], hex[u>>4&0xF], hex[u&0xF])
			}
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, v[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\r':
			dst = append(dst, `\r`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&0xF])
		}
	}
	dst = append(dst, v[done:]...)
	return append(dst, '"')
}
