// Package router turns an outbox event into a message for Kafka: its topic, its
// key and its headers. It is a pure function of the event and the rules.
package router

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
)

// ErrUnroutable is wrapped by every error of Route: the event can never be
// delivered as it is.
var ErrUnroutable = errors.New("event cannot be routed")

// Message is where an event goes and what describes it there. Its key and
// header values may be views of the event's memory.
type Message struct {
	Topic string
	// Key is nil for a record without a key. Kafka's clients choose the
	// partition by murmur2 of a key that is not nil, even of an empty one.
	Key     []byte
	Headers []Header

	position [decoder.PositionLen]byte
}

// MaxHeaders is the largest number of headers that Route writes.
const MaxHeaders = decoder.NumFields

// Header is a Kafka record header, in the client's own form so that it is not
// copied once more.
type Header = kgo.RecordHeader

// Rules say where events go. See route.* and value.headers in the configuration.
type Rules struct {
	Topic   string        // a template: text, {type}, {aggregate_type}
	Key     decoder.Field // the field that is the record's key
	NoKey   bool          // records have no key; Key is ignored
	Headers HeaderStyle
}

// HeaderStyle is what value.headers says.
type HeaderStyle int

const (
	PlainHeaders HeaderStyle = iota // id, type, aggregate_type, aggregate_id, position, and the mapped ones
	NoHeaders
)

// Router applies the rules. It is used by one goroutine, since it remembers the
// topic names it has made.
type Router struct {
	rules Rules
	topic template
}

// New checks the rules.
func New(rules Rules) (*Router, error) {
	t, err := parseTemplate(rules.Topic)
	if err != nil {
		return nil, fmt.Errorf("route.topic: %w", err)
	}
	return &Router{rules: rules, topic: t}, nil
}

// Route fills the message for an event, reusing the message's header slice.
func (r *Router) Route(ev *decoder.Event, m *Message) error {
	topic, err := r.topic.expand(ev)
	if err != nil {
		return err
	}
	m.Topic = topic
	m.Key = nil
	if !r.rules.NoKey {
		if m.Key = ev.Values[r.rules.Key]; m.Key == nil {
			return fmt.Errorf("%w: its key %s (route.key) is NULL", ErrUnroutable, r.rules.Key)
		}
	}
	m.Headers = m.Headers[:0]
	if r.rules.Headers == PlainHeaders {
		m.plainHeaders(ev)
	}
	return nil
}

// plainHeaders writes the headers in the order that consumers are promised. A
// NULL gives no header.
func (m *Message) plainHeaders(ev *decoder.Event) {
	for f := decoder.ID; f <= decoder.AggregateID; f++ {
		m.header(ev, f)
	}
	m.Headers = append(m.Headers, Header{Key: "position", Value: ev.Position.AppendText(m.position[:0])})
	for f := decoder.Version; f <= decoder.TraceParent; f++ {
		m.header(ev, f)
	}
}

func (m *Message) header(ev *decoder.Event, f decoder.Field) {
	if v := ev.Values[f]; v != nil {
		m.Headers = append(m.Headers, Header{Key: f.String(), Value: v})
	}
}
