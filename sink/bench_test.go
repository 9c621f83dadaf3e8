package sink

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"outboxd/decoder"
	"outboxd/router"
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
	ev := newEvent()
	ev.CommittedAt = committedAt
	ev.Values[decoder.Payload] = []byte(`{"data": "` + strings.Repeat("x", 290) + `"}`)
	key, id := []byte("order-1"), []byte("8f3a7a0e-0000-4000-8000-000000000001")
	e := endless{make(chan struct{}, 4096)}
	b.SetBytes(int64(len(ev.Values[decoder.Payload])))
	b.ReportAllocs()
	for b.Loop() {
		e.window <- struct{}{}
		d := k.Next()
		d.Topic, d.Key = testTopic, key
		d.Message.Headers = append(d.Message.Headers[:0], router.Header{Key: "id", Value: id})
		d.Receipt, d.Memory = e, e
		if err := k.Send(ev, d); err != nil {
			b.Fatal(err)
		}
	}
	until(b, "everything is answered", func() bool { return k.InFlight() == 0 || k.Err() != nil })
	if err := k.Err(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkEnvelope encodes an event with every field and a payload of 300 bytes.
func BenchmarkEnvelope(b *testing.B) {
	for name, format := range map[string]Format{"json": JSON, "cloudevents": CloudEvents} {
		b.Run(name, func(b *testing.B) {
			v := Value{Format: format, Source: "/shop/public.outbox"}
			ev := full(set(decoder.Payload, decoder.JSONBOID, `{"data": "`+strings.Repeat("x", 290)+`"}`))
			d := new(Delivery)
			d.Key = ev.Values[decoder.AggregateID]
			benchmarkEncode(b, &v, ev, d)
		})
	}
}

func benchmarkEncode(b *testing.B, v *Value, ev *decoder.Event, d *Delivery) {
	b.SetBytes(int64(len(ev.Values[decoder.Payload])))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.encode(ev, d); err != nil {
			b.Fatal(err)
		}
	}
}
