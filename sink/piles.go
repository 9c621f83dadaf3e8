package sink

import (
	"context"
	"math"
	"runtime"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/record"
)

const (
	// manyPartitions is of how many partitions all topics are together when late events wait
	// by partition.
	manyPartitions = 64
	// pileWait is the most that a late event waits so.
	pileWait = 500 * time.Millisecond
	// Of the memory that events may take in all, copies that wait take up to waitShare, and
	// what is with the client of them sentShare, beside the copies. The rest is for these,
	// and for what is read.
	waitShare = 0.55
	sentShare = 0.18
	// lookEvery is how often it is looked whether events still come.
	lookEvery = 20 * time.Millisecond
	// clockEvery is for how many events the time of day is read once.
	clockEvery = 16
)

// piles keep the late events of a backlog by partition. With hundreds of partitions a
// batch has few records of what is sent at a time, each batch costs the broker about as
// much as fifty records, and all that waits would have to be in flight for larger ones.
// So events wait here, as copies that take little more than their bytes, and the fullest
// piles are sent when no more may wait. (Measured with 600 partitions: see
// docs/benchmarks.md.)
//
// Within a partition nothing overtakes: an event that does not wait is sent after the pile
// of its partition.
//
// The backlog's mutex guards them.
type piles struct {
	ctx     context.Context // of the deliveries
	limit   int             // bytes of chunks that may wait
	bytes   int             // that do
	most    int64           // events that may be with the client
	wait    time.Duration   // the most that an event waits, pileWait
	look    time.Duration   // lookEvery
	chunks  chunks
	sent    reserve
	spares  spares // of what is sent
	timer   *time.Timer
	now     time.Time
	untilAt int // how many events more until now is read again
	// added counts events that had to wait; looked is when it was looked at last, and seen
	// what it was.
	added, seen int
	looked      time.Time

	// first is the pile whose first event came first, last the one whose first came last.
	first, last *pile
}

// pile is what waits for a partition of a topic.
type pile struct {
	topic        *topic
	count, place int32 // the partition, of so many
	events       int
	bytes        int
	head, tail   *chunk
	until        time.Time // when it is sent at the latest
	before, next *pile     // those that are not empty, in the order of their first events
}

// byPartition prepares for many partitions. from is how the events come that wait.
func (b *backlog) byPartition(ctx context.Context, from *spares, many int32) {
	if many == 0 {
		many = manyPartitions
	}
	b.many, b.unget = many, from.unget
	s := &b.piles
	all := float64(b.limit * backlogPart)
	s.ctx, s.limit, s.wait, s.look = ctx, int(waitShare*all), pileWait, lookEvery
	s.most = max(int64(sentShare*all)*slabSize/slabBytes, slabSize)
	s.chunks.enough = s.most / 2
	s.chunks.budget, s.chunks.wake = from.budget, func() { s.timer.Reset(0) }
	s.sent.budget, s.sent.inFlight = from.budget, from.inFlight
	s.sent.bytes = int(s.most) * slabBytes / slabSize
	s.sent.drop = func() { s.sent.Discard(s.spares.shed(math.MaxInt32)) }
	s.spares.budget, s.spares.inFlight = &s.sent, from.inFlight
}

// pileOf returns the pile of a delivery's partition, nil if that is not known or does not
// matter: such a record is sent at once.
func (b *backlog) pileOf(d *Delivery) *pile {
	t := d.topic
	count := t.count.Load()
	if count == 0 || d.unchecked || !t.open.Load() {
		return nil
	}
	if len(t.piles) != int(count) {
		// The topic has got more partitions. What waits was meant for where its keys were.
		for i := range t.piles {
			b.emptyPile(&t.piles[i], b.produce)
		}
		t.piles = make([]pile, count)
		for i := range t.piles {
			t.piles[i].topic, t.piles[i].count, t.piles[i].place = t, count, int32(i)
		}
	}
	switch {
	case d.Partition != record.ByKey:
		if d.Partition >= count {
			return nil
		}
		return &t.piles[d.Partition]
	case d.Key == nil:
		return nil
	}
	return &t.piles[byKey.Partition(&d.Record.Record, int(count))]
}

// byKey is where every client of Kafka sends a record that has a key.
var byKey = kgo.StickyKeyPartitioner(nil).ForTopic("")

// sendByPartition hands an event to the client after what waits for its partition, or
// has a copy of it wait.
func (b *backlog) sendByPartition(d *Delivery) {
	b.flush(b.produce)
	b.piles.sent.begin()
	if b.piles.untilAt == 0 {
		b.piles.now, b.piles.untilAt = time.Now(), clockEvery
	}
	b.piles.untilAt--
	p := b.pileOf(d)
	if p == nil {
		d.charge()
		b.produce(d)
		return
	}
	lateness := b.lateness(d.CommittedAt, b.piles.now)
	if lateness == 0 && b.sendPile(p) {
		d.charge()
		b.produce(d)
		return
	}
	b.add(p, d, min(lateness/waitPart, b.piles.wait))
	b.handOut()
}

