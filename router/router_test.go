package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"outboxd/decoder"
)

// event returns one with every field set.
func event(change ...func(*decoder.Event)) *decoder.Event {
	ev := &decoder.Event{Position: decoder.Position{CommitLSN: 0x1507C60, Number: 1}}
	for f := range ev.Values {
		ev.Values[f] = []byte("value of " + decoder.Field(f).String())
	}
	ev.Values[decoder.Type] = []byte("OrderPlaced")
	ev.Values[decoder.AggregateType] = []byte("order")
	for _, f := range change {
		f(ev)
	}
	return ev
}

func without(fields ...decoder.Field) func(*decoder.Event) {
	return func(ev *decoder.Event) {
		for _, f := range fields {
			ev.Values[f] = nil
		}
	}
}

func with(f decoder.Field, value string) func(*decoder.Event) {
	return func(ev *decoder.Event) { ev.Values[f] = []byte(value) }
}

func mustNew(t testing.TB, rules Rules) *Router {
	t.Helper()
	r, err := New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var plain = Rules{Topic: "outbox.event.{type}", Key: decoder.AggregateID}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not say %q: %v", p, err)
		}
	}
}

func TestTopic(t *testing.T) {
	tests := []struct {
		template string
		event    *decoder.Event
		want     string
		says     []string // of the error
	}{
		{"outbox.event.{type}", event(), "outbox.event.OrderPlaced", nil},
		{"orders", event(without(decoder.Type, decoder.AggregateType)), "orders", nil},
		{"{type}", event(), "OrderPlaced", nil},
		{"{aggregate_type}-{type}_{aggregate_type}", event(), "order-OrderPlaced_order", nil},
		{"{type}{aggregate_type}", event(), "OrderPlacedorder", nil},
		{"{type}", event(with(decoder.Type, strings.Repeat("x", 249))), strings.Repeat("x", 249), nil},
		{"a.{type}", event(with(decoder.Type, "")), "a.", nil},
		{"{type}", event(with(decoder.Type, "azAZ09._-")), "azAZ09._-", nil},

		{"outbox.event.{type}", event(without(decoder.Type)), "", []string{"type", "NULL"}},
		{"{aggregate_type}", event(without(decoder.AggregateType)), "", []string{"aggregate_type", "NULL"}},
		{"{type}", event(with(decoder.Type, "")), "", []string{`""`}},
		{"{type}", event(with(decoder.Type, ".")), "", []string{`"."`}},
		{"{type}", event(with(decoder.Type, "..")), "", []string{`".."`}},
		{"{type}", event(with(decoder.Type, strings.Repeat("x", 250))), "", []string{"249"}},
		{"{type}", event(with(decoder.Type, "Order Placed")), "", []string{`"Order Placed"`}},
		{"{type}", event(with(decoder.Type, "Größe")), "", []string{`"Größe"`}},
		{"{type}", event(with(decoder.Type, "a/b")), "", []string{`"a/b"`}},
		{"{type}", event(with(decoder.Type, "a\nb\x00")), "", []string{`"a\nb\x00"`}},
	}
	for _, test := range tests {
		var m Message
		err := mustNew(t, Rules{Topic: test.template, Key: decoder.AggregateID}).Route(test.event, &m)
		if test.says == nil {
			if err != nil || m.Topic != test.want {
				t.Errorf("%s: topic %q, %v; want %q", test.template, m.Topic, err, test.want)
			}
			continue
		}
		if !errors.Is(err, ErrUnroutable) {
			t.Errorf("%s with type %q: topic %q, %v", test.template, test.event.Values[decoder.Type], m.Topic, err)
			continue
		}
		says(t, err, test.says...)
	}
}

// A message shows the beginning of a name that never ends.
func TestMessagesAreBounded(t *testing.T) {
	for _, typ := range []string{strings.Repeat("x", 1<<20), strings.Repeat("?", 1<<20)} {
		var m Message
		err := mustNew(t, plain).Route(event(with(decoder.Type, typ)), &m)
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
		}
	}
}

func TestBadTemplates(t *testing.T) {
	for template, part := range map[string]string{
		"":               "is empty",
		"{":              "without }",
		"a.{type":        "without }",
		"{}":             "{}",
		"{nothing}":      "{nothing}",
		"{Type}":         "{Type}",
		"{ type }":       "{ type }",
		"a.{aggregateid": "without }",
	} {
		_, err := New(Rules{Topic: template})
		says(t, err, "route.topic", part)
	}
}

func TestKey(t *testing.T) {
	var m Message
	r := mustNew(t, plain)
	ev := event(with(decoder.AggregateID, "order-1\x00\xff"))
	if err := r.Route(ev, &m); err != nil || string(m.Key) != "order-1\x00\xff" {
		t.Errorf("key %q, %v", m.Key, err)
	}
	// Empty is a key like any other: nil would mean none, and another partition.
	if err := r.Route(event(with(decoder.AggregateID, "")), &m); err != nil || m.Key == nil || len(m.Key) != 0 {
		t.Errorf("empty key: %q (nil %t), %v", m.Key, m.Key == nil, err)
	}
	err := r.Route(event(without(decoder.AggregateID)), &m)
	if !errors.Is(err, ErrUnroutable) {
		t.Errorf("NULL key: %v", err)
	}
	says(t, err, "aggregate_id", "route.key", "NULL")

	byID := mustNew(t, Rules{Topic: "orders", Key: decoder.ID})
	if err := byID.Route(event(without(decoder.AggregateID)), &m); err != nil || string(m.Key) != "value of id" {
		t.Errorf("key by id: %q, %v", m.Key, err)
	}
	none := mustNew(t, Rules{Topic: "orders", NoKey: true})
	m.Key = []byte("left from before")
	if err := none.Route(event(without(decoder.AggregateID, decoder.ID)), &m); err != nil || m.Key != nil {
		t.Errorf("no key: %q, %v", m.Key, err)
	}
}

