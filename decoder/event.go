// Package decoder turns the bytes of PostgreSQL's pgoutput plugin into outbox
// events. It is pure: it reads no clock and no network, and keeps only what the
// stream itself said about tables (the relation cache).
//
// The format is "Logical Replication Message Formats" in the PostgreSQL
// documentation, protocol version 1: only committed transactions arrive, whole
// and in commit order.
package decoder

import (
	"time"

	"outboxd/internal/event"
)

// Field is a column of the outbox table that is read: one of those below, or from
// NumFields on one of the further columns of a Table.
type Field int

// NoField stands for a field that is not read.
const NoField Field = -1

// The fields in the order in which headers name them.
const (
	ID Field = iota
	Type
	AggregateType
	AggregateID
	Version
	SchemaVersion
	CorrelationID
	CausationID
	TraceParent
	Timestamp
	Payload
	NumFields int = iota
)

var fieldNames = [NumFields]string{
	"id", "type", "aggregate_type", "aggregate_id", "version", "schema_version",
	"correlation_id", "causation_id", "traceparent", "timestamp", "payload",
}

// String returns the field's name in the configuration.
func (f Field) String() string {
	if f < 0 || int(f) >= NumFields {
		return "column"
	}
	return fieldNames[f]
}

// Position identifies an event.
type Position = event.Position

// PositionLen is the length of a position as text.
const PositionLen = event.PositionLen

// Event is one row inserted into the outbox table, or one message.
//
// Its byte slices are views of the frame it was decoded from, and valid as long
// as that frame's memory is.
type Event struct {
	// Position is zero for an event that was read from the table, which does not keep it.
	Position Position
	// CommittedAt is the time of the transaction's commit; zero: not known.
	CommittedAt time.Time
	// Values holds the text of each field's column, as PostgreSQL prints it; nil
	// is NULL or not mapped, an empty text is not nil. The payload of a bytea
	// column is the bytes themselves.
	Values [][]byte
	// Types holds the OID of each field's type, of the base type for a domain. It
	// is valid until the next event, and 0 where Values is nil for ever.
	Types []uint32
	// Time is the business time, when Values[Timestamp] is not nil.
	Time time.Time
}

// Type OIDs from PostgreSQL's pg_type.dat.
const (
	BoolOID        = 16
	ByteaOID       = 17
	Int8OID        = 20
	Int2OID        = 21
	Int4OID        = 23
	TextOID        = 25
	JSONOID        = 114
	Float4OID      = 700
	Float8OID      = 701
	VarcharOID     = 1043
	DateOID        = 1082
	TimestampOID   = 1114
	TimestampTZOID = 1184
	UUIDOID        = 2950
	JSONBOID       = 3802
)
