package sink

import (
	"sync/atomic"
	"testing"

	"outboxd/internal/memory"
)

// What is set aside is in use as a whole while anything is in flight, whatever part of it
// is; afterwards it is kept if there is room, and given up on demand.
func TestReserve(t *testing.T) {
	budget := memory.New(1000)
	dropped := 0
	r := &reserve{budget: budget, bytes: 600, inFlight: new(atomic.Int64)}
	r.drop = func() { dropped++ }
	budget.OnShortage(r.shed)
	check := func(what string, used, kept int64, drops int) {
		t.Helper()
		if got, want := budget.Accounts(), (memory.Accounts{Deliveries: used, Kept: kept}); got != want || dropped != drops {
			t.Errorf("%s: %s, dropped %d times; want %s, %d", what, got, dropped, want, drops)
		}
	}
	r.busy()
	r.rest()
	check("nothing has waited yet", 0, 0, 0)
	r.inFlight.Store(2)
	r.begin()
	r.begin()
	check("an event waits", 600, 0, 0)
	r.Acquire(400, false)
	r.Acquire(400, false)
	if r.Release(400) {
		t.Error("more is kept than the reserve")
	}
	if !r.Release(400) {
		t.Error("what fits into the reserve is not kept")
	}
	r.rest()
	check("something is in flight", 600, 0, 0)
	r.inFlight.Store(0)
	r.rest()
	r.rest()
	check("nothing is in flight", 0, 600, 0)
	r.busy()
	r.busy()
	check("something is in flight again", 600, 0, 0)
	r.rest()
	budget.Acquire(500, false)
	check("others need it", 500, 0, 1)
	if shed := r.shed(1); shed != 0 {
		t.Errorf("%d bytes were given up twice", shed)
	}
	r.busy()
	check("it is needed all the same", 1100, 0, 1)
	r.rest()
	check("there is no room to keep it", 500, 0, 2)
}
