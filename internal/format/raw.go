package format

import (
	"outboxd/decoder"
	"outboxd/internal/record"
)

// Raw is the format whose value is the payload itself.
var Raw Format = raw{}

type raw struct{}

func (raw) Value(ev *Event, _ *record.Record) ([]byte, error) {
	if ev.Tombstone {
		return nil, nil
	}
	return ev.Values[decoder.Payload], nil
}
