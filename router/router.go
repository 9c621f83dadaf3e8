// Package router decides where an outbox event goes: its topic, its key and its
// partition. It is a pure function of the event and the rules.
package router

import (
	"errors"
	"fmt"
	"strconv"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// ErrUnroutable is wrapped by every error of Route: the event can never be
// delivered as it is.
var ErrUnroutable = errors.New("event cannot be routed")

// Rules say where events go. See route.* in the configuration.
type Rules struct {
	// Topic is a template: text, {type}, {aggregate_type}, {column:NAME}.
	Topic string
	// Overrides are tried before Topic; the first that matches wins.
	Overrides []Override
	// Regex, if set, makes the topic in place of Topic.
	Regex *Regex
	// Forbidden are globs of topics, and Reserved topics of outboxd's own with the
	// keys of the configuration that name them, that no event may be sent to: a row
	// could otherwise write into them.
	Forbidden []string
	Reserved  map[string]string
	// Columns are the fields of the columns that templates name.
	Columns map[string]decoder.Field
	// Key is the field that is the record's key, NoField for records without.
	Key decoder.Field
	// NullKey says that the format has a form for a key that is NULL; without, it is
	// an error.
	NullKey bool
	// Partition is the field that names the partition, or NoField.
	Partition decoder.Field
}

// Override sends the events that match both globs to another topic.
type Override struct {
	Type, AggregateType string // "" matches every event
	Topic               string // a template; "" discards
}

// Router applies the rules. It is used by one goroutine, since it remembers the
// topic names it has made.
type Router struct {
	rules  Rules
	topics topics
}

// New checks the rules.
func New(rules Rules) (*Router, error) {
	t, err := newTopics(rules)
	if err != nil {
		return nil, err
	}
	return &Router{rules: rules, topics: t}, nil
}

// Route resets the record and sets its topic, its key, which is the column's text, and
// its partition.
func (r *Router) Route(ev *decoder.Event, m *record.Record) error {
	var err error
	m.Reset()
	if m.Topic, err = r.topics.of(ev); err != nil || m.Topic == "" {
		return err
	}
	if f := r.rules.Key; f != decoder.NoField {
		if m.Key = ev.Values[f]; m.Key == nil && !r.rules.NullKey {
			return poison.NullKey.Mark(fmt.Errorf("%w: its key %s (route.key) is NULL", ErrUnroutable, r.rules.name(f)))
		}
	}
	if f := r.rules.Partition; f != decoder.NoField && ev.Values[f] != nil {
		n, err := strconv.ParseInt(string(ev.Values[f]), 10, 32)
		if err != nil || n < 0 {
			return poison.Partition.Mark(fmt.Errorf("%w: its partition (route.partition) is %s, not a partition's number", ErrUnroutable, decoder.Excerpt(ev.Values[f])))
		}
		m.Partition = int32(n)
	}
	return nil
}

// Salvage fills the record of an event that cannot be delivered with what can be made of
// it: the topic, also a name that no event may be sent to, and the key. It resets the
// record, and knows no error.
func (r *Router) Salvage(ev *decoder.Event, m *record.Record) {
	m.Reset()
	m.Topic, _ = r.topics.of(ev)
	if f := r.rules.Key; f != decoder.NoField {
		m.Key = ev.Values[f]
	}
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
