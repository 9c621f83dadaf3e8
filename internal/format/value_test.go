package format_test

import (
	"errors"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

func TestValueOfAPayload(t *testing.T) {
	null, tombstone := "\x00null", "\x00tombstone" // no payload here is these
	tests := []struct {
		value   format.Options
		payload string
		want    string
		refused bool
	}{
		{format.Options{}, `{"a": 1.10}`, `{"a": 1.10}`, false},
		{format.Options{}, "", "", false},
		{format.Options{}, " \n", " \n", false},
		{format.Options{}, null, tombstone, false},
		{format.Options{NullIsError: true}, null, "", true},
		{format.Options{NullIsError: true}, "", "", false},
		{format.Options{NullIsError: true}, "null", "null", false},
		{format.Options{EmptyIsTombstone: true}, "", tombstone, false},
		{format.Options{EmptyIsTombstone: true}, " \t\r\n", tombstone, false},
		{format.Options{EmptyIsTombstone: true}, " x ", " x ", false},
		{format.Options{EmptyIsTombstone: true}, null, tombstone, false},
		{format.Options{EmptyIsTombstone: true, NullIsError: true}, "", tombstone, false},
		{format.Options{EmptyIsTombstone: true, NullIsError: true}, null, "", true},
	}
	for _, test := range tests {
		ev := formattest.Empty()
		if test.payload != null {
			ev.Values[decoder.Payload] = []byte(test.payload)
		}
		r, err := formattest.Encode(test.value, format.Outbox{}, ev)
		got := r.Value
		if errors.Is(err, record.ErrUndeliverable) != test.refused || err != nil && !test.refused {
			t.Errorf("%+v, payload %q: %v", test.value, test.payload, err)
			continue
		}
		if test.refused {
			formattest.Says(t, err, "NULL", "value.null_payload")
			continue
		}
		if isTombstone := got == nil; isTombstone != (test.want == tombstone) || !isTombstone && string(got) != test.want {
			t.Errorf("%+v, payload %q: value %q (nil %t), want %q", test.value, test.payload, got, got == nil, test.want)
		}
	}
}

// The record's time is the commit's, the event's, or that of sending.
func TestRecordTime(t *testing.T) {
	business := time.Date(1970, 1, 1, 0, 0, 0, 1_000_000, time.UTC)
	at := func(when time.Time) *decoder.Event {
		return formattest.Full(func(ev *decoder.Event) { ev.Time = when })
	}
	for _, test := range []struct {
		clock record.Clock
		event *decoder.Event
		want  time.Time
	}{
		{record.CommitTime, at(business), formattest.CommittedAt},
		{record.BusinessTime, at(business), business},
		{record.BusinessTime, at(time.Unix(0, 0)), time.Unix(0, 0)},
		{record.BusinessTime, at(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{record.BusinessTime, formattest.Full(formattest.Null(decoder.Timestamp)), formattest.CommittedAt},
	} {
		if r, err := formattest.Encode(format.Options{Clock: test.clock}, format.Outbox{}, test.event); err != nil || !r.Timestamp.Equal(test.want) || r.Clock != test.clock {
			t.Errorf("%d: %s, %v; want %s", test.clock, r.Timestamp, err, test.want)
		}
	}
	before := time.Now()
	if r, err := formattest.Encode(format.Options{Clock: record.SendTime}, format.Outbox{}, at(business)); err != nil || r.Timestamp.Before(before) || r.Timestamp.After(time.Now()) {
		t.Errorf("now: %s, %v", r.Timestamp, err)
	}
	// To Kafka, -1 ms is a record without a time.
	for _, early := range []time.Time{time.UnixMilli(-1), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)} {
		_, err := formattest.Encode(format.Options{Clock: record.BusinessTime}, format.Outbox{}, at(early))
		if !errors.Is(err, record.ErrUndeliverable) {
			t.Errorf("%s: %v", early, err)
			continue
		}
		formattest.Says(t, err, "outbox.columns.timestamp", "1970")
	}
}
