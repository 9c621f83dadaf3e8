package pipeline

import (
	"errors"
	"io"
	"testing"
	"time"

	"outboxd/sink"
)

func newFences() *exactlyOnce { return newExactlyOnce(&Pipeline{}, nil) }

// A transactional id that an unknown takes is taken back, so many times within so
// long. Other faults in between neither count nor make it forget.
func TestForeignTransactionalID(t *testing.T) {
	e := newFences()
	fenced := &sink.FailedError{Err: sink.ErrFenced}
	for i := 1; i < fencesAllowed; i++ {
		if err := e.fenced(fenced); err != error(fenced) {
			t.Fatalf("time %d: %v", i, err)
		}
		for _, other := range []error{nil, io.EOF} {
			if err := e.fenced(other); err != other {
				t.Fatalf("%v became %v", other, err)
			}
		}
	}
	err := e.fenced(fenced)
	if !errors.Is(err, errForeignID) || !errors.Is(err, sink.ErrFenced) || !permanent(err) {
		t.Errorf("time %d: %v", fencesAllowed, err)
	}

	// Long ago is forgotten.
	e.firstFence = time.Now().Add(-fencesWithin - time.Second)
	if err := e.fenced(fenced); errors.Is(err, errForeignID) || e.fences != 1 {
		t.Errorf("after %s: %v, counted %d times", fencesWithin, err, e.fences)
	}

	// At least once knows nothing of it.
	if err := (*exactlyOnce)(nil).fenced(fenced); err != error(fenced) {
		t.Errorf("without exactly_once: %v", err)
	}
}

// A transaction that took too long gets more time, and is nobody's doing.
func TestTransactionTimeoutGrows(t *testing.T) {
	e := newFences()
	expired := &sink.FailedError{Err: sink.ErrExpired}
	for want := 2 * sink.TransactionTimeout; want < 4*longestTimeout; want *= 2 {
		if err := e.fenced(expired); err != error(expired) {
			t.Fatal(err)
		}
		if got := e.p.o.Sink.TransactionTimeout; got != min(want, longestTimeout) {
			t.Errorf("the next transactions get %s, want %s", got, min(want, longestTimeout))
		}
	}
	if e.fences != 0 {
		t.Errorf("our own time-outs were counted as another program's doing: %d", e.fences)
	}
	if _ = e.fenced(&sink.FailedError{Err: sink.ErrFenced}); e.p.o.Sink.TransactionTimeout != longestTimeout {
		t.Error("what another did changed the time-out")
	}
}
