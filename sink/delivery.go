package sink

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"outboxd/internal/record"
)

// Delivery is one event on its way to Kafka: the router and a format fill its Record,
// the caller says who is told of the acknowledgement and whose memory the record
// points into, and Kafka.Send takes it over. Deliveries are reused; after Send
// the caller must not touch it.
//
// It is a context.Context so that it can travel with the client's record: that
// leads the acknowledgement back here without a closure or a map entry a record.
//
// In a backlog each is out of the processor's caches when it is needed again: its size is
// time. (A fifth more of it cost a tenth of all.)
type Delivery struct {
	context.Context

	slab  *slab
	topic *topic
	// Receipt is told once, when Kafka has acknowledged the event with acks=all.
	Receipt Receipt
	// Memory is released once, when the record's bytes are no longer needed.
	Memory Memory

	record.Record

	// charged is what Memory was told that the record takes beside the event.
	charged int
	size    int // see wireSize
	// place is the partition that its key has among count, if count is not 0.
	count, place int32
	// unchecked: it was let through before the topic's limits were known.
	unchecked bool
}

// Value is that of the context; the record's is d.Record.Value.
func (d *Delivery) Value(key any) any { return d.Context.Value(key) }

// Receipt is told of an acknowledgement, from the Kafka client's goroutine.
type Receipt interface{ Acknowledge() }

// Memory holds the bytes that a record's key, value and headers point into, and
// accounts for what is made of them until Release, which is told the sum of what
// was charged.
type Memory interface {
	Charge(bytes int)
	Release(charged int)
}

const (
	// A value of so many bytes is large: slabBytes does not speak for it.
	largeValue = 4 << 10
	// wireCopies is how often the client has a value that it sends: in the request, and
	// compressed.
	wireCopies = 2
)

// charge accounts for the memory of what was made of the event, and of what the client
// makes of a large value, if that was not done before.
func (d *Delivery) charge() {
	if d.charged > 0 {
		return
	}
	if d.charged = d.Made() + wired(d.Record.Value); d.charged > 0 {
		d.Memory.Charge(d.charged)
	}
}

// wired returns what the client makes of a value, as far as slabBytes does not speak for it.
func wired(value []byte) int {
	if len(value) < largeValue {
		return 0
	}
	return wireCopies * len(value)
}

// recycle makes the delivery ready for its next use. It keeps nothing of the event.
func (d *Delivery) recycle() {
	d.Receipt, d.Memory = nil, nil
	d.topic, d.unchecked, d.count = nil, false, 0
	d.charged = 0
	d.Reset()
}

// Budget accounts for the memory of deliveries, those in use and those that are kept
// to be used again. When nothing is in flight, all that was acquired is released.
type Budget interface {
	// Acquire is told of bytes that come into use, and whether they were kept until
	// now.
	Acquire(bytes int, kept bool)
	// Release is told of bytes that are no longer in use. It returns whether they may
	// be kept.
	Release(bytes int) (keep bool)
	// Discard is told of bytes that were kept and are not any more.
	Discard(bytes int)
}

// noBudget has no limit.
type noBudget struct{}

func (noBudget) Acquire(int, bool) {}
func (noBudget) Release(int) bool  { return true }
func (noBudget) Discard(int)       {}

// spares hands out deliveries in the order in which they lie in memory, and takes
// them back a slab at a time, which is used again when all of it has come back:
// the processor then reads ahead, where deliveries that are used again one by one,
// in the order of the acknowledgements, each cost it several waits for memory. The
// slab that came back last is used first: it is the likeliest to be in the caches
// still.
//
// A slab is in use as long as one of its deliveries is: with slow partitions, that may
// be much longer than the others. The one that is handed out from is in use only while
// something is in flight, so that an idle sink uses no memory.
type spares struct {
	budget Budget
	// inFlight counts deliveries between Send and their answer.
	inFlight *atomic.Int64

	mu       sync.Mutex
	returned []*slab
	// current is the slab that is handed out from; only the sending goroutine changes
	// it. idle says that it does not count as in use, idleKept that it counts as kept.
	current        *slab
	idle, idleKept bool
	closed         bool // nothing is kept any more

	// Of the sending goroutine. next is the first delivery of current that is not
	// handed out; most is the most headers that a record had, up to
	// record.MaxHeaders.
	next int
	most int
}

