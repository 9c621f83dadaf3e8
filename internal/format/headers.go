package format

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"outboxd/decoder"
	"outboxd/internal/record"
)

// Plain is the default of value.headers: the event's own columns and its position.
var Plain Headers = plain{}

// None are no headers at all, not even those from columns.
var None Headers = none{}

type none struct{}

func (none) Append(*Event, *record.Record) error { return nil }
func (none) Own() []string                       { return nil }
func (none) Columns() bool                       { return false }

type plain struct{}

func (plain) Append(ev *Event, r *record.Record) error {
	h := r.Headers // written back once: this is the way of nearly every event
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		h = appendField(h, f.String(), ev.Values[f], ev.Types[f])
	}
	if ev.Position != (decoder.Position{}) { // of an event that was read from the table
		h = append(h, record.Header{Key: "position", Value: ev.Position.AppendText(r.PositionText[:0])})
	}
	for f := decoder.Version; f < decoder.Timestamp; f++ {
		h = appendField(h, f.String(), ev.Values[f], ev.Types[f])
	}
	if ev.Values[decoder.Timestamp] != nil {
		h = append(h, record.Header{Key: "timestamp", Value: AppendTime(r.TimeText[:0], ev.Time)})
	}
	r.Headers = h
	return nil
}

func (plain) Own() []string {
	return []string{
		"id", "type", "aggregate_type", "aggregate_id", "position",
		"version", "schema_version", "correlation_id", "causation_id", "traceparent", "timestamp",
	}
}

func (plain) Columns() bool { return true }

// headers writes the headers, in the order that consumers are promised. What is
// not of value.headers comes last. A NULL gives no header.
func (e *Encoder) headers(ev *Event, r *record.Record) error {
	if err := e.o.Headers.Append(ev, r); err != nil {
		return err
	}
	if e.o.Headers.Columns() {
		for i := range e.o.Columns {
			AddField(ev, r, e.o.Columns[i].Key, e.o.Columns[i].Field)
		}
		if f := e.o.Object; int(f) >= decoder.NumFields && ev.Values[f] != nil {
			if err := e.members(ev, ev.Values[f], r); err != nil {
				return err
			}
		}
	}
	if len(e.contentType) > 0 && !ev.Tombstone {
		r.AddHeader(ContentTypeHeader, e.contentType)
	}
	if e.o.Replayed {
		r.AddHeader("replayed", trueText)
	}
	if e.o.Retried {
		r.AddHeader("dead_letter_retry", trueText)
	}
	return nil
}

// AddField writes a column's text as a header, none for NULL. PostgreSQL prints a
// boolean t or f.
func AddField(ev *Event, r *record.Record, key string, f decoder.Field) {
	r.Headers = appendField(r.Headers, key, ev.Values[f], ev.Types[f])
}

func appendField(h []record.Header, key string, v []byte, typ uint32) []record.Header {
	if v == nil {
		return h
	}
	if typ == decoder.BoolOID {
		v = BoolText(v)
	}
	return append(h, record.Header{Key: key, Value: v})
}

// BoolText is what Java and JSON call a boolean, whose text PostgreSQL begins with t
// or f. It must not be changed.
func BoolText(v []byte) []byte {
	if len(v) > 0 && v[0] == 't' {
		return trueText
	}
	return falseText
}

var trueText, falseText = []byte("true"), []byte("false")

// ContentTypeHeader is the header that names a value's media type.
const ContentTypeHeader = "content-type"

// members writes the members of a JSON object: a string's characters, null not at
// all, and everything else as its JSON text. Values are views of the object, but
// for strings with escapes. Of members with one name the last counts, in the first's
// place, as in PostgreSQL's jsonb.
func (e *Encoder) members(ev *Event, object []byte, r *record.Record) (err error) {
	o := gjson.ParseBytes(object)
	if !o.IsObject() {
		return errors.New("its headers (outbox.headers_column) are not a JSON object")
	}
	first := len(r.Headers)
	clear(e.written) // of the last event that had more than fewHeaders
	o.ForEach(func(key, value gjson.Result) bool {
		var text []byte
		name, nameErr := decoder.JSONText(object[key.Index : key.Index+len(key.Raw)])
		if nameErr != nil {
			err = fmt.Errorf("the name %s in its headers (outbox.headers_column) %w", decoder.Cut(key.Raw), nameErr)
			return false
		}
		switch text = object[value.Index : value.Index+len(value.Raw)]; value.Type {
		case gjson.Null:
			text = nil
		case gjson.String:
			if text, err = decoder.JSONText(text); err != nil {
				err = fmt.Errorf("its header %s (outbox.headers_column) %w", decoder.Excerpt(name), err)
				return false
			}
		}
		if e.isOwn(string(name)) {
			if e.o.OnLeftOut != nil {
				e.o.OnLeftOut(ev.Event, string(name))
			}
			return true
		}
		if at := e.find(r.Headers[first:], name); at >= 0 {
			r.Headers[first+at].Value = text
			return true
		}
		r.AddHeader(string(name), text) // a copy: a view would hold a copy of the whole object
		if n := len(r.Headers) - first; n > fewHeaders {
			e.written[r.Headers[first+n-1].Key] = n - 1
		}
		return true
	})
	// A null is no header, but takes the place of what was written before it.
	kept := r.Headers[:first]
	for _, h := range r.Headers[first:] {
		if h.Value != nil {
			kept = append(kept, h)
		}
	}
	clear(r.Headers[len(kept):])
	r.Headers = kept
	return err
}

// fewHeaders is up to how many headers are searched one by one.
const fewHeaders = 16

// find returns the place of a header, -1 for none.
func (e *Encoder) find(headers []record.Header, name []byte) int {
	if len(headers) <= fewHeaders {
		return slices.IndexFunc(headers, func(h record.Header) bool { return h.Key == string(name) })
	}
	if len(e.written) < len(headers) {
		for i := range headers {
			e.written[headers[i].Key] = i
		}
	}
	if i, ok := e.written[string(name)]; ok {
		return i
	}
	return -1
}
