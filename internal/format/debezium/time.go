package debezium

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// PostgreSQL's dates and times reach from 4714 BC to the year 294276 (dates to
// 5874897) and infinity, and Debezium delivers all of them, the largest wrapped
// around.

// cycle is how many years the calendar takes to repeat itself, and cycleSeconds how
// long that is.
const (
	cycle        = 400
	cycleSeconds = 146097 * 24 * 60 * 60
)

// pgTime is a time of any year: cycles of the calendar away from one that package
// time knows.
type pgTime struct {
	near   time.Time
	cycles int64
}

// parsePGTime reads a timestamp as PostgreSQL prints it, but infinity.
func parsePGTime(v []byte) (pgTime, bool) {
	if t, ok := decoder.ParseTimestamp(v); ok {
		return pgTime{near: t.UTC()}, true
	}
	text, before := bytes.CutSuffix(v, []byte(" BC"))
	digits := bytes.IndexByte(text, '-')
	if digits < 4 || digits > 7 {
		return pgTime{}, false
	}
	year, err := strconv.Atoi(string(text[:digits]))
	if err != nil || year < 1 {
		return pgTime{}, false
	}
	if before {
		year = 1 - year // 1 BC is the year 0
	}
	const base = 2000
	cycles := (year - base) / cycle
	if cycles*cycle > year-base {
		cycles--
	}
	near, ok := decoder.ParseTimestamp(append(strconv.AppendInt(nil, int64(year-cycles*cycle), 10), text[digits:]...))
	return pgTime{near.UTC(), int64(cycles)}, ok
}

func (t pgTime) unix() int64 { return t.near.Unix() + t.cycles*cycleSeconds }

// micros is Debezium's count: TimeUnit.SECONDS.toMicros ends at what 64 bits hold,
// and the addition behind it wraps around.
func (t pgTime) micros() int64 {
	const second = 1_000_000
	n := t.unix()
	switch {
	case n > math.MaxInt64/second:
		n = math.MaxInt64
	case n < math.MinInt64/second:
		n = math.MinInt64
	default:
		n *= second
	}
	return n + int64(t.near.Nanosecond()/1000)
}

func (t pgTime) millis() int64 { return t.unix()*1000 + int64(t.near.Nanosecond()/1_000_000) }

// appendISO appends the time by a layout that begins with the year, which Java gives
// a sign when it has more than four digits or is before the year 0.
func (t pgTime) appendISO(dst []byte, layout string) []byte {
	const digits = len("2006")
	switch year := int64(t.near.Year()) + t.cycles*cycle; {
	case year > 9999:
		dst = strconv.AppendInt(append(dst, '+'), year, 10)
	case year < 0:
		dst = fmt.Appendf(dst, "-%04d", -year)
	default:
		dst = format.AppendDigits(dst, int(year), digits)
	}
	return t.near.AppendFormat(dst, layout[digits:])
}

// infinity is what Debezium makes of infinity and -infinity in each type.
type infinity struct {
	zoned          string
	micros, millis int64
	date           int64
}

var infinities = map[string]infinity{
	"infinity":  {"infinity", math.MaxInt64, 9223372036825200000, 2146033979},
	"-infinity": {"-infinity", math.MinInt64, -9223372036832400000, -2147472691},
}

// appendTime appends a date or timestamp in its Connect form.
func appendTime(dst, v []byte, typ uint32, a format.Attribute) ([]byte, error) {
	if len(v) > 0 && v[len(v)-1] == 'y' {
		if inf, ok := infinities[string(v)]; ok {
			switch {
			case typ == decoder.DateOID:
				return strconv.AppendInt(dst, inf.date, 10), nil
			case typ == decoder.TimestampTZOID:
				return append(dst, inf.zoned...), nil
			case millis(a):
				return strconv.AppendInt(dst, inf.millis, 10), nil
			}
			return strconv.AppendInt(dst, inf.micros, 10), nil
		}
	}
	if typ == decoder.DateOID {
		var buf [len("5874897-12-31 00:00:00 BC")]byte
		day, before := bytes.CutSuffix(v, []byte(" BC"))
		text := append(append(buf[:0], day...), " 00:00:00"...)
		if before {
			text = append(text, " BC"...)
		}
		t, ok := parsePGTime(text)
		if !ok {
			return dst, fmt.Errorf("%s is not a date", decoder.Excerpt(v))
		}
		return strconv.AppendInt(dst, t.unix()/(24*60*60), 10), nil
	}
	t, ok := parsePGTime(v)
	switch {
	case !ok:
		return dst, fmt.Errorf("%s is not a time", decoder.Excerpt(v))
	case typ == decoder.TimestampTZOID:
		return t.appendISO(dst, zonedTimestamp(a)), nil
	case millis(a):
		return strconv.AppendInt(dst, t.millis(), 10), nil
	}
	return strconv.AppendInt(dst, t.micros(), 10), nil
}
