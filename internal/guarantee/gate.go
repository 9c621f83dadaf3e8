package guarantee

import (
	"sync"
	"sync/atomic"
)

// Gate is a lock that is handed over in the order in which it was asked for: who sends
// takes it again for each event, and must not keep out who ends a transaction. It may be
// held while something is waited for. (In a bubble of testing/synctest that would stop
// the clock with a sync.Mutex.) The zero value is free.
type Gate struct {
	held atomic.Bool
	// queued counts those in waiting, and those that are about to be. Who lets go looks
	// at it after held, who waits at held after queued: one of them sees the other.
	queued  atomic.Int32
	mu      sync.Mutex
	waiting []chan struct{} // closed when it is their holder's turn
}

// Lock waits for its turn, whatever happens meanwhile.
func (g *Gate) Lock() {
	if turn := g.Ask(); turn != nil {
		<-turn
	}
}

// Ask locks the gate and returns nil; or, if it is not free, a channel that is closed when
// it is the caller's turn, who then holds it. One who does not wait for that withdraws.
func (g *Gate) Ask() (turn <-chan struct{}) {
	if g.queued.Load() == 0 && g.held.CompareAndSwap(false, true) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queued.Add(1)
	if len(g.waiting) == 0 && g.held.CompareAndSwap(false, true) {
		g.queued.Add(-1)
		return nil
	}
	mine := make(chan struct{})
	g.waiting = append(g.waiting, mine)
	return mine
}

// Withdraw gives up a turn, whether it has come or not.
func (g *Gate) Withdraw(turn <-chan struct{}) {
	g.mu.Lock()
	for i, other := range g.waiting {
		if other == turn {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			g.queued.Add(-1)
			g.mu.Unlock()
			return
		}
	}
	g.mu.Unlock()
	g.Unlock()
}

// Unlock hands the gate over to who asked for it first.
func (g *Gate) Unlock() {
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
