package sink

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// An event is late when it was committed so long ago, and traffic is heavy
	// with so many events a second in a window.
	late        = 50 * time.Millisecond
	heavy       = 10_000
	heavyWindow = 10 * time.Millisecond
	// A late event waits for others for a part of the time that it is late by.
	waitPart  = 16
	waitLimit = 50 * time.Millisecond
	// What waits is a part of the memory that events may take.
	backlogPart = 4
	// overhead is what a waiting event takes beside its key and value, roughly.
	overhead = 1 << 10
)

// backlog keeps the events of a backlog together for a moment, so that the client
// makes larger batches: they cost it, the network and the brokers much less.
// (Measured with 100-row transactions: 1,300 records a batch instead of 300, a
// seventh less CPU time here and half of the broker's.) The client's own linger
// would make every event wait; here only those wait that are late already, for a
// sixteenth of it and at most 50 ms, and only in traffic that makes it worth
// while. The traffic also bounds what a clock does that is wrong.
type backlog struct {
	produce func(*Delivery)
	limit   int64         // of bytes; 0: nothing waits
	delays  *atomic.Int64 // counts events that waited; nil: nobody asks

	// partitions is how many all topics have that were sent to; from many on, if that is not
	// 0, events wait by partition.
	partitions atomic.Int32
	many       int32
	piles      piles
	unget      func() // takes back the delivery that is sent: a copy of it waits

	mu      sync.Mutex // also makes sure that nothing overtakes what waits
	waiting []*Delivery
	bytes   int64
	timer   *time.Timer

	// Of the sending goroutine: the events of this window, which is as long as
	// events wait, and whether the last one had many.
	since  time.Time
	events int
	heavy  bool
	lateBy time.Duration // as lateness returned last; mu guards it
}

func (b *backlog) init(produce func(*Delivery), limit int64) {
	b.produce, b.limit = produce, limit
	b.timer = time.AfterFunc(time.Hour, b.release)
	b.timer.Stop()
	b.piles.timer = time.AfterFunc(time.Hour, b.sendDue)
	b.piles.timer.Stop()
}

// send hands an event to the client, now or later.
func (b *backlog) send(d *Delivery) {
	if b.limit == 0 {
		d.charge()
		b.produce(d)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events++
	if b.many > 0 && b.partitions.Load() >= b.many {
		b.sendByPartition(d)
		return
	}
	d.charge()
	if len(b.waiting) == 0 {
		wait := b.wait(d.CommittedAt, time.Now())
		if wait == 0 {
			b.produce(d)
			return
		}
		b.timer.Reset(wait)
	}
	b.waiting = append(b.waiting, d)
	if b.bytes += overhead + int64(len(d.Record.Key)+len(d.Record.Value)); b.bytes >= b.limit {
		b.flush(b.produce)
	}
}

// wait returns for how long an event may wait.
func (b *backlog) wait(committed, now time.Time) time.Duration {
	return min(b.lateness(committed, now)/waitPart, waitLimit)
}

// lateness returns by how much an event is late in heavy traffic, 0 if it is not.
func (b *backlog) lateness(committed, now time.Time) time.Duration {
	if elapsed := now.Sub(b.since); elapsed >= heavyWindow {
		b.heavy = float64(b.events)/elapsed.Seconds() >= heavy
		b.since, b.events = now, 0
	}
	lateness := now.Sub(committed)
	if !b.heavy || lateness < late {
		lateness = 0
	}
	b.lateBy = lateness
	return lateness
}

// release is called by the timer.
func (b *backlog) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flush(b.produce)
}

// stop gives what still waits to discard instead.
func (b *backlog) stop(discard func(*Delivery)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flush(discard)
	for b.piles.first != nil {
		b.emptyPile(b.piles.first, discard)
	}
	b.piles.timer.Stop()
}

func (b *backlog) flush(to func(*Delivery)) {
	if len(b.waiting) == 0 {
		return
	}
	b.timer.Stop()
	if b.delays != nil {
		b.delays.Add(int64(len(b.waiting)))
	}
	for _, d := range b.waiting {
		to(d)
	}
	clear(b.waiting)
	b.waiting, b.bytes = b.waiting[:0], 0
}
