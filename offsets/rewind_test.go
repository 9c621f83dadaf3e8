package offsets

import (
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// Whatever the traffic, what is told lies at least as far back as the rewind says,
// and not much further.
func TestRewindHoldsBack(t *testing.T) {
	start := time.Date(2026, 7, 31, 0, 0, 0, 0, time.UTC)
	type step struct {
		every time.Duration
		bytes pglogrepl.LSN
	}
	for _, test := range []struct {
		name   string
		rewind Rewind
		step   step
	}{
		{"age, steady", Rewind{Age: time.Hour}, step{time.Second, 1000}},
		{"age, seldom looked at", Rewind{Age: time.Hour}, step{40 * time.Minute, 1}},
		{"age, seconds", Rewind{Age: 2 * time.Second}, step{100 * time.Millisecond, 10}},
		{"bytes, steady", Rewind{Bytes: 1 << 20}, step{time.Second, 1000}},
		{"bytes, in large steps", Rewind{Bytes: 1 << 20}, step{time.Second, 3 << 20}},
	} {
		var past Past
		lsn, now, told := pglogrepl.LSN(1<<32), start, pglogrepl.LSN(0)
		confirmedAt := make(map[pglogrepl.LSN]time.Time)
		for i := range 20_000 {
			lsn, now = lsn+test.step.bytes, now.Add(test.step.every)
			confirmedAt[lsn] = now
			if due := test.rewind.due(past, lsn, now).LSN(); due > told {
				told = due
			}
			past = test.rewind.note(past, lsn, now)
			if told == 0 {
				continue
			}
			at, known := confirmedAt[told]
			if !known {
				t.Fatalf("%s: told %s, which was never confirmed", test.name, told)
			}
			age, bytes := now.Sub(at), int64(lsn-told)
			if age < test.rewind.Age || bytes < test.rewind.Bytes {
				t.Fatalf("%s: step %d: told what is only %s and %d bytes old", test.name, i, age, bytes)
			}
			if test.rewind.Age > 0 && age > test.rewind.Age*9/8+3*test.step.every {
				t.Fatalf("%s: step %d: told what is %s old", test.name, i, age)
			}
			if test.rewind.Bytes > 0 && bytes > test.rewind.Bytes*9/8+3*int64(test.step.bytes) {
				t.Fatalf("%s: step %d: told what is %d bytes old", test.name, i, bytes)
			}
		}
		if told == 0 {
			t.Errorf("%s: nothing was ever told", test.name)
		}
	}
}

// An outbox in which nothing is confirmed any more is told up to the last.
func TestRewindOfAnIdleOutbox(t *testing.T) {
	r, now := Rewind{Age: time.Minute}, time.Now()
	past := r.note(Past{}, 0x100, now)
	past = r.note(past, 0x200, now.Add(30*time.Second))
	if due := r.due(past, 0x200, now.Add(61*time.Second)).LSN(); due != 0x100 {
		t.Errorf("told %s", due)
	}
	past = r.note(past, 0x200, now.Add(2*time.Minute))
	if due := r.due(past, 0x200, now.Add(3*time.Minute)).LSN(); due != 0x200 || past.len() != 2 {
		t.Errorf("told %s of %d marks", due, past.len())
	}
}

// A clock that was a day ahead holds the WAL for the rewind's time, and not for a
// day.
func TestRewindAfterTheClockWasSetBack(t *testing.T) {
	r, now := Rewind{Age: time.Minute}, time.Now()
	past := r.note(Past{}, 0x100, now.Add(24*time.Hour))
	past = r.note(past, 0x200, now)
	if due := r.due(past, 0x200, now.Add(61*time.Second)); due.LSN() < 0x100 {
		t.Errorf("told %s after the rewind's time", due.LSN())
	}
}

// The store has the newest position, PostgreSQL an old one; a new Committer, as
// after a restart, goes on holding back from the same past.
func TestCommitterHoldsBack(t *testing.T) {
	tr, d := NewTracker(testStart), &diary{}
	start := Position{LSN: testStart}
	c := NewCommitter(tr, d, start, d.tell)
	c.HoldBack(Rewind{Bytes: 800}, nil)
	at := pglogrepl.LSN(testStart)
	step := func(c *Committer, tr *Tracker) (told pglogrepl.LSN) {
		t.Helper()
		at += 100
		tr.Idle(at)
		commit(t, c, at)
		for _, e := range d.entries {
			if e.who == "tell" {
				told = e.lsn
			} else if e.lsn != at {
				t.Errorf("stored %s, confirmed %s", e.lsn, at)
			}
		}
		d.entries = nil
		return told
	}
	for range 8 {
		if told := step(c, tr); told != 0 {
			t.Fatalf("told %s after %d bytes", told, at-testStart)
		}
	}
	for range 20 {
		if told := step(c, tr); told != at-800 {
			t.Fatalf("told %s, the newest is %s", told, at)
		}
	}
	tr = NewTracker(at)
	next := NewCommitter(tr, d, c.at, d.tell)
	next.HoldBack(Rewind{Bytes: 800}, nil)
	if told := step(next, tr); told != at-800 {
		t.Errorf("after a restart: told %s, the newest is %s", told, at)
	}
}
