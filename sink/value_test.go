package sink

import (
	"errors"
	"testing"

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
