package guarantee

import (
	"errors"
	"io"
	"testing"
	"time"

	"outboxd/sink"
)

// someone is an owner of positions.
type someone struct{ Positions }

func (someone) Owner() string { return "me" }

func newFences() *ExactlyOnce { return NewExactlyOnce(someone{}, "outboxd", "outboxd-outboxd") }

// A transactional id that an unknown takes is taken back, so many times within so
// long. Other faults in between neither count nor make it forget.
func TestForeignTransactionalID(t *testing.T) {
	e := newFences()
	fenced := &sink.FailedError{Err: sink.ErrFenced}
	for i := 1; i < fencesAllowed; i++ {
		if err := e.Judge(fenced); err != error(fenced) {
			t.Fatalf("time %d: %v", i, err)
		}
		for _, other := range []error{nil, io.EOF} {
			if err := e.Judge(other); err != other {
				t.Fatalf("%v became %v", other, err)
			}
		}
	}
	err := e.Judge(fenced)
	if !errors.Is(err, ErrForeignID) || !errors.Is(err, sink.ErrFenced) {
		t.Errorf("time %d: %v", fencesAllowed, err)
	}

	// Long ago is forgotten.
	e.firstFence = time.Now().Add(-fencesWithin - time.Second)
	if err := e.Judge(fenced); errors.Is(err, ErrForeignID) || e.fences != 1 {
		t.Errorf("after %s: %v, counted %d times", fencesWithin, err, e.fences)
	}

	// At least once knows nothing of it.
	if err := NewAtLeastOnce(nil).Judge(fenced); err != error(fenced) {
		t.Errorf("without exactly_once: %v", err)
	}
}

// A transaction that took too long gets more time, and is nobody's doing.
func TestTransactionTimeoutGrows(t *testing.T) {
	e := newFences()
	expired := &sink.FailedError{Err: sink.ErrExpired}
	for want := 2 * sink.TransactionTimeout; want < 4*longestTimeout; want *= 2 {
		if err := e.Judge(expired); err != error(expired) {
			t.Fatal(err)
		}
		var next sink.Options
		e.Configure(&next, 0)
		if got := next.TransactionTimeout; got != min(want, longestTimeout) {
			t.Errorf("the next transactions get %s, want %s", got, min(want, longestTimeout))
		}
	}
	if e.fences != 0 {
		t.Errorf("our own time-outs were counted as another program's doing: %d", e.fences)
	}
	if _ = e.Judge(&sink.FailedError{Err: sink.ErrFenced}); e.timeout != longestTimeout {
		t.Error("what another did changed the time-out")
	}
}

// What the brokers forgot, nobody took: it happens as often as it likes.
func TestForgottenIDIsNotCounted(t *testing.T) {
	e := newFences()
	forgotten := &sink.FailedError{Err: sink.ErrForgotten}
	for range 3 * fencesAllowed {
		if err := e.Judge(forgotten); err != error(forgotten) {
			t.Fatal(err)
		}
	}
}
