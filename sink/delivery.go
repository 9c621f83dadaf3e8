package sink

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/router"
)

// Delivery is one event on its way to Kafka: the router fills its Message, the
// caller says who is told of the acknowledgement and whose memory the message
// points into, and Kafka.Send takes it over. Deliveries are reused; after Send
// the caller must not touch it.
//
// It is a context.Context so that it can travel with the client's record: that
// leads the acknowledgement back here without a closure or a map entry a record.
type Delivery struct {
	context.Context

	router.Message
	// Receipt is told once, when Kafka has acknowledged the event with acks=all.
	Receipt Receipt
	// Memory is released once, when the message's bytes are no longer needed.
	Memory Memory

	id        []byte // for messages
	position  decoder.Position
	committed time.Time
	record    kgo.Record
	// value is the encoded value, unless it is the payload itself; charged is
	// what Memory was told that it takes.
	value   []byte
	charged int
}

// Receipt is told of an acknowledgement, from the Kafka client's goroutine.
type Receipt interface{ Acknowledge() }

// Memory holds the bytes that a message's key, value and headers point into, and
// accounts for what is made of them until Release, which is told the sum of what
// was charged.
type Memory interface {
	Charge(bytes int)
	Release(charged int)
}

// keepValue is how much memory of an encoded value a spare delivery keeps.
const keepValue = 4 << 10

// charge accounts for the memory of the encoded value.
func (d *Delivery) charge() {
	if d.charged = cap(d.value); d.charged > 0 {
		d.Memory.Charge(d.charged)
	}
}

// recycle makes the delivery ready for its next use.
func (d *Delivery) recycle() {
	d.Receipt, d.Memory = nil, nil
	d.Key, d.id, d.Partition = nil, nil, router.ByKey
	d.record = kgo.Record{}
	if d.charged = 0; cap(d.value) > keepValue {
		d.value = nil
	}
}

// spares hands used deliveries from the client's goroutine back to the one that
// sends, a slab at a time, and those that came back last first: they are the
// likeliest to be in the processor's caches still. Taking all that came back would
// go round through as many as were ever in flight at once.
type spares struct {
	mu       sync.Mutex
	returned []*Delivery

	// Of the sending goroutine. most is the most headers that a
	// message had, up to router.MaxHeaders.
	taken []*Delivery
	most  int
}

// slab is how many deliveries are handed back, or allocated, at once.
const slab = 64

func (s *spares) get(ctx context.Context) *Delivery {
	if len(s.taken) == 0 {
		s.mu.Lock()
		rest := max(0, len(s.returned)-slab)
		s.taken = append(s.taken, s.returned[rest:]...)
		s.returned = s.returned[:rest]
		s.mu.Unlock()
	}
	if len(s.taken) == 0 {
		fresh := make([]Delivery, slab)
		headers := make([]router.Header, slab*s.most)
		for i := range fresh {
			fresh[i].Context, fresh[i].Partition = ctx, router.ByKey
			fresh[i].Headers = headers[i*s.most : i*s.most : (i+1)*s.most]
			s.taken = append(s.taken, &fresh[i])
		}
	}
	n := len(s.taken) - 1
	d := s.taken[n]
	s.taken = s.taken[:n]
	return d
}

func (s *spares) put(d *Delivery) {
	d.recycle()
	s.mu.Lock()
	s.returned = append(s.returned, d)
	s.mu.Unlock()
}
