package avro

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/tidwall/gjson"
)

// parseTime reads a time's text as the number that Avro has for it. What is finer
// than the type is cut off.
func parseTime(logical avro.LogicalType, text string) (int64, error) {
	switch logical {
	case avro.Date:
		t, err := time.Parse(time.DateOnly, text)
		if err != nil {
			return 0, misfitf("%s is not a date such as 2026-07-31", quote(text))
		}
		return t.Unix() / (24 * 60 * 60), nil
	case avro.TimeMillis, avro.TimeMicros:
		t, err := time.Parse(time.TimeOnly, text)
		if err != nil {
			return 0, misfitf("%s is not a time such as 12:30:00.123456", quote(text))
		}
		day := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute +
			time.Duration(t.Second())*time.Second + time.Duration(t.Nanosecond())
		if logical == avro.TimeMillis {
			return day.Milliseconds(), nil
		}
		return day.Microseconds(), nil
	}
	layout, example := time.RFC3339, "2026-07-31T12:30:00.123456Z (RFC 3339, with its offset)"
	if logical == avro.LocalTimestampMillis || logical == avro.LocalTimestampMicros {
		layout, example = "2006-01-02T15:04:05", "2026-07-31T12:30:00.123456 (without an offset)"
	}
	t, err := time.Parse(layout, text)
	if err != nil {
		return 0, misfitf("%s is not a time such as %s", quote(text), example)
	}
	if logical == avro.TimestampMillis || logical == avro.LocalTimestampMillis {
		return t.UnixMilli(), nil
	}
	return t.UnixMicro(), nil
}

func quote(text string) string {
	if len(text) > 40 {
		return "a long text"
	}
	return strconv.Quote(text)
}

// appendBinary appends bytes or a fixed: base64, or a decimal.
func appendBinary(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	if t.logical == avro.Decimal {
		return appendDecimal(b, t, v)
	}
	if v.Type != gjson.String {
		return b, unexpected(t, v)
	}
	if t.logical == avro.Duration {
		return appendDuration(b, v)
	}
	data, err := base64.StdEncoding.DecodeString(v.Str)
	if err != nil {
		return b, misfitf("%s is not base64, as which a %s is written", show(v), t.name)
	}
	if t.kind == avro.Bytes {
		return appendBytes(b, data), nil
	}
	if len(data) != t.size {
		return b, misfitf("it has %d bytes, fixed %s has %d", len(data), t.name, t.size)
	}
	return append(b, data...), nil
}

var isoDuration = regexp.MustCompile(`^P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})W)?(?:(\d{1,9})D)?(T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:\.(\d{1,3})\d*)?S)?)?$`)

// appendDuration appends a duration, from its ISO 8601 text: months, days and
// milliseconds, which do not turn into each other.
func appendDuration(b []byte, v gjson.Result) ([]byte, error) {
	parts := isoDuration.FindStringSubmatch(v.Str)
	if parts == nil || strings.HasSuffix(v.Str, "P") || strings.HasSuffix(v.Str, "T") {
		return b, misfitf("%s is not a duration such as P1Y2M3DT4H5M6.789S", show(v))
	}
	number := func(i int) uint64 {
		n, _ := strconv.ParseUint(parts[i], 10, 64) // digits, or nothing for 0
		return n
	}
	const year, month, week, day, hour, minute, second, fraction = 1, 2, 3, 4, 6, 7, 8, 9
	if parts[fraction] != "" {
		parts[fraction] = (parts[fraction] + "00")[:3]
	}
	for _, n := range []uint64{
		12*number(year) + number(month),
		7*number(week) + number(day),
		1000*(60*(60*number(hour)+number(minute))+number(second)) + number(fraction),
	} {
		if n > math.MaxUint32 {
			return b, misfitf("%s has more months, days or milliseconds than go into 32 bits", show(v))
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b, nil
}

// maxDigits bounds the zeros that an exponent can stand for.
const maxDigits = 1000

// appendDecimal appends a decimal, from a number or a text that is one, exactly.
func appendDecimal(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	text := v.Raw
	if v.Type == gjson.String {
		text = v.Str
	}
	if v.Type != gjson.Number && v.Type != gjson.String {
		return b, unexpected(t, v)
	}
	digits, exponent, ok := splitDecimal(text)
	if !ok {
		return b, misfitf("%s is not a decimal", show(v))
	}
	// digits × 10^exponent is to be unscaled × 10^-scale.
	for ; exponent < -t.scale && strings.HasSuffix(digits, "0"); exponent++ {
		digits = digits[:len(digits)-1]
	}
	zeros := exponent + t.scale
	significant := strings.TrimLeft(digits, "-0")
	switch {
	case significant == "":
		digits, zeros = "0", 0
	case zeros < 0:
		return b, misfitf("%s has more than %d digits after the point", show(v), t.scale)
	case len(significant)+zeros > t.precision:
		return b, misfitf("%s has more than %d digits", show(v), t.precision)
	}
	unscaled, ok := new(big.Int).SetString(digits+strings.Repeat("0", zeros), 10)
	if !ok {
		return b, misfitf("%s is not a decimal", show(v))
	}
	data := twosComplement(unscaled)
	if t.kind == avro.Bytes {
		return appendBytes(b, data), nil
	}
	if len(data) > t.size {
		return b, misfitf("%s does not go into %d bytes of fixed %s", show(v), t.size, t.name)
	}
	sign := byte(0)
	if unscaled.Sign() < 0 {
		sign = 0xFF
	}
	for range t.size - len(data) {
		b = append(b, sign)
	}
	return append(b, data...), nil
}

// splitDecimal returns a decimal's digits, with its sign and without its point,
// and the power of ten that they are multiplied by.
func splitDecimal(text string) (digits string, exponent int, ok bool) {
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(text[i+1:]); err != nil {
			return "", 0, false
		}
		text = text[:i]
	}
	whole, fraction, _ := strings.Cut(text, ".")
	digits = whole + fraction
	exponent -= len(fraction)
	unsigned := strings.TrimPrefix(digits, "-")
	if unsigned == "" || strings.Trim(unsigned, "0123456789") != "" || exponent > maxDigits || exponent < -maxDigits {
		return "", 0, false
	}
	return digits, exponent, true
}

// twosComplement returns an integer's shortest form, the most significant byte
// first.
func twosComplement(n *big.Int) []byte {
	if n.Sign() >= 0 {
		data := n.Bytes()
		if len(data) == 0 || data[0] >= 0x80 {
			data = append([]byte{0}, data...)
		}
		return data
	}
	// -n-1 has the same bits, all turned over.
	data := new(big.Int).Not(n).Bytes()
	if len(data) == 0 || data[0] >= 0x80 {
		data = append([]byte{0}, data...)
	}
	for i := range data {
		data[i] = ^data[i]
	}
	return data
}

// isUUID tells the form of RFC 9562.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return true
}
