package simulate

import (
	"fmt"
	"sync"
	"time"
)

// hostClock is the time of day on the host of the processes. A bubble's own clock is the
// one that nobody sets.
type hostClock struct {
	mu    sync.Mutex
	ahead time.Duration
	steps []clockStep // ahead
}

// clockStep is when the clock was set ahead, and by how much.
type clockStep struct {
	at time.Time
	by time.Duration
}

func (w *world) timeOfDay() time.Time {
	w.clock.mu.Lock()
	defer w.clock.mu.Unlock()
	return time.Now().Add(w.clock.ahead)
}

// setAhead returns by how much the clock was set ahead since a time.
func (c *hostClock) setAhead(since time.Time) (by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.steps {
		if !s.at.Before(since) {
			by += s.by
		}
	}
	return by
}

// clockFault makes a step in which a clock is set.
func (m *maker) clockFault() step {
	by := m.lasts()
	if m.r.IntN(3) == 0 {
		by = time.Duration(1+m.r.IntN(100)) * time.Hour
	}
	if m.r.IntN(2) == 0 {
		by = -by
	}
	if m.r.IntN(2) == 0 {
		return step{what: fmt.Sprintf("the server's clock is set by %s", by), do: func(w *world) {
			w.server.update(func() { w.server.ahead += by })
		}}
	}
	return step{what: fmt.Sprintf("the processes' clock is set by %s", by), do: func(w *world) {
		w.clock.mu.Lock()
		defer w.clock.mu.Unlock()
		w.clock.ahead += by
		if by > 0 {
			w.clock.steps = append(w.clock.steps, clockStep{time.Now(), by})
		}
	}}
}
