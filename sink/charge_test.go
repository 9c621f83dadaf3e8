package sink

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/record"
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
		d.Record.Value = make([]byte, test.value)
		d.charge()
		if got := w.charged.Load(); got != int64(test.want) || d.charged != test.want {
			t.Errorf("%+v: charged %d", test, got)
		}
		if d.recycle(); d.charged != 0 || d.Record.Value != nil || d.Made() > 8<<10 {
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

// An event that waits for a broker takes, beside its bytes, what is accounted for. Eleven
// headers has one with every field mapped.
func TestWaitingEventTakesWhatIsAccountedFor(t *testing.T) {
	for _, headers := range []int{0, 6, 11} {
		t.Run(fmt.Sprintf("%d headers", headers), func(t *testing.T) {
			c := broker(t, 1)
			k := open(t, c)
			s := &sender{t: t, k: k}
			h := make([]record.Header, headers)
			if err := s.try(testTopic, "k", []byte("v"), h...); err != nil {
				t.Fatal(err)
			}
			s.delivered()
			answer := make(chan struct{})
			defer close(answer)
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				<-answer
				return nil, nil, false
			})
			const events = 1000 * slabSize
			before := heap()
			w, key, value := new(witness), []byte("k"), []byte("v")
			for n := range events {
				d := k.Next()
				d.fill(n, value)
				d.Topic, d.Key, d.Receipt, d.Memory = testTopic, key, w, w
				d.Headers = append(d.Headers[:0], h...)
				if err := k.Send(d); err != nil {
					t.Fatal(err)
				}
			}
			took := int(heap()-before) / events
			if n := k.InFlight(); n != events {
				t.Fatalf("%d events are in flight", n)
			}
			t.Logf("%d bytes", took)
			if most := slabBytes / slabSize; took > most {
				t.Errorf("an event takes %d bytes beside its own, %d are accounted for", took, most)
			}
		})
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	for range 2 { // pools give up what they have with the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
