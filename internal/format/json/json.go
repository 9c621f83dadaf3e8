// Package json is the format json: the event as one JSON object.
package json

import (
	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// Format writes an event as one JSON object. The order of its keys is promised; what
// is not mapped or NULL is absent.
type Format struct{}

// Value returns the object.
func (Format) Value(ev *format.Event, r *record.Record) (_ []byte, err error) {
	if ev.Tombstone {
		return nil, nil
	}
	o := format.NewObject(format.Sized(r.Buffer, ev), ev)
	o.Open()
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		o.Text(f.String(), f)
	}
	o.Integer("version", decoder.Version)
	o.Integer("schema_version", decoder.SchemaVersion)
	if ev.Values[decoder.Timestamp] != nil {
		o.Time("timestamp", ev.Time)
	}
	o.Time("committed_at", ev.CommittedAt)
	o.Text("correlation_id", decoder.CorrelationID)
	o.Text("causation_id", decoder.CausationID)
	o.Position("position")
	o.Payload("payload")
	r.Buffer, err = o.Close()
	return r.Buffer, err
}
