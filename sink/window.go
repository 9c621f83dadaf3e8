package sink

import (
	"time"

	"outboxd/internal/event"
)

// produce hands a record to the client, now or when its topic has room.
func (k *Kafka) produce(d *Delivery) {
	t := d.topic
	if t.open.Load() && !d.unchecked {
		k.client.Produce(k.sending, &d.Record.Record, k.finish)
		return
	}
	t.mu.Lock()
	if t.open.Load() && !d.unchecked {
		t.mu.Unlock()
		k.client.Produce(k.sending, &d.Record.Record, k.finish)
		return
	}
	t.queue = append(t.queue, d)
	k.held.Add(1)
	t.mu.Unlock()
	k.release(t)
}

// release hands to the client what waits and may go. Any goroutine may call it, but
// for the client's own: see room.
func (k *Kafka) release(t *topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.answered.Load() {
		return
	}
	n := 0
	for ; n < len(t.queue); n++ {
		d := t.queue[n]
		if k.ctx.Err() == nil && t.window == 0 {
			k.checkHeld(t, d)
		}
		if k.ctx.Err() != nil {
			k.held.Add(-1)
			k.discard(d)
			continue
		}
		if t.window > 0 {
			suspect := t.suspects.has(d.Position)
			if t.out > 0 && (suspect || t.suspectOut || t.out+d.size > t.window) {
				break
			}
			t.out += d.size
			t.suspectOut = suspect
		}
		k.client.Produce(k.sending, &d.Record.Record, k.finish)
		k.held.Add(-1)
	}
	if t.queue = append(t.queue[:0], t.queue[n:]...); len(t.queue) == 0 {
		t.queue = nil
		t.open.Store(t.window == 0)
	}
}

// mostWaiting is how many records of a transaction wait for their topic while some of its
// records go one by one. With all that has been read it would take longer than its time-out.
const mostWaiting = 32

// awaitTurn waits while that many wait, or the sink has failed. The sending goroutine
// calls it.
func (k *Kafka) awaitTurn(t *topic) error {
	if !t.crowded() {
		return nil
	}
	done, left := make(chan struct{}), make(chan struct{})
	defer close(left)
	k.running.Go(func() {
		defer close(done)
		for t.crowded() && k.ctx.Err() == nil {
			select {
			case <-left:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	return k.waitFor(done)
}

func (t *topic) crowded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.suspects.none() && len(t.queue) >= mostWaiting
}

// checkHeld looks, with the topic locked, at a record that was let through before the
// topic's limits were known. If they are such that it does not fit, the next sink waits
// for them.
func (k *Kafka) checkHeld(t *topic, d *Delivery) {
	k.checkRetention(&t.limit, d)
	if d.size > t.limit.bytes || t.limit.timed(d) && k.checkTime(&t.limit, d) != nil {
		k.learned.change(t.name, func(l *lesson) { l.careful = true })
		k.cancel(&FailedError{Err: errLimitChanged})
	}
}

// room is called by the client when a record of a topic with a window is answered.
func (k *Kafka) room(t *topic, at event.Position, size int, acked bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.window == 0 {
		return
	}
	t.out -= size
	if acked && !t.suspects.none() {
		t.suspects.acquit(at)
		k.learned.change(t.name, func(l *lesson) { l.suspects.acquit(at) })
		if t.suspects.none() {
			k.singles.Add(-1)
		}
	}
	if t.out == 0 {
		t.suspectOut = false
	}
	if len(t.queue) > 0 && (t.out == 0 || t.out+t.queue[0].size <= t.window) {
		go k.release(t) // not from the client's own goroutine
	}
}

// alone tells whether a record that was refused was the only one of its batch. It is
// called by the client's goroutine, for the first of a batch.
func (k *Kafka) alone(d *Delivery) bool {
	if k.inFlight.Load() == 1 {
		return true
	}
	t := d.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.window > 0 && t.out == d.size
}
