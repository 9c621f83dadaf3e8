// Package cloudevents is the format cloudevents, which is CloudEvents' JSON format
// (structured mode), and the headers of the same name, which are the binary mode of its
// Kafka binding.
package cloudevents

import (
	"fmt"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// ContentType is the content type of a record of the format.
const ContentType = "application/cloudevents+json; charset=UTF-8"

// Format writes an event in CloudEvents' JSON format, version 1.0.2.
type Format struct{}

// Value returns the object.
func (Format) Value(ev *format.Event, r *record.Record) (_ []byte, err error) {
	if ev.Tombstone {
		return nil, nil
	}
	if err := check(ev); err != nil {
		return nil, err
	}
	o := format.NewObject(format.Sized(r.Buffer, ev), ev)
	o.Open()
	o.String("specversion", "1.0")
	o.Text("id", decoder.ID)
	o.Key("source")
	o.Quoted(ev.Outbox.Source)
	o.Text("type", decoder.Type)
	if len(ev.Values[decoder.AggregateID]) > 0 {
		o.Text("subject", decoder.AggregateID)
	}
	o.Time("time", format.EventTime(ev))
	o.Key("datacontenttype")
	o.Quoted(contentType(ev))
	if len(r.Key) > 0 {
		o.Key("partitionkey")
		if !o.Quoted(r.Key) {
			o.Refuse("key", "route.key")
		}
	}
	o.Position("sequence")
	for _, e := range extensions {
		if len(ev.Values[e.field]) > 0 {
			o.Text(e.name, e.field)
		}
	}
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		o.Payload("data_base64")
	} else {
		o.Payload("data")
	}
	r.Buffer, err = o.Close()
	return r.Buffer, err
}

// check refuses an event without what every CloudEvent has.
func check(ev *format.Event) error {
	for _, f := range [...]decoder.Field{decoder.ID, decoder.Type} {
		if len(ev.Values[f]) == 0 {
			return poison.MissingField.Mark(fmt.Errorf("its %s (outbox.columns.%s) is NULL or empty, which no CloudEvent may have", f, f))
		}
	}
	return nil
}

// extensions are the attributes of a CloudEvent that are columns of their own.
// CloudEvents knows no empty attribute: an empty column is left out like NULL.
var extensions = [...]struct {
	name, header string
	field        decoder.Field
}{
	{"correlationid", "ce_correlationid", decoder.CorrelationID},
	{"causationid", "ce_causationid", decoder.CausationID},
	{"traceparent", "ce_traceparent", decoder.TraceParent},
}

// contentType is the media type of the event's payload. It must not be changed.
func contentType(ev *format.Event) []byte {
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
