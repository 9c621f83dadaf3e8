// Package deadletter keeps events that can never be delivered as they are: it writes
// them as records of a topic of their own, reads them back, and makes the event again
// of which such a record was made. It knows neither the stream nor the sink.
package deadletter

import (
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/poison"
	"outboxd/router"
)

// Letter is one event that was set aside.
type Letter struct {
	Kind     poison.Kind
	Reason   string
	Position decoder.Position
	Topic    string    // where it would have gone, "" when that is not known
	Time     time.Time // when it was set aside
	Event    Event
	// Values are the texts of the columns of Event.Columns, in their order; nil is NULL.
	Values [][]byte
	// Key and Headers are those that the event's record would have had, as far as they
	// could be made.
	Key     []byte
	Headers []kgo.RecordHeader
	// Truncated says what is not whole: see Encode.
	Truncated Truncated

	// Partition and Offset are where it lies in its topic.
	Partition int32
	Offset    int64
}

// Event is what a dead letter says of its event beside the row's content, so that the
// event can be made again without asking the database: the header error.event.
type Event struct {
	Slot     string `json:"slot"`
	Database string `json:"database,omitempty"`
	Table    string `json:"table,omitempty"`
	// Prefix is that of a message; its content is in place of the row.
	Prefix      string    `json:"prefix,omitempty"`
	CommittedAt time.Time `json:"committed_at"`
	// Masked says that value.mask was applied to the payload, and Withheld that the
	// payload, or the message, was left out, since nobody could say what to mask.
	Masked   bool `json:"masked,omitempty"`
	Withheld bool `json:"withheld,omitempty"`
	// What the event was called by, nil where it is NULL or not mapped.
	ID            *string  `json:"id,omitempty"`
	Type          *string  `json:"type,omitempty"`
	AggregateType *string  `json:"aggregate_type,omitempty"`
	AggregateID   *string  `json:"aggregate_id,omitempty"`
	Columns       []Column `json:"columns"`
}

// Column is one column of the row, in the table's order.
type Column struct {
	Name string `json:"name"`
	// Type is the name of one of PostgreSQL's own types, or an OID.
	Type string `json:"type"`
	// Modifier is that of the type, absent for none: of a timestamp its decimals.
	Modifier *int32 `json:"modifier,omitempty"`
	NotNull  bool   `json:"not_null,omitempty"`
	// Hex says that the value's bytes are not UTF-8, and are written as \x and digits.
	Hex bool `json:"hex,omitempty"`
}

// contentColumn is what the content of a message is called in the record's value.
const contentColumn = "message"

// Source is what all events of one run have in common.
type Source struct {
	Slot, Database, Table, Prefix string
	// Attributes are what the catalog says of the columns, by name.
	Attributes map[string]format.Attribute
	// Mask masks a payload, as value.mask has it; nil: nothing is masked. Payload is the
	// column of payloads.
	Mask    func(payload []byte) ([]byte, error)
	Payload string
}

// Truncated is what was left out of a letter that would have been too large for its
// topic, with the bytes that it had.
type Truncated struct {
	Columns map[string]int `json:"columns,omitempty"`
	Headers map[string]int `json:"headers,omitempty"`
	Key     int            `json:"key,omitempty"`
}

func (t *Truncated) is() bool { return len(t.Columns) > 0 || len(t.Headers) > 0 || t.Key > 0 }

// maxName bounds what an event is called by in error.event: it is there to be found by.
const maxName = 1 << 10

// Made is what could be made of the event's record.
type Made struct {
	Topic   string
	Key     []byte
	Headers []kgo.RecordHeader
}

// New makes the dead letter of an event. The row is all that the stream said of it. The
// letter keeps views of the event, the row and what was made of them.
func New(ev *decoder.Event, row decoder.Row, made Made, cause error, source Source, now time.Time) *Letter {
	l := &Letter{
		Kind:     KindOf(cause),
		Reason:   cause.Error(),
		Position: ev.Position,
		Topic:    made.Topic,
		Time:     now.UTC(),
		Key:      made.Key,
		Headers:  made.Headers,
		Event: Event{
			Slot: source.Slot, Database: source.Database, Table: source.Table, CommittedAt: ev.CommittedAt,
			ID: name(ev, decoder.ID), Type: name(ev, decoder.Type),
			AggregateType: name(ev, decoder.AggregateType), AggregateID: name(ev, decoder.AggregateID),
		},
	}
	if row.Message != nil {
		l.Event.Prefix, l.Event.Table = source.Prefix, ""
		if source.Mask != nil {
			// The payload is a part of it.
			row.Message, l.Event.Withheld = nil, true
		}
		l.add(decoder.RowColumn{Name: contentColumn, Type: decoder.TextOID, Modifier: -1, Value: row.Message}, false)
	}
	for _, c := range row.Columns {
		a, known := source.Attributes[c.Name]
		if known {
			c.Modifier = a.Modifier // of a domain the stream does not say it
		}
		if source.Mask != nil && c.Name == source.Payload && c.Value != nil {
			var err error
			c.Value, err = masked(c, source.Mask)
			l.Event.Masked, l.Event.Withheld = err == nil, err != nil
		}
		l.add(c, a.NotNull)
	}
	return l
}

// masked returns the column's text with its payload masked.
func masked(c decoder.RowColumn, mask func([]byte) ([]byte, error)) ([]byte, error) {
	if c.Type != decoder.ByteaOID {
		return mask(c.Value)
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(string(c.Value), `\x`))
	if err != nil {
		return nil, err
	}
	if raw, err = mask(raw); err != nil {
		return nil, err
	}
	return hex.AppendEncode([]byte(`\x`), raw), nil
}

func (l *Letter) add(c decoder.RowColumn, notNull bool) {
	column := Column{Name: c.Name, Type: typeName(c.Type), NotNull: notNull, Hex: !isText(c.Value)}
	if c.Modifier != -1 {
		column.Modifier = &c.Modifier
	}
	l.Event.Columns = append(l.Event.Columns, column)
	l.Values = append(l.Values, c.Value)
}

func name(ev *decoder.Event, f decoder.Field) *string {
	if int(f) >= len(ev.Values) || ev.Values[f] == nil {
		return nil
	}
	text := cut(ev.Values[f])
	return &text
}

// cut shortens a name to maxName bytes.
func cut[T []byte | string](text T) string { return string(text[:min(len(text), maxName)]) }

// KindOf returns of which kind an error of an event is. One that nobody has marked is of
// the kind that most errors of its stage are.
func KindOf(err error) poison.Kind {
	switch kind := poison.Of(err); {
	case kind != "":
		return kind
	case errors.Is(err, decoder.ErrRow):
		return poison.Undecodable
	case errors.Is(err, router.ErrUnroutable):
		return poison.NoRoute
	}
	return poison.Encoding
}
