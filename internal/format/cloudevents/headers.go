package cloudevents

import (
	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// Headers writes the attributes of a CloudEvent, "Kafka Protocol Binding for
// CloudEvents", version 1.0.2, binary content mode.
type Headers struct{}

// Append appends them.
func (Headers) Append(ev *format.Event, r *record.Record) error {
	if err := check(ev); err != nil {
		return err
	}
	r.AddHeader("ce_specversion", specVersion)
	format.AddField(ev, r, "ce_id", decoder.ID)
	r.AddHeader("ce_source", ev.Outbox.Source)
	format.AddField(ev, r, "ce_type", decoder.Type)
	if len(ev.Values[decoder.AggregateID]) > 0 {
		format.AddField(ev, r, "ce_subject", decoder.AggregateID)
	}
	if at := format.EventTime(ev); !at.IsZero() { // of an event that was read from the table
		r.AddHeader("ce_time", format.AppendTime(r.TimeText[:0], at))
	}
	if len(r.Key) > 0 {
		r.AddHeader("ce_partitionkey", r.Key)
	}
	if ev.Position != (decoder.Position{}) {
		r.AddHeader("ce_sequence", ev.Position.AppendText(r.PositionText[:0]))
	}
	for _, e := range extensions {
		if len(ev.Values[e.field]) > 0 {
			format.AddField(ev, r, e.header, e.field)
		}
	}
	if !ev.Tombstone {
		r.AddHeader(format.ContentTypeHeader, contentType(ev))
	}
	return nil
}

// Own are their names.
func (Headers) Own() []string {
	return []string{
		"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_partitionkey", "ce_sequence",
		"ce_correlationid", "ce_causationid", "ce_traceparent", format.ContentTypeHeader,
	}
}

// Columns says that those from columns follow.
func (Headers) Columns() bool { return true }

var specVersion = []byte("1.0")
