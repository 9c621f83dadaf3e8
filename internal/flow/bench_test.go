package flow

import (
	"testing"

	"outboxd/decoder"
	"outboxd/internal/record"
	"outboxd/sink"
)

// endless yields one row again and again.
type endless struct {
	row  []byte
	left int
}

func (e *endless) Next() (Frame, error) {
	if e.left == 0 {
		return Frame{}, ErrEnd
	}
	e.left--
	return Frame{Data: e.row}, nil
}
func (e *endless) Retain() sink.Memory { return e }
func (e *endless) Charge(int)          {}
func (e *endless) Release(int)         {}

// nowhere acknowledges at once.
type nowhere struct{ d sink.Delivery }

func (n *nowhere) Next() *sink.Delivery { return &n.d }
func (n *nowhere) Return()              {}
func (n *nowhere) Send(d *sink.Delivery) error {
	d.Receipt.Acknowledge()
	return nil
}

type oneTopic struct{}

func (oneTopic) Route(_ *decoder.Event, m *record.Record) error {
	m.Topic = "t"
	return nil
}

// BenchmarkEvent is what the flow itself costs an event, with the decoder of one row and
// the tracker.
func BenchmarkEvent(b *testing.B) {
	w := newWorld()
	begin := transaction(0x110, 0x140, "a")
	w.source.queue = begin[:2]
	w.o.Router, w.o.Sink = oneTopic{}, &nowhere{}
	f := New(w.o)
	if err := f.Run(); err != nil {
		b.Fatal(err)
	}
	e := &endless{row: begin[2].Data, left: b.N}
	f.o.Source = e
	b.ReportAllocs()
	b.ResetTimer()
	if err := f.Run(); err != nil {
		b.Fatal(err)
	}
}

// An event costs no allocation.
func TestNoAllocation(t *testing.T) {
	if n := testing.Benchmark(BenchmarkEvent).AllocsPerOp(); n != 0 {
		t.Errorf("%d allocations for each event", n)
	}
}
