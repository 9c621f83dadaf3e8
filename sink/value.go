package sink

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"outboxd/decoder"
)

// ErrUndeliverable is wrapped by the errors of an event that can never be
// delivered as it is.
var ErrUndeliverable = errors.New("event cannot be delivered")

// Value says how a record's value and timestamp are made. See value.* in the
// configuration.
type Value struct {
	NullIsError      bool // a NULL payload is an error, not a tombstone
	EmptyIsTombstone bool // a payload of white space only is a tombstone
	TimestampNow     bool // the record's time is the time of sending, not of the commit
}

// raw returns the record's value: the payload's bytes, untouched. Nil is a
// tombstone.
func (v Value) raw(ev *decoder.Event) ([]byte, error) {
	payload := ev.Values[decoder.Payload]
	if payload == nil && v.NullIsError {
		return nil, fmt.Errorf("%w: its payload is NULL (value.null_payload: error)", ErrUndeliverable)
	}
	if v.EmptyIsTombstone && len(bytes.TrimSpace(payload)) == 0 {
		return nil, nil
	}
	return payload, nil
}

// timestamp returns the record's time. Kafka keeps milliseconds.
func (v Value) timestamp(ev *decoder.Event) time.Time {
	if v.TimestampNow {
		return time.Now()
	}
	return ev.CommittedAt
}
