package format

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"outboxd/decoder"
)

// Object writes a JSON object of an event's fields.
type Object struct {
	B   []byte
	ev  *decoder.Event
	err error
}

// NewObject writes behind b.
func NewObject(b []byte, ev *Event) Object { return Object{B: b, ev: ev.Event} }

// Open begins the object.
func (o *Object) Open() { o.B = append(o.B, '{') }

// Close ends the object, and returns what was written and why it cannot be JSON.
func (o *Object) Close() ([]byte, error) { return append(o.B, '}'), o.err }

// Key writes a name, behind which a value is to follow.
func (o *Object) Key(name string) {
	if o.B[len(o.B)-1] != '{' {
		o.B = append(o.B, ',')
	}
	o.B = append(o.B, '"')
	o.B = append(o.B, name...)
	o.B = append(o.B, '"', ':')
}

// Text writes a column as a string, nothing for NULL.
func (o *Object) Text(name string, f decoder.Field) {
	v := o.ev.Values[f]
	if v == nil {
		return
	}
	o.Key(name)
	if !o.Quoted(v) {
		o.refuseField(f)
	}
}

func (o *Object) refuseField(f decoder.Field) { o.Refuse(f.String(), "outbox.columns."+f.String()) }

// Refuse remembers the first value that JSON cannot hold.
func (o *Object) Refuse(what, key string) {
	if o.err == nil {
		o.err = fmt.Errorf("its %s (%s) is not UTF-8, so it cannot be in JSON", what, key)
	}
}

// Integer writes a number without quotes where the column is one.
func (o *Object) Integer(name string, f decoder.Field) {
	switch o.ev.Types[f] {
	case decoder.Int2OID, decoder.Int4OID, decoder.Int8OID:
		if v := o.ev.Values[f]; len(v) > 0 {
			o.Key(name)
			o.B = append(o.B, v...)
		}
	default:
		o.Text(name, f)
	}
}

// String writes a text.
func (o *Object) String(name, value string) {
	o.Key(name)
	o.Quoted([]byte(value))
}

// Time writes a time in record.TimeFormat, if it is known.
func (o *Object) Time(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	o.Key(name)
	o.B = append(o.B, '"')
	o.B = AppendTime(o.B, t)
	o.B = append(o.B, '"')
}

// Position writes the event's position, if it has one: see decoder.Event.
func (o *Object) Position(name string) {
	if o.ev.Position == (decoder.Position{}) {
		return
	}
	o.Key(name)
	o.B = append(o.B, '"')
	o.B = o.ev.Position.AppendText(o.B)
	o.B = append(o.B, '"')
}

// Payload writes JSON as it is, text as a string, and bytes in base64. A database
// in SQL_ASCII may hold JSON that is not UTF-8.
func (o *Object) Payload(name string) {
	v := o.ev.Values[decoder.Payload]
	if v == nil {
		return
	}
	o.Key(name)
	switch o.ev.Types[decoder.Payload] {
	case decoder.JSONOID, decoder.JSONBOID:
		if o.B = append(o.B, v...); !utf8.Valid(v) {
			o.refuseField(decoder.Payload)
		}
	case decoder.ByteaOID:
		o.B = AppendBase64(o.B, v)
	default:
		if !o.Quoted(v) {
			o.refuseField(decoder.Payload)
		}
	}
}

// AppendBase64 appends bytes as a JSON string.
func AppendBase64(b, v []byte) []byte {
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, v)
	return append(b, '"')
}

// Quoted writes a JSON string, and reports whether it is one: UTF-8.
func (o *Object) Quoted(v []byte) (ok bool) {
	ok = true
	o.B = append(o.B, '"')
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
		o.B = append(o.B, v[done:i]...)
		switch c {
		case '"', '\\':
			o.B = append(o.B, '\\', c)
		case '\n':
			o.B = append(o.B, `\n`...)
		case '\r':
			o.B = append(o.B, `\r`...)
		case '\t':
			o.B = append(o.B, `\t`...)
		default:
			const hex = "0123456789abcdef"
			o.B = append(o.B, `\u00`...)
			o.B = append(o.B, hex[c>>4], hex[c&0xF])
		}
		i++
		done = i
	}
	o.B = append(o.B, v[done:]...)
	o.B = append(o.B, '"')
	return ok
}

// JSONPayload returns the payload when it is JSON.
func JSONPayload(ev *decoder.Event) ([]byte, error) {
	payload := ev.Values[decoder.Payload]
	switch ev.Types[decoder.Payload] {
	case decoder.JSONOID, decoder.JSONBOID:
		return payload, nil
	case decoder.ByteaOID:
		return nil, errors.New("its payload is bytea, not JSON")
	}
	// Valid also bounds the depth, which the parser does not.
	if !json.Valid(payload) {
		return nil, errors.New("its payload is not JSON")
	}
	return payload, nil
}
