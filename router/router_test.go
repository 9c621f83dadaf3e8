package router

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/record"
)

// event returns one with every field set.
func event(change ...func(*decoder.Event)) *decoder.Event {
	ev := &decoder.Event{
		Position:    decoder.Position{CommitLSN: 0x1507C60, Number: 1},
		CommittedAt: time.Date(2026, 7, 31, 12, 30, 0, 123456000, time.UTC),
		Values:      make([][]byte, decoder.NumFields+2),
		Types:       make([]uint32, decoder.NumFields+2),
		Time:        time.Date(2026, 7, 31, 14, 0, 0, 5000, time.UTC),
	}
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

// with two further columns.
const tenant, note = decoder.Field(decoder.NumFields), decoder.Field(decoder.NumFields + 1)

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

// base has no rule but these.
func base(topic string, key decoder.Field) Rules {
	return Rules{Topic: topic, Key: key, Partition: decoder.NoField}
}

var plain = base("outbox.event.{type}", decoder.AggregateID)

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
		var m record.Record
		err := mustNew(t, base(test.template, decoder.AggregateID)).Route(test.event, &m)
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
		var m record.Record
		err := mustNew(t, plain).Route(event(with(decoder.Type, typ)), &m)
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
		}
	}
}

func TestBadTemplates(t *testing.T) {
	for template, part := range map[string]string{
		"":               "is empty",
		"{":              "without its partner",
		"a.{type":        "without its partner",
		"{}":             "{}",
		"{nothing}":      "{nothing}",
		"{Type}":         "{Type}",
		"{ type }":       "{ type }",
		"a.{aggregateid": "without its partner",
	} {
		_, err := New(Rules{Topic: template})
		says(t, err, "route.topic", part)
	}
}

func TestKey(t *testing.T) {
	var m record.Record
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

	byID := mustNew(t, base("orders", decoder.ID))
	if err := byID.Route(event(without(decoder.AggregateID)), &m); err != nil || string(m.Key) != "value of id" {
		t.Errorf("key by id: %q, %v", m.Key, err)
	}
	none := mustNew(t, base("orders", decoder.NoField))
	m.Key = []byte("left from before")
	if err := none.Route(event(without(decoder.AggregateID, decoder.ID)), &m); err != nil || m.Key != nil {
		t.Errorf("no key: %q, %v", m.Key, err)
	}
}

