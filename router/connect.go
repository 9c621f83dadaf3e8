package router

import (
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"outboxd/decoder"
)

// Kafka Connect's view of a column, as Debezium's PostgreSQL connector makes it
// with its default options: the value that each type becomes, how Connect prints
// that in a header or a string, and how its JsonConverter writes it.

// Attribute is what the catalog says of a column beside its type.
type Attribute struct {
	NotNull bool
	// Modifier is atttypmod: of a timestamp the number of its decimals, -1 when
	// none was given.
	Modifier int32
}

// Attributes are those of each field's column.
type Attributes []Attribute

// Of returns a field's attributes: none where the catalog was not asked.
func (a Attributes) Of(f decoder.Field) Attribute {
	if int(f) < len(a) {
		return a[f]
	}
	return Attribute{Modifier: -1}
}

// ConnectTypes are the types, by their names in pg_type, of columns whose Connect
// value is known here, besides bytea for payloads.
func ConnectTypes() []string {
	return []string{"text", "varchar", "uuid", "json", "jsonb", "bool", "int2", "int4", "int8", "float4", "float8", "timestamptz", "timestamp", "date"}
}

// connectType is a type's JSON schema: its primitive type, and its name if it has
// one.
func connectType(typ uint32, a Attribute) (primitive, name string) {
	switch typ {
	case decoder.UUIDOID:
		return "string", "io.debezium.data.Uuid"
	case decoder.JSONOID, decoder.JSONBOID:
		return "string", "io.debezium.data.Json"
	case decoder.TimestampTZOID:
		return "string", "io.debezium.time.ZonedTimestamp"
	case decoder.TimestampOID:
		if a.millis() {
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
func (a Attribute) millis() bool { return a.Modifier >= 0 && a.Modifier <= 3 }

// AppendConnectSchema appends the JSON schema of a column, of a struct's field if
// field is not empty.
func AppendConnectSchema(dst []byte, typ uint32, a Attribute, field string) []byte {
	primitive, name := connectType(typ, a)
	dst = fmt.Appendf(dst, `{"type":"%s","optional":%t`, primitive, !a.NotNull)
	if name != "" {
		dst = fmt.Appendf(dst, `,"name":"%s","version":1`, name)
	}
	if field != "" {
		dst = append(dst, `,"field":`...)
		dst = AppendConnectString(dst, []byte(field))
	}
	return append(dst, '}')
}

// ConnectText returns a value as Connect's SimpleHeaderConverter and
// StringConverter print it: v itself where that is PostgreSQL's text, else the
// text appended to *scratch.
func ConnectText(v []byte, typ uint32, a Attribute, scratch *[]byte) ([]byte, error) {
	switch typ {
	case decoder.BoolOID:
		if v[0] == 't' {
			return trueText, nil
		}
		return falseText, nil
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

// AppendConnectJSON appends a value as Connect's JsonConverter writes it.
func AppendConnectJSON(dst, v []byte, typ uint32, a Attribute) ([]byte, error) {
	switch typ {
	case decoder.BoolOID:
		if v[0] == 't' {
			return append(dst, trueText...), nil
		}
		return append(dst, falseText...), nil
	case decoder.Int2OID, decoder.Int4OID, decoder.Int8OID:
		return append(dst, v...), nil
	case decoder.Float4OID, decoder.Float8OID:
		if c := v[len(v)-1]; c == 'N' || c == 'y' { // NaN and Infinity, which JSON has only as strings
			return AppendConnectString(dst, v), nil
		}
		return appendConverted(dst, v, typ, a)
	case decoder.TimestampOID, decoder.DateOID:
		return appendConverted(dst, v, typ, a)
	case decoder.TimestampTZOID:
		dst, err := appendConverted(append(dst, '"'), v, typ, a)
		return append(dst, '"'), err
	}
	return AppendConnectString(dst, v), nil
}

// appendConverted appends the text of a type whose Connect value is not
// PostgreSQL's.
func appendConverted(dst, v []byte, typ uint32, a Attribute) ([]byte, error) {
	switch typ {
	case decoder.Float4OID, decoder.Float8OID:
		bits := 64
		if typ == decoder.Float4OID {
			bits = 32
		}
		f, err := strconv.ParseFloat(string(v), bits)
		if err != nil {
			return dst, fmt.Errorf("%w: %.300q is not a number", ErrUnroutable, v)
		}
		return AppendJavaFloat(dst, f, bits), nil
	case decoder.DateOID:
		t, err := time.Parse(time.DateOnly, string(v))
		if err != nil {
			return dst, fmt.Errorf("%w: date %.300q is not one between the years 1 and 9999", ErrUnroutable, v)
		}
		return strconv.AppendInt(dst, t.Unix()/(24*60*60), 10), nil
	}
	t, ok := decoder.ParseTimestamp(v)
	if !ok {
		return dst, fmt.Errorf("%w: time %.300q is not one between the years 1 and 9999", ErrUnroutable, v)
	}
	switch {
	case typ == decoder.TimestampTZOID:
		return t.UTC().AppendFormat(dst, a.zonedTimestamp()), nil
	case a.millis():
		return strconv.AppendInt(dst, t.UnixMilli(), 10), nil
	}
	return strconv.AppendInt(dst, t.UnixMicro(), 10), nil
}

// zonedTimestamp is Java's ISO_OFFSET_DATE_TIME with as many decimals as the column
// has.
func (a Attribute) zonedTimestamp() string {
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

// AppendJavaFloat appends a number as Java's Double.toString and Float.toString
// print it (since Java 19; older ones print a digit too many of a few numbers).
func AppendJavaFloat(dst []byte, f float64, bits int) []byte {
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

// AppendConnectString appends a JSON string as Jackson writes it: what UTF-16 needs
// two units for is escaped.
func AppendConnectString(dst, v []byte) []byte {
	const hex = "0123456789ABCDEF"
	dst = append(dst, '"')
	done := 0
	for i, c := range v {
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
