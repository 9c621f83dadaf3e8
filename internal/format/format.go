// Package format turns a routed event into a finished record: it writes the form of its
// key, its headers, its value and its time. What each format writes is in the folder of
// its name; what they share is here.
package format

import (
	"errors"
	"fmt"
	"slices"

	"outboxd/decoder"
	"outboxd/internal/mask"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// Event is an event with what a format has to know beside it.
type Event struct {
	*decoder.Event
	// Tombstone says that its payload stands for a record without a value: it is
	// NULL or, with Options.EmptyIsTombstone, nothing but white space.
	Tombstone bool
	Outbox    *Outbox
}

// Format is what value.format names: how the value of a record is written. It belongs
// to one goroutine and outlives the session that uses it.
type Format interface {
	// Value returns the record's value, nil for a tombstone: the payload itself, or
	// what was encoded in r.Buffer, which is used again. An error is about this one
	// event, unless it is a *RegistryError, a *WaitError or ErrSchemaRefused.
	Value(ev *Event, r *record.Record) ([]byte, error)
}

// A Keyer is a Format that has a form of its own for keys.
type Keyer interface {
	// Key turns r.Key, which is the column's text and nil for NULL, into that form.
	Key(ev *Event, r *record.Record) error
}

// Headers is what value.headers names: the headers that outboxd writes itself, in the
// order that consumers are promised.
type Headers interface {
	// Append appends them.
	Append(ev *Event, r *record.Record) error
	// Own are the names that they may have, which no row gives.
	Own() []string
	// Columns says whether those of outbox.headers and outbox.headers_column follow.
	Columns() bool
}

// Outbox is what formats have to know of the table that events are from.
type Outbox struct {
	// Source is its CloudEvents source. It must not be changed.
	Source []byte
	// Attributes are those of each field's column.
	Attributes Attributes
	// Await runs what takes time on another goroutine, while the one that encodes
	// serves what else it is responsible for. It returns when f has ended, with an
	// error if the waiting went wrong. nil: f is just called.
	Await func(f func()) error
}

// Wait runs f by Await. Its error is a *WaitError.
func (o *Outbox) Wait(f func()) error {
	if o.Await == nil {
		f()
		return nil
	}
	if err := o.Await(f); err != nil {
		return &WaitError{err}
	}
	return nil
}

// Attribute is what the catalog says of a column beside its type.
type Attribute struct {
	NotNull bool
	// Modifier is atttypmod: of a timestamp the number of its decimals, -1 when
	// none was given.
	Modifier int32
}

// Attributes are those of each field's column.
type Attributes []Attribute

// Of returns a field's attributes: none where the catalog was not asked.
func (a Attributes) Of(f decoder.Field) Attribute {
	if int(f) < len(a) {
		return a[f]
	}
	return Attribute{Modifier: -1}
}

// Options say how records are written. See value.* and outbox.headers in the
// configuration. The zero value writes the payload, and the headers of Plain.
type Options struct {
	Format  Format  // nil: Raw
	Headers Headers // nil: Plain
	// Columns are further headers from columns, in this order.
	Columns []ColumnHeader
	// Object is a column with a JSON object whose members become headers: a further
	// one of the table's, none if it is below decoder.NumFields.
	Object decoder.Field
	// OnLeftOut, if set, is told of its members that are left out.
	OnLeftOut LeftOut
	// ContentType, if not empty, is the last header, content-type, of records with
	// a value: it tells consumers its form.
	ContentType string
	// Replayed adds the header replayed: true, and Retried dead_letter_retry: true,
	// whatever the other headers are.
	Replayed, Retried bool

	NullIsError      bool    // a NULL payload is an error, not a tombstone
	EmptyIsTombstone bool    // a payload of white space only is a tombstone
	Schemas          Schemas // what payloads have to fit, before they are masked; nil: anything
	// Mask returns what masks payloads, by its keys as they are now; nil: nothing does.
	Mask  func() (*mask.Masker, error)
	Clock record.Clock // which time a record has
}

// ColumnHeader is a header from a column.
type ColumnHeader struct {
	Key   string
	Field decoder.Field
}

// Encoder writes records. It is used by one goroutine.
type Encoder struct {
	o      Options
	keyer  Keyer // nil: the key is the column's text
	outbox Outbox
	event  Event // the one at hand, used again

	masker  *mask.Masker // nil before Open, and without Options.Mask
	payload []byte       // of the event at hand, while it has a masked one

	contentType []byte
	own         map[string]bool
	written     map[string]int // see members
}

// New makes an encoder.
func New(o Options) *Encoder {
	if o.Format == nil {
		o.Format = Raw
	}
	if o.Headers == nil {
		o.Headers = Plain
	}
	e := &Encoder{o: o, contentType: []byte(o.ContentType), own: o.OwnNames(), written: make(map[string]int)}
	e.keyer, _ = o.Format.(Keyer)
	e.event.Outbox = &e.outbox
	return e
}

// Open tells of the outbox. It is called before the first event of each session. An
// error is that of reading the keys of value.mask, and may pass.
func (e *Encoder) Open(o Outbox) (err error) {
	e.outbox = o
	if e.o.Mask != nil {
		e.masker, err = e.o.Mask()
	}
	return err
}

// Mask returns what masks a payload that is shown in another way than by Encode; nil
// without value.mask.
func (e *Encoder) Mask() func(payload []byte) ([]byte, error) {
	if e.o.Mask == nil {
		return nil
	}
	return func(payload []byte) ([]byte, error) { return e.appendMasked(nil, payload) }
}

// appendMasked appends the payload with its parts masked. Without a Masker it is refused:
// it must not be shown as it is.
func (e *Encoder) appendMasked(dst, payload []byte) ([]byte, error) {
	if e.masker == nil {
		return nil, errors.New("the keys of value.mask could not be read")
	}
	masked, err := e.masker.Append(dst, payload)
	if err != nil {
		return nil, fmt.Errorf("%w (value.mask)", err)
	}
	return masked, nil
}

// Encode finishes a record that has its topic, key and partition. An error that is
// record.ErrUndeliverable concerns this event alone; ErrSchemaRefused needs an operator;
// another may pass.
func (e *Encoder) Encode(ev *decoder.Event, r *record.Record) error {
	if err := e.describe(ev, r); err != nil {
		return e.refused(err)
	}
	if err := e.encode(&e.event, r); err != nil {
		return e.refused(err)
	}
	e.release()
	return nil
}

// Describe is Encode without the value and the time: it asks nobody.
func (e *Encoder) Describe(ev *decoder.Event, r *record.Record) error {
	if err := e.describe(ev, r); err != nil {
		return e.refused(err)
	}
	e.release()
	return nil
}

// release lets go of the event, whose memory is not the encoder's to keep, and whose
// payload is again what it was.
func (e *Encoder) release() {
	if e.payload != nil {
		e.event.Values[decoder.Payload], e.payload = e.payload, nil
	}
	e.event.Event = nil
}

// refused lets go of the event and says what err is about.
func (e *Encoder) refused(err error) error {
	e.release()
	if concernsMore(err) {
		return err
	}
	return fmt.Errorf("%w: %w", record.ErrUndeliverable, err)
}

// describe writes the key and the headers.
func (e *Encoder) describe(ev *decoder.Event, r *record.Record) error {
	r.ID, r.Position, r.CommittedAt = ev.Values[decoder.ID], ev.Position, ev.CommittedAt
	e.event.Event, e.event.Tombstone = ev, isTombstone(ev, e.o.EmptyIsTombstone)
	if e.keyer != nil {
		if err := e.keyer.Key(&e.event, r); err != nil {
			return err
		}
	}
	err := e.headers(&e.event, r)
	if err != nil && poison.Of(err) == "" {
		err = poison.Headers.Mark(err)
	}
	return err
}

// encode writes the value and the time.
func (e *Encoder) encode(ev *Event, r *record.Record) (err error) {
	if err := e.prepare(ev, r); err != nil {
		return err
	}
	if r.Value, err = e.o.Format.Value(ev, r); err != nil {
		return err
	}
	r.Clock = e.o.Clock
	r.Timestamp, err = timestamp(ev, e.o.Clock)
	return err
}

// prepare is what happens to the payload before a format has it.
func (e *Encoder) prepare(ev *Event, r *record.Record) error {
	payload := ev.Values[decoder.Payload]
	if e.o.NullIsError && payload == nil {
		return poison.NullPayload.Mark(errors.New("its payload is NULL (value.null_payload: error)"))
	}
	if ev.Tombstone {
		return nil
	}
	if e.o.Schemas != nil {
		if err := e.o.Schemas.check(ev.Event, e.o.Mask != nil); err != nil {
			return poison.Schema.Mark(err)
		}
	}
	if e.o.Mask == nil {
		return nil
	}
	n := len(r.Scratch)
	scratch, err := e.appendMasked(r.Scratch, payload)
	if err != nil {
		return poison.Mask.Mark(err)
	}
	r.Scratch = scratch
	e.payload, ev.Values[decoder.Payload] = payload, scratch[n:len(scratch):len(scratch)]
	return nil
}

// Salvage adds to the record of an event that cannot be delivered the headers that can be
// made, and the form of its key. It knows no error.
func (e *Encoder) Salvage(ev *decoder.Event, r *record.Record) {
	e.event.Event, e.event.Tombstone = ev, isTombstone(ev, e.o.EmptyIsTombstone)
	if e.keyer != nil {
		if err := e.keyer.Key(&e.event, r); err != nil {
			r.Key = nil // what it would be is not known
		}
	}
	_ = e.headers(&e.event, r)
	e.release()
}

// Sized returns b, emptied, with room for the event, so that it seldom grows while
// it is written.
func Sized(b []byte, ev *Event) []byte {
	const names = 512
	n := names
	for _, v := range ev.Values {
		n += len(v)
	}
	if ev.Types[decoder.Payload] == decoder.ByteaOID {
		n += len(ev.Values[decoder.Payload])/3 + 4 // base64
	}
	return slices.Grow(b[:0], n)
}
