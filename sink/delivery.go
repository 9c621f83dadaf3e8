package sink

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
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
	// value is the encoded value, unless it is the payload itself; charged is what
	// Memory was told that the record takes beside the event.
	value   []byte
	charged int
	slab    *slab
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

const (
	// A value of so many bytes is large: slabBytes does not speak for it.
	largeValue = 4 << 10
	// wireCopies is how often the client has a value that it sends: in the request, and
	// compressed.
	wireCopies = 2
)

// charge accounts for the memory of what was made of the event, and of what the client
// makes of a large value.
func (d *Delivery) charge() {
	d.charged = cap(d.value) + d.Converted()
	if n := len(d.record.Value); n >= largeValue {
		d.charged += wireCopies * n
	}
	if d.charged > 0 {
		d.Memory.Charge(d.charged)
	}
}

// recycle makes the delivery ready for its next use. It keeps nothing of the event.
func (d *Delivery) recycle() {
	d.Receipt, d.Memory = nil, nil
	d.id = nil
	d.Reset()
	d.record = kgo.Record{}
	if d.charged = 0; cap(d.value) > keepValue {
		d.value = nil
	}
}

// Budget accounts for the memory of deliveries, those in use and those that are kept
// to be used again.
type Budget interface {
	// Use is told of bytes that come into use, and whether they were kept until now.
	Use(bytes int, kept bool)
	// Unuse is told of bytes that are no longer in use. It returns whether they may be
	// kept.
	Unuse(bytes int) (keep bool)
}

// noBudget has no limit.
type noBudget struct{}

func (noBudget) Use(int, bool)  {}
func (noBudget) Unuse(int) bool { return true }

// spares hands out deliveries in the order in which they lie in memory, and takes
// them back a slab at a time, which is used again when all of it has come back:
// the processor then reads ahead, where deliveries that are used again one by one,
// in the order of the acknowledgements, each cost it several waits for memory. The
// slab that came back last is used first: it is the likeliest to be in the caches
// still.
//
// A slab is in use as long as one of its deliveries is: with slow partitions, that may
// be much longer than the others.
type spares struct {
	budget Budget

	mu       sync.Mutex
	returned []*slab

	// Of the sending goroutine. next is the first delivery of current that is not
	// handed out; most is the most headers that a message had, up to
	// router.MaxHeaders.
	current *slab
	next    int
	most    int
}

// slab is a piece of deliveries that are allocated, and come back, together.
type slab struct {
	deliveries [slabSize]Delivery
	out        atomic.Int32 // how many are still to come back
}

const (
	slabSize = 64
	// slabBytes is what a slab takes together with what the client keeps of its
	// records. Measured with a broker that stands still: 900 bytes a record.
	slabBytes = slabSize * 900
)

func (s *spares) get(ctx context.Context) *Delivery {
	if s.current == nil || s.next == slabSize {
		s.current, s.next = s.take(ctx), 0
	}
	d := &s.current.deliveries[s.next]
	s.next++
	return d
}

// unget takes back what get returned last.
func (s *spares) unget() { s.next-- }

func (s *spares) take(ctx context.Context) *slab {
	b := s.reuse()
	s.budget.Use(slabBytes, b != nil)
	if b == nil {
		b = new(slab)
		headers := make([]router.Header, slabSize*s.most)
		for i := range b.deliveries {
			d := &b.deliveries[i]
			d.Context, d.Partition, d.slab = ctx, router.ByKey, b
			d.Headers = headers[i*s.most : i*s.most : (i+1)*s.most]
		}
	}
	b.out.Store(slabSize)
	return b
}

func (s *spares) reuse() *slab {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.returned)
	if n == 0 {
		return nil
	}
	b := s.returned[n-1]
	s.returned[n-1] = nil
	s.returned = s.returned[:n-1]
	return b
}

// put may be called by any goroutine.
func (s *spares) put(d *Delivery) {
	d.recycle()
	if d.slab.out.Add(-1) > 0 || !s.budget.Unuse(slabBytes) {
		return
	}
	s.mu.Lock()
	s.returned = append(s.returned, d.slab)
	s.mu.Unlock()
}

// shed gives up slabs that are kept, those first that have not been used for longest.
func (s *spares) shed(bytes int) (shed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.returned), (bytes+slabBytes-1)/slabBytes)
	s.returned = slices.Delete(s.returned, 0, n)
	return n * slabBytes
}
