package guarantee

import (
	"sync"
	"sync/atomic"
)

// gate is a lock that is handed over in the order in which it was asked for: who sends
// takes it again for each event, and must not keep out who ends a transaction. It may be
// held while something is waited for. (In a bubble of testing/synctest that would stop
// the clock with a sync.Mutex.) The zero value is free.
type gate struct {
	held atomic.Bool
	// queued counts those in waiting, and those that are about to be. Who lets go looks
	// at it after held, who waits at held after queued: one of them sees the other.
	queued  atomic.Int32
	mu      sync.Mutex
	waiting []chan struct{} // closed when it is their holder's turn
}

func (g *gate) Lock() {
	if g.queued.Load() == 0 && g.held.CompareAndSwap(false, true) {
		return
	}
	g.mu.Lock()
	g.queued.Add(1)
	if len(g.waiting) == 0 && g.held.CompareAndSwap(false, true) {
		g.queued.Add(-1)
		g.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()
	<-turn
}

func (g *gate) Unlock() {
	g.held.Store(false)
	if g.queued.Load() == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) > 0 && g.held.CompareAndSwap(false, true) {
		g.queued.Add(-1)
		close(g.waiting[0])
		g.waiting = g.waiting[1:]
	}
}
