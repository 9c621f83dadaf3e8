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
	o.payload("payload")
	return o.close()
}

// appendCloudEvent appends the event in CloudEvents' JSON format, version 1.0.2.
func appendCloudEvent(b []byte, ev *decoder.Event, m *router.Message, source string) ([]byte, error) {
	for _, f := range [...]decoder.Field{decoder.ID, decoder.Type} {
		if len(ev.Values[f]) == 0 {
			return b, fmt.Errorf("its %s (outbox.columns.%s) is NULL or empty, which no CloudEvent may have", f, f)
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
	o.quoted(router.ContentType(ev))
	if len(m.Key) > 0 {
		o.key("partitionkey")
		if !o.quoted(m.Key) {
			o.refuse("key", "route.key")
		}
	}
	o.position("sequence")
	for _, e := range router.Extensions {
		if len(ev.Values[e.Field]) > 0 {
			o.text(e.Name, e.Field)
		}
	}
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		o.payload("data_base64")
	} else {
		o.payload("data")
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
	if !o.quoted(v) {
		o.refuseField(f)
	}
}

func (o *object) refuseField(f decoder.Field) { o.refuse(f.String(), "outbox.columns."+f.String()) }

// refuse remembers the first value that JSON cannot hold.
func (o *object) refuse(what, key string) {
	if o.err == nil {
		o.err = fmt.Errorf("its %s (%s) is not UTF-8, so it cannot be in JSON", what, key)
	}
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
	o.quoted([]byte(value))
}

func (o *object) time(name string, t time.Time) {
	o.key(name)
	o.b = append(o.b, '"')
	o.b = router.AppendTime(o.b, t)
	o.b = append(o.b, '"')
}

func (o *object) position(name string) {
	o.key(name)
	o.b = append(o.b, '"')
	o.b = o.ev.Position.AppendText(o.b)
	o.b = append(o.b, '"')
}

// payload writes JSON as it is, text as a string, and bytes in base64. A database
// in SQL_ASCII may hold JSON that is not UTF-8.
func (o *object) payload(name string) {
	v := o.ev.Values[decoder.Payload]
	if v == nil {
		return
	}
	o.key(name)
	switch o.ev.Types[decoder.Payload] {
	case decoder.JSONOID, decoder.JSONBOID:
		if o.b = append(o.b, v...); !utf8.Valid(v) {
			o.refuseField(decoder.Payload)
		}
	case decoder.ByteaOID:
		o.base64(v)
	default:
		if !o.quoted(v) {
			o.refuseField(decoder.Payload)
		}
	}
}

func (o *object) base64(v []byte) {
	o.b = append(o.b, '"')
	o.b = base64.StdEncoding.AppendEncode(o.b, v)
	o.b = append(o.b, '"')
}

// quoted writes a JSON string, and reports whether it is one: UTF-8.
func (o *object) quoted(v []byte) (ok bool) {
	ok = true
	o.b = append(o.b, '"')
	done := 0
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(v[i:])
			ok = ok && (r != utf8.RuneError || n > 1)
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
	return ok
}
