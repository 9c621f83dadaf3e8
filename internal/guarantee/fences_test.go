package guarantee

import (
	"errors"
	"testing"

	"outboxd/sink"
)

// Two processes that start at the same time take the id from each other until one has
// the slot. That is no other program's doing, as long as neither has claimed the
// position: found by the simulator.
func TestFencesOfTwoStartsAreNotCounted(t *testing.T) {
	e := newFences()
	fenced := &sink.FailedError{Err: sink.ErrFenced}
	for range 3 * fencesAllowed {
		e.claimDue = true // Acquire
		if err := e.Judge(&StoreError{&Doubt{fenced}}); errors.Is(err, ErrForeignID) || e.fences != 0 {
			t.Fatalf("%v, counted %d times", err, e.fences)
		}
	}
	e.claimDue = false // Save
	if _ = e.Judge(fenced); e.fences != 1 {
		t.Errorf("with the claim made, counted %d times", e.fences)
	}
}
