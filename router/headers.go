package router

import (
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"outboxd/decoder"
)

// HeaderStyle is what value.headers says.
type HeaderStyle int

const (
	PlainHeaders       HeaderStyle = iota // id, type, aggregate_type, aggregate_id, position, and the mapped ones
	CloudEventsHeaders                    // CloudEvents' Kafka binding in binary mode
	DebeziumHeaders                       // id
	ConnectHeaders                        // id, all as Kafka Connect prints them
	NoHeaders                             // not even those from columns
)

// describe writes the headers, in the order that consumers are promised. What is
// not of the style comes last.
func (r *Router) describe(ev *decoder.Event, m *Message) error {
	if err := r.styleHeaders(ev, m); err != nil {
		return err
	}
	if r.contentType != nil && !IsTombstone(ev, r.rules.EmptyIsTombstone) {
		m.header(contentType, r.contentType)
	}
	if r.rules.Replayed {
		m.header("replayed", trueText)
	}
	return nil
}

// styleHeaders writes the style's own headers, and behind them those from columns.
// A NULL gives no header, but with ConnectHeaders.
func (r *Router) styleHeaders(ev *decoder.Event, m *Message) error {
	rules := &r.rules
	switch rules.Style {
	case PlainHeaders:
		m.plainHeaders(ev)
	case CloudEventsHeaders:
		if err := r.cloudEvent(ev, m); err != nil {
			return err
		}
	case DebeziumHeaders:
		m.field(ev, "id", decoder.ID)
	case ConnectHeaders:
		return r.connectHeaders(ev, m)
	case NoHeaders:
		return nil
	}
	for i := range rules.Headers {
		m.field(ev, rules.Headers[i].Key, rules.Headers[i].Field)
	}
	if f := rules.HeadersColumn; f != decoder.NoField && ev.Values[f] != nil {
		return m.members(ev.Values[f])
	}
	return nil
}

// connectHeaders writes the headers of Debezium's outbox event router: the id and
// those from columns. A NULL gives a header without a value.
func (r *Router) connectHeaders(ev *decoder.Event, m *Message) error {
	m.Headers = append(m.Headers, r.context...)
	if err := r.connectHeader(ev, "id", decoder.ID, m); err != nil {
		return err
	}
	for i := range r.rules.Headers {
		if err := r.connectHeader(ev, r.rules.Headers[i].Key, r.rules.Headers[i].Field, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) connectHeader(ev *decoder.Event, key string, f decoder.Field, m *Message) error {
	v := ev.Values[f]
	var err error
	switch {
	case r.rules.HeaderForm == ConnectJSONKey || r.rules.HeaderForm == ConnectJSONSchemaKey:
		v, err = r.connectJSON(ev, f, r.rules.HeaderForm, m)
	case v != nil:
		v, err = ConnectText(v, ev.Types[f], r.rules.Attributes.Of(f), &m.scratch)
	}
	if err != nil {
		return fmt.Errorf("its header %q: %w", key, err)
	}
	m.header(key, v)
	return nil
}

// contextHeaders are those that Debezium adds to every record of a connector.
func contextHeaders(prefix string, form KeyForm) (headers []Header) {
	for _, h := range [][2]string{{"connectorLogicalName", prefix}, {"taskId", "0"}, {"connectorName", "postgresql"}} {
		v := []byte(h[1])
		switch form {
		case ConnectJSONSchemaKey:
			v = append(AppendConnectString([]byte(`{"schema":{"type":"string","optional":false},"payload":`), v), '}')
		case ConnectJSONKey:
			v = AppendConnectString(nil, v)
		}
		headers = append(headers, Header{Key: "__debezium.context." + h[0], Value: v})
	}
	return headers
}

func (m *Message) plainHeaders(ev *decoder.Event) {
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		m.field(ev, f.String(), f)
	}
	m.header("position", ev.Position.AppendText(m.position[:0]))
	for f := decoder.Version; f < decoder.Timestamp; f++ {
		m.field(ev, f.String(), f)
	}
	if ev.Values[decoder.Timestamp] != nil {
		m.header("timestamp", AppendTime(m.time[:0], ev.Time))
	}
}

// cloudEvent writes the attributes of a CloudEvent, "Kafka Protocol Binding for
// CloudEvents", version 1.0.2, binary content mode.
func (r *Router) cloudEvent(ev *decoder.Event, m *Message) error {
	for _, f := range [...]decoder.Field{decoder.ID, decoder.Type} {
		if len(ev.Values[f]) == 0 {
			return fmt.Errorf("%w: its %s (outbox.columns.%s) is NULL or empty, which no CloudEvent may have", ErrUnroutable, f, f)
		}
	}
	m.header("ce_specversion", specVersion)
	m.field(ev, "ce_id", decoder.ID)
	m.header("ce_source", r.source)
	m.field(ev, "ce_type", decoder.Type)
	if len(ev.Values[decoder.AggregateID]) > 0 {
		m.field(ev, "ce_subject", decoder.AggregateID)
	}
	m.header("ce_time", AppendTime(m.time[:0], EventTime(ev)))
	if len(m.Key) > 0 {
		m.header("ce_partitionkey", m.Key)
	}
	m.header("ce_sequence", ev.Position.AppendText(m.position[:0]))
	for _, e := range Extensions {
		if len(ev.Values[e.Field]) > 0 {
			m.field(ev, e.Header, e.Field)
		}
	}
	if !IsTombstone(ev, r.rules.EmptyIsTombstone) {
		m.header(contentType, ContentType(ev))
	}
	return nil
}

// Extensions are the attributes of a CloudEvent that are columns of their own.
// CloudEvents knows no empty attribute: an empty column is left out like NULL.
var Extensions = [...]struct {
	Name, Header string
	Field        decoder.Field
}{
	{"correlationid", "ce_correlationid", decoder.CorrelationID},
	{"causationid", "ce_causationid", decoder.CausationID},
	{"traceparent", "ce_traceparent", decoder.TraceParent},
}

// field writes a column's text. PostgreSQL prints a boolean t or f.
func (m *Message) field(ev *decoder.Event, key string, f decoder.Field) {
	v := ev.Values[f]
	if v == nil {
		return
	}
	if ev.Types[f] == decoder.BoolOID {
		if v[0] == 't' {
			v = trueText
		} else {
			v = falseText
		}
	}
	m.header(key, v)
}

const contentType = "content-type"

var (
	trueText, falseText = []byte("true"), []byte("false")
	specVersion         = []byte("1.0")
)

func (m *Message) header(key string, value []byte) {
	m.Headers = append(m.Headers, Header{Key: key, Value: value})
}

// members writes the members of a JSON object: a string's characters, null not at
// all, and everything else as its JSON text. Values are views of the object, but
// for strings with escapes.
func (m *Message) members(object []byte) error {
	o := gjson.ParseBytes(object)
	if !o.IsObject() {
		return fmt.Errorf("%w: its headers (outbox.headers_column) are not a JSON object", ErrUnroutable)
	}
	o.ForEach(func(key, value gjson.Result) bool {
		text := object[value.Index : value.Index+len(value.Raw)]
		switch {
		case value.Type == gjson.Null:
			return true
		case value.Type == gjson.String && len(value.Str) == len(text)-len(`""`):
			text = text[1 : len(text)-1]
		case value.Type == gjson.String:
			text = []byte(value.Str)
		}
		m.header(strings.Clone(key.Str), text) // a view would hold a copy of the whole object
		return true
	})
	return nil
}
