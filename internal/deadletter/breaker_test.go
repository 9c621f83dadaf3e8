package deadletter

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/poison"
)

// More events within the time than are allowed end the run, with the first few and what
// they have in common; fewer, or over a longer time, do not.
func TestBreaker(t *testing.T) {
	now := time.Now()
	b := NewBreaker(5, time.Minute)
	for n := range 5 {
		if err := b.Add(letter(2*n), now); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	err := b.Add(letter(20), now)
	if !errors.Is(err, ErrTooMany) {
		t.Fatalf("the sixth: %v", err)
	}
	for _, want := range []string{"more than 5 events within 1m0s", "errors.max_dead_letters", "all of kind null_key", `event id "0" at position ` + letter(0).Position.String(), `event id "4"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), `event id "6"`) {
		t.Errorf("more than the first few: %v", err)
	}
	if err := b.Add(letter(20), now.Add(time.Minute+1)); err != nil {
		t.Errorf("a minute later: %v", err)
	}

	b = NewBreaker(2, time.Minute)
	for n, want := range []string{"", "", "2 of kind null_key, 1 of kind too_large"} {
		if err := b.Add(letter([]int{0, 1, 2}[n]), now); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("event %d: %v, want %q", n, err, want)
		}
	}
	b = NewBreaker(0, time.Minute)
	for n := range 1000 {
		if err := b.Add(letter(n), now); err != nil {
			t.Fatalf("without a limit: %v", err)
		}
	}
}

// The log has the first event of a kind at once, and then one line a minute.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	l, now := NewLog(zerolog.New(&out)), time.Now()
	lines := func() []string { defer out.Reset(); return strings.Split(strings.TrimSpace(out.String()), "\n") }
	add := func(n int, after time.Duration) {
		now = now.Add(after)
		l.Add(letter(n), now)
	}
	add(0, 0)
	add(1, 0)
	for n := range 1000 {
		add(2*n+2, time.Millisecond)
	}
	if got := lines(); len(got) != 2 || !strings.Contains(got[0], `"kind":"null_key","events":1,"event_id":"0"`) || !strings.Contains(got[1], `"kind":"too_large"`) {
		t.Errorf("%d lines: %s", len(got), got)
	}
	add(4000, sayEvery)
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], `"kind":"null_key","events":1001,"event_id":"4000"`) {
		t.Errorf("after a minute: %s", got)
	}
	add(4002, time.Second)
	l.Flush(now)
	l.Flush(now)
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], `"events":1`) {
		t.Errorf("at the end: %s", got)
	}
	for _, kind := range poison.Kinds {
		l.Add(&Letter{Kind: kind}, now)
	}
	if got := lines(); len(got) < len(poison.Kinds)-2 {
		t.Errorf("%d lines of %d kinds", len(got), len(poison.Kinds))
	}
}
