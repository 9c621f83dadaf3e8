// Package router turns an outbox event into a message for Kafka: its topic, its
// key, its partition and its headers. It is a pure function of the event and the
// rules.
package router

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
)

// ErrUnroutable is wrapped by every error of Route: the event can never be
// delivered as it is.
var ErrUnroutable = errors.New("event cannot be routed")

// Message is where an event goes and what describes it there. Its key and
// header values may be views of the event's memory.
type Message struct {
	// Topic is empty for an event that a rule discards.
	Topic string
	// Key is nil for a record without a key. Kafka's clients choose the
	// partition by murmur2 of a key that is not nil, even of an empty one.
	Key []byte
	// Partition is the partition that the event names, ByKey when none.
	Partition int32
	Headers   []Header

	// scratch holds what is not a view of the event.
	scratch  []byte
	position [decoder.PositionLen]byte
	time     [len(TimeFormat)]byte
}

// Reset makes the message ready for another event, and drops its views of this one:
// they would keep the event's memory.
func (m *Message) Reset() {
	clear(m.Headers)
	m.Key, m.Partition, m.Headers = nil, ByKey, m.Headers[:0]
	if m.scratch = m.scratch[:0]; cap(m.scratch) > keepScratch {
		m.scratch = nil
	}
}

// keepScratch is how much memory of converted texts a spare message keeps.
const keepScratch = 4 << 10

// Converted returns the bytes of memory that the message takes beside the event's:
// texts that were converted.
func (m *Message) Converted() int { return cap(m.scratch) }

// ByKey leaves the partition to the key.
const ByKey = -1

// MaxHeaders is the number of headers that Route writes unless the rules name
// further columns.
const MaxHeaders = decoder.NumFields + 5

// TimeFormat is RFC 3339 in UTC, with microseconds.
const TimeFormat = "2006-01-02T15:04:05.000000Z"

// Header is a Kafka record header, in the client's own form so that it is not
// copied once more.
type Header = kgo.RecordHeader

// Rules say where events go and how they are described. See route.*, outbox.headers
// and value.headers in the configuration.
type Rules struct {
	// Topic is a template: text, {type}, {aggregate_type}, {column:NAME}.
	Topic string
	// Overrides are tried before Topic; the first that matches wins.
	Overrides []Override
	// Regex, if set, makes the topic in place of Topic.
	Regex *Regex
	// Columns are the fields of the columns that templates name.
	Columns map[string]decoder.Field
	// Key is the field that is the record's key, NoField for records without.
	Key decoder.Field
	// KeyForm is how the key is written.
	KeyForm KeyForm
	// Partition is the field that names the partition, or NoField.
	Partition decoder.Field

	Style HeaderStyle
	// Headers are further headers from columns, in this order.
	Headers []ColumnHeader
	// HeadersColumn is a column with a JSON object whose members become headers,
	// or NoField.
	HeadersColumn decoder.Field
	// ContentType, if not empty, is the last header, content-type, of records with
	// a value: it tells consumers its form.
	ContentType string
	// Replayed adds the header replayed: true, to records of any style.
	Replayed bool
	// Source is the CloudEvents source, for that style.
	Source string
	// EmptyIsTombstone says that an empty payload gives a record without a value.
	EmptyIsTombstone bool
	// HeaderForm is how ConnectHeaders are written, and Context the topic prefix in
	// Debezium's own headers, which are left out when it is empty.
	HeaderForm KeyForm
	Context    string
	// Attributes are for what is written as Kafka Connect does.
	Attributes Attributes
}

// KeyForm is how a key is written.
type KeyForm int

const (
	PlainKey             KeyForm = iota // PostgreSQL's text; NULL is an error
	ConnectKey                          // as Connect's StringConverter; NULL is no key
	ConnectJSONKey                      // as its JsonConverter without schemas
	ConnectJSONSchemaKey                // as its JsonConverter with schemas
)

// Override sends the events that match both globs to another topic.
type Override struct {
	Type, AggregateType string // "" matches every event
	Topic               string // a template; "" discards
}

// ColumnHeader is a header from a column.
type ColumnHeader struct {
	Key   string
	Field decoder.Field
}

// Router applies the rules. It is used by one goroutine, since it remembers the
// topic names it has made.
type Router struct {
	rules               Rules
	topics              topics
	source, contentType []byte
	context             []Header // constant headers of ConnectHeaders
}

// New checks the rules.
func New(rules Rules) (*Router, error) {
	t, err := newTopics(rules)
	if err != nil {
		return nil, err
	}
	r := &Router{rules: rules, topics: t, source: []byte(rules.Source)}
	if rules.Context != "" {
		r.context = contextHeaders(rules.Context, rules.HeaderForm)
	}
	if rules.ContentType != "" {
		r.contentType = []byte(rules.ContentType)
	}
	return r, nil
}

// Route fills the message for an event, reusing the message's header slice.
func (r *Router) Route(ev *decoder.Event, m *Message) error {
	var err error
	m.Reset()
	if m.Topic, err = r.topics.of(ev); err != nil || m.Topic == "" {
		return err
	}
	if f := r.rules.Key; f != decoder.NoField {
		if err := r.key(ev, f, m); err != nil {
			return err
		}
	}
	if f := r.rules.Partition; f != decoder.NoField && ev.Values[f] != nil {
		n, err := strconv.ParseInt(string(ev.Values[f]), 10, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("%w: its partition (route.partition) is %.300q, not a partition's number", ErrUnroutable, ev.Values[f])
		}
		m.Partition = int32(n)
	}
	return r.describe(ev, m)
}

func (r *Router) key(ev *decoder.Event, f decoder.Field, m *Message) (err error) {
	v, typ, form := ev.Values[f], ev.Types[f], r.rules.KeyForm
	switch {
	case form == PlainKey && v == nil:
		return fmt.Errorf("%w: its key %s (route.key) is NULL", ErrUnroutable, r.rules.name(f))
	case form == PlainKey || form == ConnectKey && v == nil:
		m.Key = v
		return nil
	case form == ConnectKey:
		m.Key, err = ConnectText(v, typ, r.rules.Attributes.Of(f), &m.scratch)
		return err
	}
	m.Key, err = r.connectJSON(ev, f, form, m)
	return err
}

// connectJSON returns a column as Connect's JsonConverter writes it.
func (r *Router) connectJSON(ev *decoder.Event, f decoder.Field, form KeyForm, m *Message) (_ []byte, err error) {
	v, typ, attribute := ev.Values[f], ev.Types[f], r.rules.Attributes.Of(f)
	b := m.scratch
	if form == ConnectJSONSchemaKey {
		b = append(b, `{"schema":`...)
		b = AppendConnectSchema(b, typ, attribute, "")
		b = append(b, `,"payload":`...)
	}
	if v == nil {
		b = append(b, "null"...)
	} else if b, err = AppendConnectJSON(b, v, typ, attribute); err != nil {
		return nil, err
	}
	if form == ConnectJSONSchemaKey {
		b = append(b, '}')
	}
	n := len(m.scratch)
	m.scratch = b
	return b[n:len(b):len(b)], nil
}

// name is how a field is called in messages.
func (r *Rules) name(f decoder.Field) string {
	for column, field := range r.Columns {
		if field == f && int(f) >= decoder.NumFields {
			return strconv.Quote(column)
		}
	}
	return f.String()
}
