package sink

import (
	"sync"
	"sync/atomic"
)

// reserve is the Budget of those deliveries that are made of events that waited. From when
// there is one on, the memory for most of them is in use as a whole while anything is in
// flight: otherwise what waits would take it, and what is sent would pass the limit.
type reserve struct {
	budget   Budget
	bytes    int
	inFlight *atomic.Int64
	drop     func()       // gives up what is kept
	slabs    atomic.Int64 // bytes of slabs in use and kept

	begun bool // of the sending goroutine

	mu         sync.Mutex
	used, kept bool
}

// begin is called by the sending goroutine, with something in flight.
func (r *reserve) begin() {
	if !r.begun {
		r.begun = true
		r.busy()
	}
}

// busy is called by the sending goroutine when something is in flight again.
func (r *reserve) busy() {
	if !r.begun {
		return
	}
	r.mu.Lock()
	used, kept := r.used, r.kept
	r.used, r.kept = true, false
	r.mu.Unlock()
	if !used {
		r.budget.Acquire(r.bytes, kept) // it may call shed
	}
}

// rest is called when nothing is in flight any more, if so: busy may have come first.
func (r *reserve) rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used || r.inFlight.Load() != 0 {
		return
	}
	r.used, r.kept = false, r.budget.Release(r.bytes)
	if !r.kept {
		r.drop()
	}
}

// shed gives up what is kept while nothing is in flight. It leaves the account to the
// caller.
func (r *reserve) shed(int) (shed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.kept {
		return 0
	}
	r.kept = false
	r.drop()
	return r.bytes
}

// close gives up what is kept, when nothing is in flight any more.
func (r *reserve) close() {
	r.rest()
	r.budget.Discard(r.shed(0))
}

// Acquire is part of Budget, for the slabs.
func (r *reserve) Acquire(bytes int, kept bool) {
	if !kept {
		r.slabs.Add(int64(bytes))
	}
}

// Release is part of Budget: of more than the reserve nothing is kept.
func (r *reserve) Release(bytes int) (keep bool) {
	if r.slabs.Load() <= int64(r.bytes) {
		return true
	}
	r.slabs.Add(int64(-bytes))
	return false
}

// Discard is part of Budget.
func (r *reserve) Discard(bytes int) { r.slabs.Add(int64(-bytes)) }
