package sink

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"outboxd/internal/record"
)

// endless acknowledges and releases whatever it is asked to.
type endless struct{ window chan struct{} }

func (e endless) Acknowledge() { <-e.window }
func (e endless) Charge(int)   {}
func (e endless) Release(int)  {}

// BenchmarkSend is the whole way of an event through the client, with at most a
// few thousand in flight, to a broker that keeps nothing. Its allocations are the
// client's and the broker's; Send itself is to add none.
func BenchmarkSend(b *testing.B) {
	c := broker(b, 1, kfake.BlackholeProduce())
	k := open(b, c)
	value := []byte(`{"data": "` + strings.Repeat("x", 290) + `"}`)
	key, id := []byte("order-1"), []byte("8f3a7a0e-0000-4000-8000-000000000001")
	e := endless{make(chan struct{}, 4096)}
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		e.window <- struct{}{}
		d := k.Next()
		d.fill(1, value)
		d.Topic, d.Key = testTopic, key
		d.Headers = append(d.Headers[:0], record.Header{Key: "id", Value: id})
		d.Receipt, d.Memory = e, e
		if err := k.Send(d); err != nil {
			b.Fatal(err)
		}
	}
	until(b, "everything is answered", func() bool { return k.InFlight() == 0 || k.Err() != nil })
	if err := k.Err(); err != nil {
		b.Fatal(err)
	}
}
