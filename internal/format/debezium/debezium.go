// Package debezium is the format debezium: records that are, byte for byte, those of
// Debezium's outbox event router behind one of Kafka Connect's converters.
package debezium

import (
	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// Options say how records are written. See value.debezium in the configuration.
type Options struct {
	// Value, Key and Headers are the converters of each.
	Value, Key, Headers Converter
	// KeyField is the field that is the key, NoField for records without.
	KeyField decoder.Field
	// Columns are the headers from columns, for NewHeaders.
	Columns []format.ColumnHeader
	// Context is the topic prefix in Debezium's own headers, which are left out when
	// it is empty.
	Context string
	// Envelope are columns beside the payload, by their names in the value.
	Envelope []format.ColumnHeader
	Expand   *Expansion // nil: a JSON payload stays text
	// RouteBy is the field that the envelope's schema is named after, and
	// TopicPrefix and Table what comes before and behind.
	RouteBy            decoder.Field
	TopicPrefix, Table string
	// EmptyIsTombstone says that an empty payload gives a record without a value.
	EmptyIsTombstone bool
}

// Converter is one of Kafka Connect's converters.
type Converter int

const (
	String     Converter = iota
	JSON                 // without schemas
	JSONSchema           // with schemas
	Bytes                // of a bytea payload, as it is
)

// Format writes the key and the value. It is used by one goroutine, since it remembers
// schemas.
type Format struct {
	o Options
	// schemas remembers an envelope's schema for each version: it is named after
	// the first event that has it, as in Debezium.
	schemas map[string][]byte
	scratch []byte
}

// New returns the format.
func New(o Options) *Format { return &Format{o: o} }

// Key writes the key as its converter does. A NULL is no key as a string, and null in
// JSON.
func (f *Format) Key(ev *format.Event, r *record.Record) (err error) {
	if f.o.KeyField != decoder.NoField {
		r.Key, err = convert(ev, f.o.KeyField, f.o.Key, r)
	}
	return err
}

// convert returns a column as a converter writes it: nil for a NULL as a string.
func convert(ev *format.Event, f decoder.Field, by Converter, r *record.Record) (_ []byte, err error) {
	v, typ, attribute := ev.Values[f], ev.Types[f], ev.Outbox.Attributes.Of(f)
	switch {
	case by == String && v == nil:
		return nil, nil
	case by == String:
		return connectText(v, typ, attribute, &r.Scratch)
	}
	b := r.Scratch
	if by == JSONSchema {
		b = append(b, `{"schema":`...)
		b = appendSchema(b, typ, attribute, "")
		b = append(b, `,"payload":`...)
	}
	if v == nil {
		b = append(b, "null"...)
	} else if b, err = appendJSON(b, v, typ, attribute); err != nil {
		return nil, err
	}
	if by == JSONSchema {
		b = append(b, '}')
	}
	n := len(r.Scratch)
	r.Scratch = b
	return b[n:len(b):len(b)], nil
}
