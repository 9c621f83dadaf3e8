package router

import (
	"bytes"
	"time"

	"outboxd/decoder"
)

// EventTime is when the event happened: its business time if it has one, else
// the time of the commit.
func EventTime(ev *decoder.Event) time.Time {
	if ev.Values[decoder.Timestamp] != nil {
		return ev.Time
	}
	return ev.CommittedAt
}

// IsTombstone reports whether the event's record has no value: its payload is NULL
// or, if empty is true, nothing but white space.
func IsTombstone(ev *decoder.Event, empty bool) bool {
	payload := ev.Values[decoder.Payload]
	return payload == nil || empty && len(bytes.TrimSpace(payload)) == 0
}

// ContentType is the media type of the event's payload. It must not be changed.
func ContentType(ev *decoder.Event) []byte {
	switch ev.Types[decoder.Payload] {
	case decoder.JSONOID, decoder.JSONBOID:
		return jsonType
	case decoder.ByteaOID:
		return binaryType
	}
	return textType
}

var (
	jsonType   = []byte("application/json")
	binaryType = []byte("application/octet-stream")
	textType   = []byte("text/plain; charset=utf-8")
)

// AppendTime appends a time in TimeFormat. Its year has four digits.
// time.AppendFormat reads its layout anew each time, at several times the cost.
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, year, 4)
	dst = appendDigits(append(dst, '-'), int(month), 2)
	dst = appendDigits(append(dst, '-'), day, 2)
	dst = appendDigits(append(dst, 'T'), hour, 2)
	dst = appendDigits(append(dst, ':'), minute, 2)
	dst = appendDigits(append(dst, ':'), second, 2)
	dst = appendDigits(append(dst, '.'), t.Nanosecond()/1000, 6)
	return append(dst, 'Z')
}

func appendDigits(dst []byte, n, digits int) []byte {
	at := len(dst) + digits
	for range digits {
		dst = append(dst, '0')
	}
	for i := at - 1; n > 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}
