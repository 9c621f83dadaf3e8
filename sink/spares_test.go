package sink

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"outboxd/internal/memory"
)

// Deliveries are handed out as they lie in memory, and the slab that came back last
// is used first, with what room for headers turned out to be needed.
func TestSparesAreUsedInOrder(t *testing.T) {
	ctx := context.Background()
	s := &spares{most: 5, budget: noBudget{}, inFlight: new(atomic.Int64)}
	var used []*Delivery
	for i := range 3 * slabSize {
		d := s.get(ctx)
		if cap(d.Headers) != 5 || len(d.Headers) != 0 {
			t.Fatalf("a fresh delivery has %d of %d headers", len(d.Headers), cap(d.Headers))
		}
		if i%slabSize > 0 && uintptr(unsafe.Pointer(d)) != uintptr(unsafe.Pointer(used[i-1]))+unsafe.Sizeof(*d) {
			t.Fatalf("number %d does not lie behind the one before", i)
		}
		used = append(used, d)
	}
	// All of the second slab comes back, and then all of the others but one each.
	for i := range slabSize {
		put(used[2*slabSize-1-i])
	}
	for i := 1; i < slabSize; i++ {
		put(used[i])
		put(used[2*slabSize+i])
	}
	for i := range slabSize {
		if d := s.get(ctx); d != used[slabSize+i] {
			t.Fatalf("number %d is not that of the slab that came back", i)
		}
	}
	put(used[0])
	put(used[2*slabSize])
	if d := s.get(ctx); d != used[2*slabSize] {
		t.Error("not the slab that came back last")
	}
	s.unget()
	if d := s.get(ctx); d != used[2*slabSize] {
		t.Error("what was taken back is not handed out again")
	}
	for range slabSize - 1 {
		s.get(ctx)
	}
	if d := s.get(ctx); d != used[0] {
		t.Error("a new slab was made although a used one is there")
	}
}

// A slab counts as used until the last of its deliveries has come back: it is of no use
// before. What is kept is given up on demand.
func TestSparesAreAccountedFor(t *testing.T) {
	budget := memory.New(1 << 40)
	s := &spares{budget: budget, inFlight: new(atomic.Int64)}
	check := func(what string, used, kept int) {
		t.Helper()
		want := memory.Accounts{Deliveries: int64(used) * slabBytes, Kept: int64(kept) * slabBytes}
		if got := budget.Accounts(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	var used []*Delivery
	for range 4 * slabSize {
		used = append(used, s.get(t.Context()))
	}
	check("all are out", 4, 0)
	for i, d := range used {
		if i%slabSize != 7 {
			put(d)
		}
	}
	check("one of each is out", 4, 0)
	for i := range 3 {
		put(used[i*slabSize+7])
	}
	check("the last of three came back", 1, 3)
	if d := s.get(t.Context()); d.slab != used[2*slabSize].slab {
		t.Error("not the slab that came back last")
	}
	check("one is used again", 2, 2)
	if shed := s.shed(1); shed != slabBytes {
		t.Errorf("%d bytes were given up", shed)
	}
	for range slabSize {
		used = append(used, s.get(t.Context()))
	}
	if used[len(used)-1].slab != used[slabSize].slab {
		t.Error("not the slab that was used last was kept")
	}
	check("the other one is used again", 3, 1) // the account was not told of the one that was given up
	if shed := s.shed(1 << 30); shed != 0 {
		t.Errorf("%d bytes were given up of what is used", shed)
	}
}

// The client's goroutine answers the last event while the sending one takes the next
// slab: that is for the race detector.
func TestSparesRestWhileOneIsTaken(t *testing.T) {
	s := &spares{budget: noBudget{}, inFlight: new(atomic.Int64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			s.rest()
		}
	}()
	for range 100 * slabSize {
		s.get(context.Background())
	}
	<-done
}

// When something is in flight again and memory is short, the slabs that are kept give way
// to the one that is in use.
func TestSparesGiveWayToTheirOwn(t *testing.T) {
	budget := memory.New(memory.BlockSize + 3*slabBytes)
	block := budget.Take(1, nil)
	s := &spares{budget: budget, inFlight: new(atomic.Int64)}
	budget.OnShortage(s.shed)
	var used []*Delivery
	for range 2*slabSize + 1 {
		used = append(used, s.get(t.Context()))
	}
	for _, d := range used {
		put(d)
	}
	block.Charge(slabBytes)
	s.rest()
	if got, want := budget.Accounts(), (memory.Accounts{Blocks: memory.BlockSize, Events: slabBytes, Kept: 2 * slabBytes}); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	done := make(chan struct{})
	go func() {
		s.busy()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the sending goroutine waits for itself")
	}
	if got, want := budget.Accounts(), (memory.Accounts{Blocks: memory.BlockSize, Events: slabBytes, Deliveries: slabBytes, Kept: slabBytes}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
