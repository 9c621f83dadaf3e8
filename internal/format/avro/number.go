package avro

import (
	"math"
	"strconv"
	"strings"

	"github.com/hamba/avro/v2"
	"github.com/tidwall/gjson"
)

// appendInteger appends an int or long, from a number or the text of a time.
func appendInteger(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	if v.Type == gjson.String && t.logical != "" {
		n, err := parseTime(t.logical, v.Str)
		if err != nil {
			return b, err
		}
		return appendLong(b, n), nil
	}
	if v.Type != gjson.Number {
		return b, unexpected(t, v)
	}
	text := v.Raw
	if whole, fraction, ok := strings.Cut(text, "."); ok && strings.Trim(fraction, "0") == "" {
		text = whole // 5.00
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return b, misfitf("%s is not an integer of 64 bits", show(v))
	case t.kind == avro.Int && n != int64(int32(n)):
		return b, misfitf("%s is not an integer of 32 bits", show(v))
	}
	return appendLong(b, n), nil
}

// appendFloating appends a float or double: a number, or what no JSON number is.
func appendFloating(b []byte, t *avroType, v gjson.Result) ([]byte, error) {
	var f float64
	switch {
	case v.Type == gjson.Number:
		bits := 64
		if t.kind == avro.Float {
			bits = 32
		}
		var err error
		if f, err = strconv.ParseFloat(v.Raw, bits); err != nil {
			return b, misfitf("%s is beyond a %s", show(v), t.kind)
		}
	case v.Type == gjson.String && v.Str == "NaN":
		f = math.NaN()
	case v.Type == gjson.String && (v.Str == "Infinity" || v.Str == "-Infinity"):
		f, _ = strconv.ParseFloat(v.Str, 64)
	default:
		return b, unexpected(t, v)
	}
	if t.kind == avro.Float {
		return appendFloat(b, float32(f)), nil
	}
	return appendDouble(b, f), nil
}