// full tells whether so many of the events that waited are with the client that no more
// may be sent. If so, the timer is set when half of them are acknowledged.
func (s *piles) full() bool { return s.chunks.tooMany(s.most) }

// add puts a copy of the event on the pile, and takes back the delivery.
func (b *backlog) add(p *pile, d *Delivery, wait time.Duration) {
	s, size := &b.piles, packed(d)
	if p.tail == nil || !p.tail.add(d, size) {
		c := s.chunks.get(size)
		c.add(d, size)
		p.bytes += c.bytes()
		s.bytes += c.bytes()
		if p.tail == nil {
			p.head = c
			b.enqueue(p, wait)
		} else {
			p.tail.next = c
		}
		p.tail = c
	}
	p.events++
	s.added++
	s.spares.most = max(s.spares.most, min(len(d.Headers), record.MaxHeaders))
	d.Memory.Release(0)
	b.unget()
}

// enqueue makes an empty pile the last of those that wait.
func (b *backlog) enqueue(p *pile, wait time.Duration) {
	s := &b.piles
	p.until, p.before = s.now.Add(wait), s.last
	if s.last != nil {
		s.last.next = p
	} else {
		s.first = p
		s.timer.Reset(min(wait, s.look))
	}
	s.last = p
}

// remove takes a pile off those that wait.
func (s *piles) remove(p *pile) {
	if p.before != nil {
		p.before.next = p.next
	} else {
		s.first = p.next
	}
	if p.next != nil {
		p.next.before = p.before
	} else {
		s.last = p.before
	}
	p.before, p.next = nil, nil
}

// sendPile sends the events of a pile, until there are none, or no more may be sent.
func (b *backlog) sendPile(p *pile) (all bool) {
	for p.events > 0 && !b.piles.full() {
		b.sendChunk(p, b.produce)
	}
	return p.events == 0
}

// emptyPile gives all events of a pile to f.
func (b *backlog) emptyPile(p *pile, f func(*Delivery)) {
	for p.events > 0 {
		b.sendChunk(p, f)
	}
}

// sendChunk gives the first events of a pile to f.
func (b *backlog) sendChunk(p *pile, f func(*Delivery)) {
	s, c := &b.piles, p.head
	if p.head = c.next; p.head == nil {
		p.tail = nil
		s.remove(p)
	}
	p.events -= int(c.n)
	p.bytes -= c.bytes()
	s.bytes -= c.bytes()
	if b.delays != nil {
		b.delays.Add(int64(c.n))
	}
	c.send(s.ctx, p, &s.spares, f)
}

// handOut sends the fullest piles while too much waits, half as many events as may be with
// the client at a time, and no more while more than the other half are: a request is on its
// way while the next one is made.
func (b *backlog) handOut() {
	s := &b.piles
	for half := s.most / 2; s.bytes >= s.limit && !s.chunks.tooMany(half+1); {
		b.sendFullest(int(half))
		runtime.Gosched() // to the client, before it has the next half
	}
}

// sendFullest sends as many events, or a few more, of the piles that have the most.
func (b *backlog) sendFullest(want int) {
	s := &b.piles
	var events [256]int // of the piles with so many events, of the last with that many or more
	for p := s.first; p != nil; p = p.next {
		events[min(p.events, len(events)-1)] += p.events
	}
	least := len(events) - 1
	for sum := events[least]; sum < want && least > 1; sum += events[least] {
		least--
	}
	for p := s.first; p != nil && want > 0 && !s.full(); {
		next := p.next
		if p.events >= least {
			want -= p.events
			b.sendPile(p)
		}
		p = next
	}
}

// sendDue is called by the timer: it sends the piles that have waited long enough, others
// if too much waits, and all if there is nothing to wait for: no event has come of late, and
// Kafka has answered what it got.
func (b *backlog) sendDue() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handOut()
	s := &b.piles
	now := time.Now()
	idle := false
	if now.Sub(s.looked) >= s.look {
		idle = s.added == s.seen && s.chunks.sent.Load() == 0
		s.looked, s.seen = now, s.added
	}
	for s.first != nil && !s.full() {
		if wait := s.first.until.Sub(now); wait > 0 && !idle {
			s.timer.Reset(min(wait, s.look))
			return
		}
		b.sendPile(s.first)
	}
}

// learn notes of how many partitions a topic is.
func (b *backlog) learn(t *topic, count int) {
	if count <= 0 || count > math.MaxInt32 || int(t.count.Load()) == count {
		return
	}
	if old := t.count.Swap(int32(count)); int(old) < count {
		b.partitions.Add(int32(count) - old)
	}
}