// The names that are remembered stay the right ones, and few.
func TestTopicNamesAreRemembered(t *testing.T) {
	r := mustNew(t, plain)
	var m record.Record
	for i := range 3*maxNames + 7 {
		typ := fmt.Sprint("type-", i%(2*maxNames+3))
		if err := r.Route(event(with(decoder.Type, typ)), &m); err != nil {
			t.Fatal(err)
		}
		if want := "outbox.event." + typ; m.Topic != want {
			t.Fatalf("topic %s, want %s", m.Topic, want)
		}
		if n := len(r.topics.names); n > maxNames {
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
	r := mustNew(t, base("{aggregate_type}.{type}", decoder.AggregateID))
	events := []*decoder.Event{event(), event(with(decoder.Type, "OrderPaid")), event(without(decoder.Version))}
	var m record.Record
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
	var m record.Record
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Route(ev, &m); err != nil {
			b.Fatal(err)
		}
	}
}

var columns = map[string]decoder.Field{"tenant": tenant, "note": note}

func TestOverrides(t *testing.T) {
	rules := plain
	rules.Columns = columns
	rules.Overrides = []Override{
		{Type: "OrderPlaced", AggregateType: "order", Topic: "placed"},
		{Type: "Order*", Topic: "orders.{column:tenant}"},
		{AggregateType: "t?st", Topic: ""},
		{Type: "*z", AggregateType: "*", Topic: "z"},
	}
	r := mustNew(t, rules)
	for _, test := range []struct{ typ, aggregateType, want string }{
		{"OrderPlaced", "order", "placed"},
		{"OrderPlaced", "cart", "orders.acme"},
		{"Order", "cart", "orders.acme"},
		{"order", "cart", "outbox.event.order"}, // case matters
		{"x", "test", ""},
		{"x", "t\u00e9st", ""}, // ? is a character, not a byte
		{"x", "tst", "outbox.event.x"},
		{"fizz", "order", "z"},
		{"z", "", "z"},
		{"zx", "order", "outbox.event.zx"},
	} {
		var m record.Record
		if err := r.Route(event(with(decoder.Type, test.typ), with(decoder.AggregateType, test.aggregateType), with(tenant, "acme")), &m); err != nil || m.Topic != test.want {
			t.Errorf("%s of %s: topic %q, %v; want %q", test.typ, test.aggregateType, m.Topic, err, test.want)
		}
	}
	// NULL matches only what matches everything. A discarded event needs no key.
	var m record.Record
	if err := r.Route(event(without(decoder.Type, decoder.AggregateID), with(decoder.AggregateType, "test")), &m); err != nil || m.Topic != "" {
		t.Errorf("topic %q, %v", m.Topic, err)
	}
	err := r.Route(event(without(decoder.AggregateType, tenant)), &m)
	says(t, err, "{column:tenant}", "NULL")
	_, err = New(Rules{Topic: "a", Overrides: []Override{{Topic: "b"}, {Topic: "{x}"}}})
	says(t, err, "route.rules[1].topic", "{x}")
}

func TestGlob(t *testing.T) {
	for pattern, values := range map[string]map[string]bool{
		"*":        {"": true, "a": true},
		"?":        {"": false, "a": true, "ab": false, "\u00e9": true, "\xff": true},
		"a*b*c":    {"abc": true, "aXbYc": true, "abcb": false, "abcbc": true, "ac": false},
		"*.*":      {"a.b": true, ".": true, "ab": false},
		"a*":       {"a": true, "ba": false},
		"*a":       {"aaa": true, "ab": false},
		"**":       {"": true, "x": true},
		"Order":    {"Order": true, "Orders": false, "order": false},
		"*\u00e9?": {"x\u00e9y": true, "x\u00e9": false},
	} {
		for value, want := range values {
			if got := matches(pattern, []byte(value)); got != want {
				t.Errorf("%q against %q: %t", pattern, value, got)
			}
		}
	}
}

func TestColumnKeyAndPartition(t *testing.T) {
	rules := base("orders", tenant)
	rules.Columns, rules.Partition = columns, note
	r := mustNew(t, rules)
	var m record.Record
	for value, want := range map[string]int32{"0": 0, "17": 17, "2147483647": 2147483647} {
		if err := r.Route(event(with(note, value)), &m); err != nil || m.Partition != want {
			t.Errorf("partition %d, %v; want %d", m.Partition, err, want)
		}
	}
	if string(m.Key) != "value of column" {
		t.Errorf("key %q", m.Key)
	}
	if err := r.Route(event(without(note)), &m); err != nil || m.Partition != record.ByKey {
		t.Errorf("partition %d, %v; want none", m.Partition, err)
	}
	for _, value := range []string{"-1", "2147483648", "", "x"} {
		err := r.Route(event(with(note, value)), &m)
		if !errors.Is(err, ErrUnroutable) {
			t.Errorf("partition %q: %v", value, err)
		}
		says(t, err, "route.partition", value)
	}
	says(t, r.Route(event(without(tenant)), &m), `"tenant" (route.key) is NULL`)
}

// The error of a topic shows what it is made of.
func TestTopicErrorNamesItsTemplate(t *testing.T) {
	rules := base("a.{type}", decoder.NoField)
	rules.Columns, rules.Overrides = columns, []Override{{Type: "x", Topic: "{column:tenant}-{aggregate_type}"}}
	var m record.Record
	r := mustNew(t, rules)
	says(t, r.Route(event(with(decoder.Type, "a b")), &m), "made of a.{type}", `"a.a b"`)
	says(t, r.Route(event(with(decoder.Type, "x"), with(tenant, "t/1")), &m), "made of {column:tenant}-{aggregate_type}", `"t/1-order"`)
}
