package format

import (
	"bytes"
	"fmt"
	"time"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// EventTime is when the event happened: its business time if it has one, else
// the time of the commit.
func EventTime(ev *Event) time.Time {
	if ev.Values[decoder.Timestamp] != nil {
		return ev.Time
	}
	return ev.CommittedAt
}

// timestamp returns the record's time. Kafka keeps milliseconds since 1970.
func timestamp(ev *Event, clock record.Clock) (time.Time, error) {
	switch clock {
	case record.SendTime:
		return time.Now(), nil
	case record.BusinessTime:
		if ev.Values[decoder.Timestamp] == nil {
			break
		}
		t := ev.Time
		if t.UnixMilli() < 0 {
			return t, poison.Timestamp.Mark(fmt.Errorf("its time (outbox.columns.timestamp) %s is before 1970, which no Kafka record can have", t))
		}
		return t, nil
	}
	return CommitTime(ev), nil
}

// CommitTime is when the event was committed, as far as is known: of what was read from
// the table only its business time may be, or nothing. Then it is now.
func CommitTime(ev *Event) time.Time {
	t := ev.CommittedAt
	if t.IsZero() {
		t = EventTime(ev)
	}
	if t.IsZero() {
		t = time.Now()
	}
	return t
}

// isTombstone reports whether the event's record has no value: its payload is NULL
// or, if empty is true, nothing but white space.
func isTombstone(ev *decoder.Event, empty bool) bool {
	payload := ev.Values[decoder.Payload]
	return payload == nil || empty && len(bytes.TrimSpace(payload)) == 0
}

// AppendTime appends a time in record.TimeFormat. Its year has four digits.
// time.AppendFormat reads its layout anew each time, at several times the cost.
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	var b [len(record.TimeFormat)]byte
	copy(b[:], "0000-00-00T00:00:00.000000Z")
	putDigits(b[0:4], year)
	putDigits(b[5:7], int(month))
	putDigits(b[8:10], day)
	putDigits(b[11:13], hour)
	putDigits(b[14:16], minute)
	putDigits(b[17:19], second)
	putDigits(b[20:26], t.Nanosecond()/1000)
	return append(dst, b[:]...)
}

// AppendDigits appends a number that is not negative and has at most so many digits,
// with zeros before it.
func AppendDigits(dst []byte, n, digits int) []byte {
	at := len(dst)
	for range digits {
		dst = append(dst, '0')
	}
	putDigits(dst[at:], n)
	return dst
}

// putDigits writes a number, or its last digits, at the end of dst, which is zeros.
func putDigits(dst []byte, n int) {
	for i := len(dst) - 1; n > 0 && i >= 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
}
