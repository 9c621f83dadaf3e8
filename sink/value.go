package sink

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"outboxd/decoder"
	"outboxd/router"
)

// ErrUndeliverable is wrapped by the errors of an event that can never be
// delivered as it is.
var ErrUndeliverable = errors.New("event cannot be delivered")

// Value says how a record's value and timestamp are made. See value.* in the
// configuration.
type Value struct {
	Format           Format
	Source           string // the CloudEvents source
	NullIsError      bool   // a NULL payload is an error, not a tombstone
	EmptyIsTombstone bool   // a payload of white space only is a tombstone
	Timestamp        Timestamp
	Schemas          Schemas  // what payloads have to fit; nil: anything
	Avro             *Avro    // with AvroFormat
	Connect          *Connect // for format Debezium
}

// Format is the form of a record's value.
type Format int

const (
	Raw         Format = iota // the payload's own bytes
	JSON                      // an envelope
	CloudEvents               // CloudEvents' JSON format: structured mode
	AvroFormat                // Avro by a schema registry
	Debezium                  // as Debezium's outbox event router
)

// Timestamp says which time a record has.
type Timestamp int

const (
	CommitTime   Timestamp = iota
	BusinessTime           // of the timestamp column; the commit's where it is NULL
	SendTime
)

// encode returns the record's value, nil for a tombstone. It is the payload
// itself, or lies in the delivery's own memory.
func (v *Value) encode(ev *decoder.Event, d *Delivery) ([]byte, error) {
	payload := ev.Values[decoder.Payload]
	if payload == nil && v.NullIsError {
		return nil, fmt.Errorf("%w: its payload is NULL (value.null_payload: error)", ErrUndeliverable)
	}
	tombstone := router.IsTombstone(ev, v.EmptyIsTombstone)
	if !tombstone && v.Schemas != nil {
		if err := v.Schemas.check(ev); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUndeliverable, err)
		}
	}
	if v.Format == Debezium {
		return v.Connect.encode(ev, d, v.EmptyIsTombstone)
	}
	if tombstone {
		return nil, nil
	}
	var err error
	switch v.Format {
	case JSON:
		d.value, err = appendEnvelope(sized(d.value, ev), ev)
	case CloudEvents:
		d.value, err = appendCloudEvent(sized(d.value, ev), ev, &d.Message, v.Source)
	case AvroFormat:
		d.value, err = v.Avro.append(sized(d.value, ev), ev, d.Topic)
		if err != nil && concernsSubject(err) {
			return nil, err
		}
	default:
		return payload, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndeliverable, err)
	}
	return d.value, nil
}

// sized returns b, emptied, with room for the event, so that it seldom grows while
// it is written.
func sized(b []byte, ev *decoder.Event) []byte {
	const names = 512
	n := names
	for _, v := range ev.Values {
		n += len(v)
	}
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		n += len(ev.Values[decoder.Payload])/3 + 4 // base64
	}
	return slices.Grow(b[:0], n)
}

// concernsSubject tells errors that are not about the one event.
func concernsSubject(err error) bool {
	var registry *RegistryError
	return errors.As(err, &registry) || errors.Is(err, ErrSchemaRefused)
}

// timestamp returns the record's time. Kafka keeps milliseconds since 1970.
func (v *Value) timestamp(ev *decoder.Event) (time.Time, error) {
	switch v.Timestamp {
	case SendTime:
		return time.Now(), nil
	case BusinessTime:
		t := router.EventTime(ev)
		if t.UnixMilli() < 0 {
			return t, fmt.Errorf("%w: its time (outbox.columns.timestamp) %s is before 1970, which no Kafka record can have", ErrUndeliverable, t)
		}
		return t, nil
	}
	return ev.CommittedAt, nil
}
