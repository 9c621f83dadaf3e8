package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// ByteSize is a number of bytes.
type ByteSize int64

const (
	kiB ByteSize = 1 << 10
	miB ByteSize = 1 << 20
	giB ByteSize = 1 << 30
	tiB ByteSize = 1 << 40
)

// units are tried in this order, so that B comes after those that end in it.
var units = []struct {
	suffix string
	bytes  ByteSize
}{
	{"KiB", kiB}, {"MiB", miB}, {"GiB", giB}, {"TiB", tiB},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1}, {"", 1},
}

var errSize = errors.New("is not a size such as 64MiB, 500KB or 1000000")

// UnmarshalText reads a whole number with an optional unit: KiB, MiB, GiB and
// TiB are powers of 1024; KB (or kB), MB, GB and TB are powers of 1000.
func (s *ByteSize) UnmarshalText(text []byte) error {
	for _, u := range units {
		digits, found := strings.CutSuffix(string(text), u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || ByteSize(n) > math.MaxInt64/u.bytes {
			return errSize
		}
		*s = ByteSize(n) * u.bytes
		return nil
	}
	return errSize
}

// MarshalText returns the text that UnmarshalText reads.
func (s ByteSize) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the size in the largest binary unit that it is a multiple of.
func (s ByteSize) String() string {
	for _, u := range []struct {
		suffix string
		bytes  ByteSize
	}{{"TiB", tiB}, {"GiB", giB}, {"MiB", miB}, {"KiB", kiB}} {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Rewind is how much WAL is held back: by age or by size, not both.
type Rewind struct {
	Age   time.Duration
	Bytes ByteSize
}

// IsZero reports that nothing is held back.
func (r Rewind) IsZero() bool { return r == Rewind{} }

// UnmarshalText reads a duration or a size.
func (r *Rewind) UnmarshalText(text []byte) error {
	if age, err := parseDuration(string(text)); err == nil && age >= 0 {
		*r = Rewind{Age: age}
		return nil
	}
	var size ByteSize
	if size.UnmarshalText(text) != nil {
		return errors.New("is neither a duration such as 24h or 7d nor a size such as 10GiB")
	}
	*r = Rewind{Bytes: size}
	return nil
}

// MarshalText returns the text that UnmarshalText reads.
func (r Rewind) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// String returns the age or the size.
func (r Rewind) String() string {
	if r.Bytes != 0 {
		return r.Bytes.String()
	}
	return r.Age.String()
}

var errDuration = errors.New("is not a duration such as 100ms, 30s, 24h or 7d")

// parseDuration reads a Go duration, or whole days in front of one: 7d, 1d12h.
func parseDuration(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	before, after, found := strings.Cut(text, "d")
	if !found {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, errDuration
		}
		return d, nil
	}
	days, err := strconv.ParseUint(before, 10, 63)
	if err != nil || days > uint64(math.MaxInt64/day) {
		return 0, errDuration
	}
	d := time.Duration(days) * day
	if after == "" {
		return d, nil
	}
	rest, err := time.ParseDuration(after)
	if err != nil || rest < 0 || rest > math.MaxInt64-d {
		return 0, errDuration
	}
	return d + rest, nil
}
