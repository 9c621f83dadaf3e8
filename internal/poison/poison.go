// Package poison names why an event can never be delivered as it is. Whoever finds
// that out marks the error; what becomes of the event is others' matter.
package poison

import "errors"

// Kind is why an event can never be delivered as it is: the header error.kind of its
// dead letter, and the label of a metric. The list is closed.
type Kind string

const (
	IllegalTopic   Kind = "illegal_topic"   // no Kafka topic can have the name that the row makes
	ForbiddenTopic Kind = "forbidden_topic" // route.forbidden, or a topic of outboxd's or Kafka's own
	NoRoute        Kind = "no_route"        // a column that names the topic is NULL
	NullKey        Kind = "null_key"        // the column of route.key is NULL
	Partition      Kind = "partition"       // the partition that the row names is not there
	Headers        Kind = "headers"         // a header cannot be written
	MissingField   Kind = "missing_field"   // a field that the format needs is NULL or empty
	NullPayload    Kind = "null_payload"    // with value.null_payload: error
	Schema         Kind = "schema"          // the payload does not fit its schema
	Mask           Kind = "mask"            // nobody can say what value.mask has to mask
	Encoding       Kind = "encoding"        // the value cannot be written in value.format
	TooLarge       Kind = "too_large"       // larger than the topic takes
	Timestamp      Kind = "timestamp"       // a time that the topic, or Kafka, refuses
	ColumnMissing  Kind = "column_missing"  // a mapped column is no longer there
	Undecodable    Kind = "undecodable"     // the row, or the message, cannot be read
	Refused        Kind = "refused"         // the broker refuses the record for another reason
)

// Kinds are all of them, in the manual's order.
var Kinds = []Kind{
	IllegalTopic, ForbiddenTopic, NoRoute, NullKey, Partition, Headers, MissingField, NullPayload,
	Schema, Mask, Encoding, TooLarge, Timestamp, ColumnMissing, Undecodable, Refused,
}

// Mark says of which kind err is. nil stays nil.
func (k Kind) Mark(err error) error {
	if err == nil {
		return nil
	}
	return &marked{err, k}
}

// Of returns the kind that err was marked with last, "" when with none.
func Of(err error) Kind {
	var m *marked
	if errors.As(err, &m) {
		return m.kind
	}
	return ""
}

// marked is an error with its kind, which its text does not have.
type marked struct {
	error
	kind Kind
}

func (m *marked) Unwrap() error { return m.error }
