package decoder

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"outboxd/internal/poison"
)

// parseTime reads a business time: milliseconds since 1970, or a timestamp as
// PostgreSQL prints it with datestyle ISO, e.g. 2024-05-06 07:08:09.123456+00. A
// timestamp without a zone is taken for UTC.
//
// What RFC 3339 cannot say is refused: infinity, and years before 1 or after
// 9999.
func parseTime(b []byte, typ uint32) (time.Time, error) {
	t, ok := time.Time{}, false
	switch typ {
	case Int8OID, Int4OID, Int2OID:
		ms, err := strconv.ParseInt(string(b), 10, 64)
		t, ok = time.UnixMilli(ms).UTC(), err == nil
	case TimestampOID, TimestampTZOID:
		t, ok = ParseTimestamp(b)
	}
	return checkTime(b, t, ok)
}

func checkTime(b []byte, t time.Time, ok bool) (time.Time, error) {
	if !ok || t.Year() < 1 || t.Year() > 9999 {
		return t, poison.Timestamp.Mark(fmt.Errorf("%w: its time (outbox.columns.timestamp) %s is not one between the years 1 and 9999", ErrRow, Excerpt(b)))
	}
	return t, nil
}

// ParseTimestamp reads a timestamp as PostgreSQL prints it with datestyle ISO; one
// without a zone is taken for UTC. It does not know infinity, nor years before 1
// or after 9999.
func ParseTimestamp(b []byte) (time.Time, bool) {
	// Every part has a fixed place, as long as the year has four digits.
	if len(b) < 19 || b[4] != '-' || b[7] != '-' || b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return time.Time{}, false
	}
	var part [6]int
	for i, at := range [6][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		n, ok := digits(b[at[0]:at[1]])
		if !ok {
			return time.Time{}, false
		}
		part[i] = n
	}
	b = b[19:]
	nanos := 0
	if len(b) > 0 && b[0] == '.' {
		n := 1
		for scale := 100_000_000; n < len(b) && b[n] >= '0' && b[n] <= '9'; n, scale = n+1, scale/10 {
			nanos += int(b[n]-'0') * scale
		}
		b = b[n:]
	}
	offset, ok := zone(b)
	if !ok {
		return time.Time{}, false
	}
	t := time.Date(part[0], time.Month(part[1]), part[2], part[3], part[4], part[5], nanos, time.UTC)
	return t.Add(-offset), true
}

// zone reads an offset from UTC: nothing, or +hh, +hh:mm or +hh:mm:ss.
func zone(b []byte) (time.Duration, bool) {
	if len(b) == 0 {
		return 0, true
	}
	sign := time.Duration(1)
	switch b[0] {
	case '+':
	case '-':
		sign = -1
	default:
		return 0, false // BC
	}
	offset, unit := time.Duration(0), time.Hour
	for part := range bytes.SplitSeq(b[1:], []byte(":")) {
		n, ok := digits(part)
		if !ok || len(part) != 2 || unit < time.Second {
			return 0, false
		}
		offset += time.Duration(n) * unit
		unit /= 60
	}
	return sign * offset, true
}

func digits(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, len(b) > 0
}
