package sink

import (
	"encoding/base64"
	"fmt"
	"time"
	"unicode/utf8"

	"outboxd/decoder"
	"outboxd/router"
)

// appendEnvelope appends the event as one JSON object. The order of its keys is
// promised; what is not mapped or NULL is absent.
func appendEnvelope(b []byte, ev *decoder.Event) ([]byte, error) {
	o := object{b: b, ev: ev}
	o.open()
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		o.text(f.String(), f)
	}
	o.integer("version", decoder.Version)
	o.integer("schema_version", decoder.SchemaVersion)
	if ev.Values[decoder.Timestamp] != nil {
		o.time("timestamp", ev.Time)
	}
	o.time("committed_at", ev.CommittedAt)
	o.text("correlation_id", decoder.CorrelationID)
	o.text("causation_id", decoder.CausationID)
	o.position("position")
	o.payload("payload", "payload")
	return o.close()
}

// appendCloudEvent appends the event in CloudEvents' JSON format, version 1.0.2.
func appendCloudEvent(b []byte, ev *decoder.Event, m *router.Message, source string) ([]byte, error) {
	for _, f := range [...]decoder.Field{decoder.ID, decoder.Type} {
		if len(ev.Values[f]) == 0 {
			return b, fmt.Errorf("its %s is NULL or empty, which no CloudEvent may have", f)
		}
	}
	o := object{b: b, ev: ev}
	o.open()
	o.string("specversion", "1.0")
	o.text("id", decoder.ID)
	o.string("source", source)
	o.text("type", decoder.Type)
	if len(ev.Values[decoder.AggregateID]) > 0 {
		o.text("subject", decoder.AggregateID)
	}
	o.time("time", router.EventTime(ev))
	o.key("datacontenttype")
	o.quoted(router.ContentType(ev), "")
	if len(m.Key) > 0 {
		o.key("partitionkey")
		o.quoted(m.Key, "the key")
	}
	o.position("sequence")
	o.text("correlationid", decoder.CorrelationID)
	o.text("causationid", decoder.CausationID)
	o.text("traceparent", decoder.TraceParent)
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		o.payload("data_base64", "payload")
	} else {
		o.payload("data", "payload")
	}
	return o.close()
}

// object writes a JSON object of an event's fields.
type object struct {
	b   []byte
	ev  *decoder.Event
	err error
}

func (o *object) open() { o.b = append(o.b, '{') }

func (o *object) close() ([]byte, error) { return append(o.b, '}'), o.err }

func (o *object) key(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(name string, f decoder.Field) {
	v := o.ev.Values[f]
	if v == nil {
		return
	}
	o.key(name)
	o.quoted(v, f.String())
}

// integer writes a number without quotes where the column is one.
func (o *object) integer(name string, f decoder.Field) {
	switch o.ev.Types[f] {
	case decoder.Int2OID, decoder.Int4OID, decoder.Int8OID:
		if v := o.ev.Values[f]; v != nil {
			o.key(name)
			o.b = append(o.b, v...)
		}
	default:
		o.text(name, f)
	}
}

func (o *object) string(name, value string) {
	o.key(name)
	o.quoted([]byte(value), "")
}

func (o *object) time(name string, t time.Time) {
	o.key(name)
	o.b = append(o.b, '"')
	o.b = t.AppendFormat(o.b, router.TimeFormat)
	o.b = append(o.b, '"')
}

func (o *object) position(name string) {
	o.key(name)
	o.b = append(o.b, '"')
	o.b = o.ev.Position.AppendText(o.b)
	o.b = append(o.b, '"')
}

// payload writes JSON as it is, text as a string, and bytes in base64.
func (o *object) payload(name, what string) {
	v := o.ev.Values[decoder.Payload]
	if v == nil {
		return
	}
	o.key(name)
	switch o.ev.Types[decoder.Payload] {
	case decoder.JSONOID, decoder.JSONBOID:
		o.b = append(o.b, v...)
	case decoder.ByteaOID:
		o.base64(v)
	default:
		o.quoted(v, what)
	}
}

func (o *object) base64(v []byte) {
	o.b = append(o.b, '"')
	o.b = base64.StdEncoding.AppendEncode(o.b, v)
	o.b = append(o.b, '"')
}

// quoted writes a JSON string. what names the value in an error.
func (o *object) quoted(v []byte, what string) {
	o.b = append(o.b, '"')
	done := 0
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(v[i:])
			if r == utf8.RuneError && n == 1 && o.err == nil {
				o.err = fmt.Errorf("%s is not UTF-8, so it cannot be in JSON", what)
			}
			i += n
			continue
		case c >= ' ' && c != '"' && c != '\\':
			i++
			continue
		}
		o.b = append(o.b, v[done:i]...)
		switch c {
		case '"', '\\':
			o.b = append(o.b, '\\', c)
		case '\n':
			o.b = append(o.b, `\n`...)
		case '\r':
			o.b = append(o.b, `\r`...)
		case '\t':
			o.b = append(o.b, `\t`...)
		default:
			const hex = "0123456789abcdef"
			o.b = append(o.b, `\u00`...)
			o.b = append(o.b, hex[c>>4], hex[c&0xF])
		}
		i++
		done = i
	}
	o.b = append(o.b, v[done:]...)
	o.b = append(o.b, '"')
}
