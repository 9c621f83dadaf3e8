// Package formattest holds events for the tests of formats.
package formattest

import (
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/record"
)

// CommittedAt is when the events here were committed.
var CommittedAt = time.Date(2026, 7, 31, 12, 30, 0, 123456000, time.UTC)

// Tenant and Note are two further columns of the events of Named.
const Tenant, Note = decoder.Field(decoder.NumFields), decoder.Field(decoder.NumFields + 1)

// Empty returns an event without any values.
func Empty() *decoder.Event {
	return &decoder.Event{Values: make([][]byte, decoder.NumFields), Types: make([]uint32, decoder.NumFields)}
}

// Full returns an event with every field set.
func Full(change ...func(*decoder.Event)) *decoder.Event {
	ev := Empty()
	ev.Position = decoder.Position{CommitLSN: 0x1507C60, Number: 1}
	ev.CommittedAt = CommittedAt
	ev.Time = time.Date(2026, 7, 31, 14, 0, 0, 5000, time.UTC)
	for f, value := range map[decoder.Field]string{
		decoder.ID: "8f3a", decoder.Type: "OrderPlaced", decoder.AggregateType: "order", decoder.AggregateID: "order-1",
		decoder.Version: "7", decoder.SchemaVersion: "2", decoder.CorrelationID: "c-1", decoder.CausationID: "c-0",
		decoder.TraceParent: "00-4bf9-00f0-01", decoder.Timestamp: "2026-07-31 14:00:00.000005+00", decoder.Payload: `{"a":  1.10}`,
	} {
		ev.Values[f] = []byte(value)
	}
	ev.Types[decoder.Version], ev.Types[decoder.SchemaVersion] = decoder.Int8OID, decoder.TextOID
	ev.Types[decoder.Payload] = decoder.JSONBOID
	for _, f := range change {
		f(ev)
	}
	return ev
}

// Named returns an event whose values name their fields, with two further columns.
func Named(change ...func(*decoder.Event)) *decoder.Event {
	ev := &decoder.Event{
		Position:    decoder.Position{CommitLSN: 0x1507C60, Number: 1},
		CommittedAt: CommittedAt,
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

// Null makes fields NULL.
func Null(fields ...decoder.Field) func(*decoder.Event) {
	return func(ev *decoder.Event) {
		for _, f := range fields {
			ev.Values[f] = nil
		}
	}
}

// With sets a field.
func With(f decoder.Field, value string) func(*decoder.Event) {
	return func(ev *decoder.Event) { ev.Values[f] = []byte(value) }
}

// Set sets a field and its type.
func Set(f decoder.Field, oid uint32, value string) func(*decoder.Event) {
	return func(ev *decoder.Event) { ev.Values[f], ev.Types[f] = []byte(value), oid }
}

// Encode encodes one event, whose key is its aggregate id, by these options.
func Encode(o format.Options, outbox format.Outbox, ev *decoder.Event) (*record.Record, error) {
	e := format.New(o)
	e.Open(outbox)
	r := new(record.Record)
	r.Key = ev.Values[decoder.AggregateID]
	return r, e.Encode(ev, r)
}

// Headers returns the names and values in order.
func Headers(r *record.Record) (lines []string) {
	for _, h := range r.Headers {
		lines = append(lines, h.Key+"="+string(h.Value))
	}
	return lines
}

// Says demands an error that has all of these parts.
func Says(t testing.TB, err error, parts ...string) {
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
