package router

import (
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
