package debezium

import (
	"fmt"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// Value returns the record's value, nil for a tombstone.
func (f *Format) Value(ev *format.Event, r *record.Record) (_ []byte, err error) {
	payload := ev.Values[decoder.Payload]
	if f.o.EmptyIsTombstone && f.isEmpty(ev) {
		return nil, nil
	}
	if len(f.o.Envelope) == 0 && (f.o.Value == String || f.o.Value == Bytes) {
		return payload, nil
	}
	b := r.Buffer[:0]
	switch f.o.Value {
	case JSONSchema:
		b = append(b, `{"schema":`...)
		b = f.schema(b, ev)
		b = append(b, `,"payload":`...)
		if b, err = f.object(b, ev); err == nil {
			b = append(b, '}')
		}
	case JSON:
		b, err = f.object(b, ev)
	default:
		b, err = f.print(b, ev)
	}
	if err != nil {
		return nil, err
	}
	r.Buffer = b
	return b, nil
}

// isEmpty tells what route.tombstone.on.empty.payload means: NULL, or a text that
// Java's trim makes empty. Bytes are never empty.
func (f *Format) isEmpty(ev *format.Event) bool {
	payload := ev.Values[decoder.Payload]
	if payload != nil && ev.Types[decoder.Payload] == decoder.ByteaOID {
		return false
	}
	for _, b := range payload {
		if b > ' ' {
			return false
		}
	}
	return true
}

// object appends the value as JSON: the payload, or an object with it and the
// envelope's columns.
func (f *Format) object(b []byte, ev *format.Event) (_ []byte, err error) {
	if len(f.o.Envelope) == 0 {
		return f.payload(b, ev)
	}
	b = append(b, `{"payload":`...)
	if b, err = f.payload(b, ev); err != nil {
		return b, err
	}
	for i := range f.o.Envelope {
		e := &f.o.Envelope[i]
		b = append(b, ',')
		b = appendString(b, []byte(e.Key))
		b = append(b, ':')
		v := ev.Values[e.Field]
		if v == nil {
			b = append(b, "null"...)
		} else if b, err = appendJSON(b, v, ev.Types[e.Field], ev.Outbox.Attributes.Of(e.Field)); err != nil {
			return b, fmt.Errorf("its column %q (value.debezium.envelope): %w", e.Key, err)
		}
	}
	return append(b, '}'), nil
}

func (f *Format) payload(b []byte, ev *format.Event) ([]byte, error) {
	v, typ := ev.Values[decoder.Payload], ev.Types[decoder.Payload]
	switch {
	case v == nil:
		return append(b, "null"...), nil
	case typ == decoder.ByteaOID:
		return format.AppendBase64(b, v), nil
	case f.o.Expand != nil:
		return f.o.Expand.append(b, v, len(f.o.Envelope) > 0)
	}
	return appendString(b, v), nil
}

// print appends the envelope as Java prints a Struct, which leaves out what is
// NULL.
func (f *Format) print(b []byte, ev *format.Event) ([]byte, error) {
	b = append(b, "Struct{"...)
	separator := ""
	if v := ev.Values[decoder.Payload]; v != nil {
		b = append(b, "payload="...)
		b = append(b, v...)
		separator = ","
	}
	for i := range f.o.Envelope {
		e := &f.o.Envelope[i]
		v := ev.Values[e.Field]
		if v == nil {
			continue
		}
		f.scratch = f.scratch[:0]
		printed, err := connectText(v, ev.Types[e.Field], ev.Outbox.Attributes.Of(e.Field), &f.scratch)
		if err != nil {
			return b, fmt.Errorf("its column %q (value.debezium.envelope): %w", e.Key, err)
		}
		b = append(b, separator...)
		b = append(b, e.Key...)
		b = append(b, '=')
		b = append(b, printed...)
		separator = ","
	}
	return append(b, '}'), nil
}

// schema appends the JSON schema of the value.
func (f *Format) schema(b []byte, ev *format.Event) []byte {
	if len(f.o.Envelope) == 0 {
		return appendSchema(b, ev.Types[decoder.Payload], ev.Outbox.Attributes.Of(decoder.Payload), "")
	}
	version := ev.Values[decoder.SchemaVersion]
	if known, ok := f.schemas[string(version)]; ok {
		return append(b, known...)
	}
	n := len(b)
	b = append(b, `{"type":"struct","fields":[`...)
	b = appendSchema(b, ev.Types[decoder.Payload], ev.Outbox.Attributes.Of(decoder.Payload), "payload")
	for _, e := range f.o.Envelope {
		b = append(b, ',')
		b = appendSchema(b, ev.Types[e.Field], ev.Outbox.Attributes.Of(e.Field), e.Key)
	}
	b = append(b, `],"optional":false,"name":`...)
	name := fmt.Sprintf("%s.%s.%s.Value", f.o.TopicPrefix, f.o.Table, ev.Values[f.o.RouteBy])
	b = appendString(b, []byte(name))
	if version != nil {
		b = append(b, `,"version":`...)
		b = append(b, version...)
	}
	b = append(b, '}')
	if f.schemas == nil || len(f.schemas) > maxSchemas {
		f.schemas = make(map[string][]byte)
	}
	f.schemas[string(version)] = append([]byte(nil), b[n:]...)
	return b
}

// maxSchemas bounds the memory of schemas against a version column that never
// repeats itself.
const maxSchemas = 10_000
