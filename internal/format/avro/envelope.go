package avro

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/hamba/avro/v2"

	"outboxd/decoder"
	"outboxd/internal/format"
)

// envelopeText is the Avro schema of the envelope, as it is registered.
//
//go:embed envelope.avsc
var envelopeText string

// envelopeSchema is the same, parsed.
var envelopeSchema = avro.MustParse(envelopeText)

// appendEnvelope appends the event by envelopeSchema, field by field: what a
// schema's interpreter would have to look up is known here.
func appendEnvelope(b []byte, ev *format.Event) ([]byte, error) {
	e := envelope{b: b, ev: ev}
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		e.text(f)
	}
	e.long(decoder.Version)
	e.text(decoder.SchemaVersion)
	if ev.Values[decoder.Timestamp] == nil {
		e.branch(0)
	} else {
		e.branch(1)
		e.b = appendLong(e.b, ev.Time.UnixMicro())
	}
	e.b = appendLong(e.b, format.CommitTime(ev).UnixMicro())
	e.text(decoder.CorrelationID)
	e.text(decoder.CausationID)
	if ev.Position == (decoder.Position{}) { // of an event that was read from the table
		e.b = appendLong(e.b, 0)
	} else {
		e.b = appendLong(e.b, decoder.PositionLen)
		e.b = ev.Position.AppendText(e.b)
	}
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		e.branch(2)
		e.b = appendBytes(e.b, ev.Values[decoder.Payload])
	} else {
		e.text(decoder.Payload)
	}
	return e.b, e.err
}

// envelope writes an envelope's fields in Avro's binary encoding.
type envelope struct {
	b   []byte
	ev  *format.Event
	err error
}

// branch writes which type of a union follows.
func (e *envelope) branch(n int64) { e.b = appendLong(e.b, n) }

func (e *envelope) text(f decoder.Field) {
	v := e.ev.Values[f]
	if v == nil {
		e.branch(0)
		return
	}
	if !utf8.Valid(v) && e.err == nil {
		e.err = fmt.Errorf("%s is not UTF-8, so it cannot be an Avro string", f)
	}
	e.branch(1)
	e.b = appendBytes(e.b, v)
}

func (e *envelope) long(f decoder.Field) {
	v := e.ev.Values[f]
	if v == nil {
		e.branch(0)
		return
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil && e.err == nil {
		e.err = fmt.Errorf("%s is not an integer of 64 bits", f)
	}
	e.branch(1)
	e.b = appendLong(e.b, n)
}

// appendLong appends an int or long: a zigzag varint, which is Go's.
func appendLong(b []byte, n int64) []byte { return binary.AppendVarint(b, n) }

// appendBytes appends bytes, or a string.
func appendBytes[T []byte | string](b []byte, v T) []byte {
	return append(appendLong(b, int64(len(v))), v...)
}
