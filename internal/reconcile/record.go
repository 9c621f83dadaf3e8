package reconcile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/tidwall/gjson"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
)

// Form says where records of a configuration carry what they are compared by.
type Form struct {
	// Headers and Format are value.headers and value.format.
	Headers, Format string
	// JSON says that headers are JSON, as Kafka Connect's JsonConverter writes them.
	JSON bool
	// ValueDiffers says why values cannot be compared although nothing is wrong, ""
	// if they can.
	ValueDiffers string
	// shadow is for records of another publisher; nil: they are the connector's.
	shadow *Shadow
}

// ErrNoID is the error of a configuration whose records do not name their event.
var ErrNoID = errors.New("the records do not carry the event's id, so that rows and records cannot be told apart by it; " +
	"set value.headers to plain, cloudevents or debezium, or value.format to json or cloudevents, and compare what is published from then on")

// check completes the form, and refuses one in which nothing can be compared.
func (f *Form) check() error {
	if f.shadow != nil {
		return f.shadow.check(f.Format)
	}
	if f.Headers == "none" && !f.envelope() {
		return ErrNoID
	}
	if f.Format == "avro" {
		f.ValueDiffers = "values are Avro, whose bytes depend on when they were written; topic and key are compared"
	}
	return nil
}

// envelope reports whether the value carries what the event is.
func (f *Form) envelope() bool { return f.Format == "json" || f.Format == "cloudevents" }

// Ordered reports whether records carry their position.
func (f *Form) Ordered() bool {
	return f.Headers == "plain" || f.Headers == "cloudevents" || f.envelope()
}

// seen is what a record says of its event. Its texts are views of the record.
type seen struct {
	id        []byte // nil: none
	position  decoder.Position
	committed time.Time // zero: it does not say
	// again says that it was published again by an operator.
	again bool
}

// read returns what a record says.
func (f Form) read(r *kgo.Record) (s seen) {
	if f.shadow != nil {
		s.id = at(f.shadow.ID, r)
		return s
	}
	var position []byte
	for i := range r.Headers {
		h := &r.Headers[i]
		switch h.Key {
		case "id":
			if f.Headers == "plain" || f.Headers == "debezium" {
				s.id = f.text(h.Value)
			}
		case "ce_id":
			if f.Headers == "cloudevents" {
				s.id = h.Value
			}
		case "position":
			if f.Headers == "plain" {
				position = h.Value
			}
		case "ce_sequence":
			if f.Headers == "cloudevents" {
				position = h.Value
			}
		case "replayed", "dead_letter_retry":
			s.again = s.again || string(h.Value) == "true"
		}
	}
	names := envelopes[f.Format]
	if names.position != "" && r.Value != nil {
		if s.id == nil && f.Headers == "none" {
			s.id = member(r.Value, "id")
		}
		if position == nil {
			position = member(r.Value, names.position)
		}
		if f.Format == "json" {
			if t, err := time.Parse(time.RFC3339Nano, string(member(r.Value, "committed_at"))); err == nil && t.Year() > 1 {
				s.committed = t
			}
		}
	}
	s.position = parsePosition(position)
	return s
}

// text is the text of a header, which Connect's JsonConverter may have written.
func (f Form) text(v []byte) []byte {
	if !f.JSON || v == nil {
		return v
	}
	j := gjson.ParseBytes(v)
	if j.IsObject() {
		j = j.Get("payload")
	}
	if j.Type == gjson.String {
		return []byte(j.Str)
	}
	return []byte(j.Raw)
}

// envelopes are the members of an envelope that say what a table does not keep.
var envelopes = map[string]struct{ position, time string }{
	"json":        {"position", "committed_at"},
	"cloudevents": {"sequence", "time"},
}

func member(object []byte, name string) []byte {
	m := gjson.GetBytes(object, name)
	if m.Type != gjson.String {
		return nil
	}
	return []byte(m.Str)
}

// parsePosition returns the position that a text names, zero if none.
func parsePosition(text []byte) (p decoder.Position) {
	if len(text) != decoder.PositionLen || text[16] != '-' {
		return p
	}
	lsn, err1 := strconv.ParseUint(string(text[:16]), 16, 64)
	number, err2 := strconv.ParseUint(string(text[17:]), 16, 32)
	if err1 != nil || err2 != nil {
		return p
	}
	return decoder.Position{CommitLSN: pglogrepl.LSN(lsn), Number: uint32(number)}
}

// strip returns what is left of an envelope without two of its members, which stand in
// this order, as outboxd writes it.
func strip(envelope []byte, first, second string) (parts [3][]byte) {
	b1, e1 := span(envelope, first)
	b2, e2 := span(envelope, second)
	if b2 < e1 {
		b2, e2 = e1, e1
	}
	return [3][]byte{envelope[:b1], envelope[e1:b2], envelope[e2:]}
}

// span returns where a member of an envelope and the comma before it stand.
func span(envelope []byte, name string) (begin, end int) {
	m := gjson.GetBytes(envelope, name)
	key := `,"` + name + `":`
	begin, end = m.Index-len(key), m.Index+len(m.Raw)
	if !m.Exists() || begin < 0 || end > len(envelope) || string(envelope[begin:m.Index]) != key {
		return 0, 0
	}
	return begin, end
}

// digest is what a record is compared by: eight bytes for topic and key, and eight for
// the value.
type digest [16]byte

// digester computes digests. It is used by one goroutine.
type digester struct {
	form Form
	h    hash.Hash
	sum  []byte
}

func newDigester(f Form) *digester { return &digester{form: f, h: sha256.New()} }

// of returns the digest of a record of an event. The id is part of both halves, so that
// sums of digests can be compared. A value is compared without what the table does not
// keep: position and commit time.
func (d *digester) of(id []byte, topic string, key, value []byte) (sum digest) {
	d.begin(id)
	d.part([]byte(topic))
	if key != nil {
		d.part(key)
	}
	copy(sum[:8], d.end())
	if d.form.ValueDiffers != "" {
		return sum
	}
	d.begin(id)
	if value == nil {
		d.h.Write([]byte{0})
	} else if d.form.shadow != nil {
		d.h.Write(d.form.shadow.canonical(value))
	} else if names := envelopes[d.form.Format]; names.position == "" {
		d.h.Write(value)
	} else {
		for _, part := range strip(value, names.time, names.position) {
			d.h.Write(part)
		}
	}
	copy(sum[8:], d.end())
	return sum
}

func (d *digester) begin(id []byte) {
	d.h.Reset()
	d.part(id)
}

func (d *digester) part(b []byte) {
	d.sum = binary.AppendUvarint(d.sum[:0], uint64(len(b)))
	d.h.Write(d.sum)
	d.h.Write(b)
}

func (d *digester) end() []byte {
	d.sum = d.h.Sum(d.sum[:0])
	return d.sum
}

// difference says what differs between what a row gives and a record.
func difference(row, record digest, expected, topic string) string {
	switch {
	case expected != topic:
		return fmt.Sprintf("it is in topic %q, and belongs to %q", topic, expected)
	case !bytes.Equal(row[:8], record[:8]):
		return "its key is another"
	}
	return "its value is another"
}