// headers returns the names and values in order.
func headers(m *Message) (lines []string) {
	for _, h := range m.Headers {
		lines = append(lines, h.Key+"="+string(h.Value))
	}
	return lines
}

func TestPlainHeaders(t *testing.T) {
	r := mustNew(t, plain)
	tests := []struct {
		name  string
		event *decoder.Event
		want  []string
	}{
		{"all", event(), []string{
			"id=value of id", "type=OrderPlaced", "aggregate_type=order", "aggregate_id=value of aggregate_id",
			"position=0000000001507C60-00000001", "version=value of version", "schema_version=value of schema_version",
			"correlation_id=value of correlation_id", "causation_id=value of causation_id", "traceparent=value of traceparent",
		}},
		{"a NULL gives none", event(without(decoder.ID, decoder.AggregateType, decoder.Version, decoder.CausationID, decoder.TraceParent)), []string{
			"type=OrderPlaced", "aggregate_id=value of aggregate_id", "position=0000000001507C60-00000001",
			"schema_version=value of schema_version", "correlation_id=value of correlation_id",
		}},
		{"an empty value gives one", event(with(decoder.ID, ""), without(decoder.AggregateType, decoder.Version, decoder.SchemaVersion,
			decoder.CorrelationID, decoder.CausationID, decoder.TraceParent)), []string{
			"id=", "type=OrderPlaced", "aggregate_id=value of aggregate_id", "position=0000000001507C60-00000001",
		}},
	}
	var m Message // reused, as the pipeline does
	for _, test := range tests {
		if err := r.Route(test.event, &m); err != nil {
			t.Fatal(err)
		}
		if got := headers(&m); !slices.Equal(got, test.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", test.name, got, test.want)
		}
		if len(m.Headers) > MaxHeaders {
			t.Errorf("%s: %d headers, more than MaxHeaders", test.name, len(m.Headers))
		}
	}
}

func TestNoHeaders(t *testing.T) {
	m := Message{Headers: []Header{{Key: "left from before"}}}
	rules := plain
	rules.Headers = NoHeaders
	if err := mustNew(t, rules).Route(event(), &m); err != nil || len(m.Headers) != 0 {
		t.Errorf("headers %q, %v", headers(&m), err)
	}
}

// The position is the message's own: the next event does not change it.
func TestPositionsOfTwoMessages(t *testing.T) {
	r := mustNew(t, plain)
	var first, second Message
	if err := errors.Join(
		r.Route(event(), &first),
		r.Route(event(func(ev *decoder.Event) { ev.Position.Number = 2 }), &second),
	); err != nil {
		t.Fatal(err)
	}
	const at = 4 // behind id, type, aggregate_type, aggregate_id
	if a, b := string(first.Headers[at].Value), string(second.Headers[at].Value); a != "0000000001507C60-00000001" || b != "0000000001507C60-00000002" {
		t.Errorf("positions %s and %s", a, b)
	}
}

// The names that are remembered stay the right ones, and few.
func TestTopicNamesAreRemembered(t *testing.T) {
	r := mustNew(t, plain)
	var m Message
	for i := range 3*maxNames + 7 {
		typ := fmt.Sprint("type-", i%(2*maxNames+3))
		if err := r.Route(event(with(decoder.Type, typ)), &m); err != nil {
			t.Fatal(err)
		}
		if want := "outbox.event." + typ; m.Topic != want {
			t.Fatalf("topic %s, want %s", m.Topic, want)
		}
		if n := len(r.topic.names); n > maxNames {
			t.Fatalf("%d names are remembered, more than %d", n, maxNames)
		}
	}
	// An illegal name is refused each time, not only when it is new.
	for range 2 {
		if err := r.Route(event(with(decoder.Type, "a b")), &m); !errors.Is(err, ErrUnroutable) {
			t.Fatalf("topic %s, %v", m.Topic, err)
		}
	}
}

func TestRouteDoesNotAllocate(t *testing.T) {
	r := mustNew(t, Rules{Topic: "{aggregate_type}.{type}", Key: decoder.AggregateID})
	events := []*decoder.Event{event(), event(with(decoder.Type, "OrderPaid")), event(without(decoder.Version))}
	var m Message
	route := func() {
		for _, ev := range events {
			if err := r.Route(ev, &m); err != nil {
				t.Fatal(err)
			}
		}
	}
	route()
	if n := testing.AllocsPerRun(1000, route); n != 0 {
		t.Errorf("%v allocations for %d known topics", n, len(events))
	}
}

func BenchmarkRoute(b *testing.B) {
	r := mustNew(b, plain)
	ev := event()
	var m Message
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Route(ev, &m); err != nil {
			b.Fatal(err)
		}
	}
}