// slab is a piece of deliveries that are allocated, and come back, together.
type slab struct {
	spares     *spares
	deliveries [slabSize]Delivery
	out        atomic.Int32 // how many are still to come back
}

const (
	slabSize = 64
	// slabBytes is what a slab takes together with what the client keeps of its
	// records. Measured with a broker that does not answer: 740 bytes a record with
	// six headers, 940 with eleven.
	slabBytes = slabSize * 950
)

func (s *spares) get(ctx context.Context) *Delivery {
	if s.current == nil || s.next == slabSize {
		s.take(ctx)
	}
	d := &s.current.deliveries[s.next]
	s.next++
	return d
}

// unget takes back what get returned last.
func (s *spares) unget() {
	s.current.deliveries[s.next-1].recycle()
	if s.next--; s.inFlight.Load() == 0 {
		s.rest()
	}
}

// take makes another slab the current one.
func (s *spares) take(ctx context.Context) {
	b := s.reuse()
	s.budget.Acquire(slabBytes, b != nil)
	if b == nil {
		b = &slab{spares: s}
		headers := make([]record.Header, slabSize*s.most)
		for i := range b.deliveries {
			d := &b.deliveries[i]
			d.Context, d.Partition, d.slab = ctx, record.ByKey, b
			d.Record.Context = d
			d.Headers = headers[i*s.most : i*s.most : (i+1)*s.most]
		}
	}
	b.out.Store(slabSize)
	s.mu.Lock()
	s.current, s.idle = b, false
	s.mu.Unlock()
	s.next = 0
}

func (s *spares) reuse() *slab {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle && s.idleKept {
		// One of its deliveries was handed out and neither sent nor returned.
		s.budget.Discard(slabBytes)
		s.idle = false
	}
	return pop(&s.returned)
}

// pop takes the last one off a list, nil if there is none.
func pop[T any](list *[]*T) (last *T) {
	if n := len(*list) - 1; n >= 0 {
		last, (*list)[n] = (*list)[n], nil
		*list = (*list)[:n]
	}
	return last
}

// put takes back a delivery that get returned. Any goroutine may call it.
func put(d *Delivery) {
	d.recycle()
	s := d.slab.spares
	if d.slab.out.Add(-1) > 0 || !s.budget.Release(slabBytes) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.budget.Discard(slabBytes)
		return
	}
	s.returned = append(s.returned, d.slab)
}

// busy is called by the sending goroutine when something is in flight again.
func (s *spares) busy() {
	s.mu.Lock()
	idle, kept := s.idle, s.idleKept
	s.idle = false
	s.mu.Unlock()
	if idle {
		s.budget.Acquire(slabBytes, kept) // it may call shed
	}
}

// rest is called when nothing is in flight any more, if so: busy may have come first.
func (s *spares) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	// With none of its deliveries left, the current slab was given back whole.
	if s.idle || s.current == nil || s.current.out.Load() == 0 || s.inFlight.Load() != 0 {
		return
	}
	s.idle, s.idleKept = true, s.budget.Release(slabBytes)
	if s.closed && s.idleKept {
		s.budget.Discard(slabBytes)
		s.idleKept = false
	}
}

// close gives up what is kept, now and when more comes back.
func (s *spares) close() {
	s.rest()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.budget.Discard(len(s.returned) * slabBytes)
	s.returned = nil
	if s.idle && s.idleKept {
		s.budget.Discard(slabBytes)
		s.idleKept = false
	}
}

// shed gives up slabs that are kept, those first that have not been used for longest.
func (s *spares) shed(bytes int) (shed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.returned), (bytes+slabBytes-1)/slabBytes)
	s.returned = slices.Delete(s.returned, 0, n)
	return n * slabBytes
}
