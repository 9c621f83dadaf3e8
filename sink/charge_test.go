package sink

import (
	"testing"
)

// The memory of an event is told of what was made of it, and of the client's copies of a
// large value; a spare delivery keeps none of it.
func TestChargedMemory(t *testing.T) {
	for _, test := range []struct{ buffer, scratch, value, want int }{
		{0, 0, 300, 0},
		{300, 0, 300, 300},
		{0, 700, 300, 700},
		{0, 0, largeValue - 1, 0},
		{0, 0, largeValue, 2 * largeValue},
		{2 << 20, 1 << 20, 1 << 20, 5 << 20},
	} {
		w := &witness{}
		d := &Delivery{Memory: w}
		if test.buffer > 0 {
			d.Buffer = make([]byte, test.buffer)
		}
		if test.scratch > 0 {
			d.Scratch = make([]byte, test.scratch)
		}
		d.record.Value = make([]byte, test.value)
		d.charge()
		if got := w.charged.Load(); got != int64(test.want) || d.charged != test.want {
			t.Errorf("%+v: charged %d", test, got)
		}
		if d.recycle(); d.charged != 0 || d.record.Value != nil || d.Made() > 8<<10 {
			t.Errorf("%+v: a spare delivery keeps %d bytes", test, d.Made())
		}
	}
}

// A delivery that is returned instead of sent holds nothing of its event.
func TestReturnedDeliveryLeavesNothing(t *testing.T) {
	s := &sender{t: t, k: open(t, broker(t, 1))}
	d := s.k.Next()
	d.fill(1, make([]byte, 100))
	d.ID, d.Key, d.Buffer = make([]byte, 8), make([]byte, 8), make([]byte, 1<<20)
	d.AddHeader("id", d.ID)
	s.k.Return()
	if d.ID != nil || d.Key != nil || d.Record.Value != nil || len(d.Headers) > 0 || d.Made() != 0 || d.Headers[:1][0].Value != nil {
		t.Errorf("it holds %+v", d)
	}
	if again := s.k.Next(); again != d {
		t.Error("it is not handed out again")
	}
	s.k.Return()
	s.send(testTopic, "k", "0")
	s.delivered()
}
