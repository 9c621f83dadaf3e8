package sink

import (
	"errors"
	"testing"
	"time"

	"outboxd/decoder"
)

func TestValueOfAPayload(t *testing.T) {
	null, tombstone := "\x00null", "\x00tombstone" // no payload here is these
	tests := []struct {
		value   Value
		payload string
		want    string
		refused bool
	}{
		{Value{}, `{"a": 1.10}`, `{"a": 1.10}`, false},
		{Value{}, "", "", false},
		{Value{}, " \n", " \n", false},
		{Value{}, null, tombstone, false},
		{Value{NullIsError: true}, null, "", true},
		{Value{NullIsError: true}, "", "", false},
		{Value{NullIsError: true}, "null", "null", false},
		{Value{EmptyIsTombstone: true}, "", tombstone, false},
		{Value{EmptyIsTombstone: true}, " \t\r\n", tombstone, false},
		{Value{EmptyIsTombstone: true}, " x ", " x ", false},
		{Value{EmptyIsTombstone: true}, null, tombstone, false},
		{Value{EmptyIsTombstone: true, NullIsError: true}, "", tombstone, false},
		{Value{EmptyIsTombstone: true, NullIsError: true}, null, "", true},
	}
	for _, test := range tests {
		ev := newEvent()
		if test.payload != null {
			ev.Values[decoder.Payload] = []byte(test.payload)
		}
		got, err := test.value.encode(ev, new(Delivery))
		if errors.Is(err, ErrUndeliverable) != test.refused || err != nil && !test.refused {
			t.Errorf("%+v, payload %q: %v", test.value, test.payload, err)
			continue
		}
		if test.refused {
			says(t, err, "NULL", "value.null_payload")
			continue
		}
		if isTombstone := got == nil; isTombstone != (test.want == tombstone) || !isTombstone && string(got) != test.want {
			t.Errorf("%+v, payload %q: value %q (nil %t), want %q", test.value, test.payload, got, got == nil, test.want)
		}
	}
}

// A payload that is refused is not taken: nobody is told anything of it.
func TestRefusedPayloadIsNotTaken(t *testing.T) {
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.Value.NullIsError = true })}
	if err := s.try(testTopic, "k", nil); !errors.Is(err, ErrUndeliverable) {
		t.Errorf("a NULL payload: %v", err)
	}
	s.send(testTopic, "k", "0")
	s.delivered()
	inOrder(t, consume(t, c, 1))
}

// The record's time is the commit's, the event's, or that of sending.
func TestRecordTime(t *testing.T) {
	business := time.Date(1970, 1, 1, 0, 0, 0, 1_000_000, time.UTC)
	at := func(when time.Time) *decoder.Event {
		return full(func(ev *decoder.Event) { ev.Time = when })
	}
	for _, test := range []struct {
		timestamp Timestamp
		event     *decoder.Event
		want      time.Time
	}{
		{CommitTime, at(business), committedAt},
		{BusinessTime, at(business), business},
		{BusinessTime, at(time.Unix(0, 0)), time.Unix(0, 0)},
		{BusinessTime, at(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{BusinessTime, full(null(decoder.Timestamp)), committedAt},
	} {
		v := Value{Timestamp: test.timestamp}
		if got, err := v.timestamp(test.event); err != nil || !got.Equal(test.want) {
			t.Errorf("%d: %s, %v; want %s", test.timestamp, got, err, test.want)
		}
	}
	before := time.Now()
	v := Value{Timestamp: SendTime}
	if got, err := v.timestamp(at(business)); err != nil || got.Before(before) || got.After(time.Now()) {
		t.Errorf("now: %s, %v", got, err)
	}
	// To Kafka, -1 ms is a record without a time.
	v = Value{Timestamp: BusinessTime}
	for _, early := range []time.Time{time.UnixMilli(-1), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)} {
		_, err := v.timestamp(at(early))
		if !errors.Is(err, ErrUndeliverable) {
			t.Errorf("%s: %v", early, err)
			continue
		}
		says(t, err, "outbox.columns.timestamp", "1970")
	}
}
