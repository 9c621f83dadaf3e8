package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/internal/reconcile"
	"outboxd/internal/status"
	"outboxd/internal/walheld"
)

// counted is what a comparison of 10 rows found.
func counted(kind string, n int64) *reconcile.Result {
	r := &reconcile.Result{Rows: 10, Mismatches: make(map[string]int64)}
	for _, k := range reconcile.Kinds {
		r.Mismatches[k] = 0
	}
	if kind != "" {
		r.Mismatches[kind] = n
	}
	return r
}

// Each round replaces what the one before found; what is logged is a change.
func TestReconcileRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		st := status.New(time.Minute)
		st.UseReconcile(reconcile.Kinds)
		st.Streaming(&status.Gauges{})
		outcomes := make(chan func(context.Context) (*reconcile.Result, error), 1)
		r := &rounds{every: time.Hour, st: st, log: zerolog.New(&log), file: "o.yaml", compare: func(ctx context.Context) (*reconcile.Result, error) {
			return (<-outcomes)(ctx)
		}}
		go r.run(t.Context())
		round := func(outcome func(context.Context) (*reconcile.Result, error)) *status.ReconcileReport {
			t.Helper()
			if outcome != nil {
				outcomes <- outcome
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			return st.Reconcile()
		}
		finds := func(kind string, n int64) func(context.Context) (*reconcile.Result, error) {
			return func(context.Context) (*reconcile.Result, error) { return counted(kind, n), nil }
		}
		says := func(want ...string) {
			t.Helper()
			for _, part := range want {
				if !strings.Contains(log.String(), part) {
					t.Errorf("the log does not say %q:\n%s", part, log.String())
				}
			}
			if len(want) == 0 && log.Len() > 0 {
				t.Errorf("the log says:\n%s", log.String())
			}
			log.Reset()
		}
		time.Sleep(time.Second) // ticks and rounds do not coincide

		if v := st.Reconcile(); v.Verdict != "none yet" || v.Missed != 0 {
			t.Errorf("before the first round: %+v", v)
		}
		if v := round(finds("", 0)); v.Verdict != "agree" || v.Rows != 10 {
			t.Errorf("the first round: %+v", v)
		}
		says()
		if v := round(finds(reconcile.Different, 3)); v.Verdict != "differ" || v.Mismatches[reconcile.Different] != 3 {
			t.Errorf("one that differs: %+v", v)
		}
		says(`"level":"warn"`, "outbox and Kafka differ; the command shows examples", `"command":"outboxd reconcile --config o.yaml"`, `"different":3`)
		round(finds(reconcile.Different, 3))
		says()
		if v := round(func(context.Context) (*reconcile.Result, error) { return nil, errors.New("no broker") }); v.Verdict != "differ" || v.Missed != 1 || v.Error != "no broker" {
			t.Errorf("one that fails: %+v", v)
		}
		says("could not be compared", "no broker")
		if v := round(finds("", 0)); v.Verdict != "agree" || v.Mismatches[reconcile.Different] != 0 || v.Missed != 0 || v.Error != "" {
			t.Errorf("one that agrees again: %+v", v)
		}
		says(`"level":"info"`, "outbox and Kafka agree")

		// A round that takes longer than the pause between two.
		slow := make(chan struct{})
		round(func(context.Context) (*reconcile.Result, error) { <-slow; return counted("", 0), nil })
		round(nil)
		if v := round(nil); v.Missed != 2 || !strings.Contains(v.Error, "takes longer than reconcile.every") {
			t.Errorf("while a round takes long: %+v", v)
		}
		if log := log.String(); strings.Count(log, "takes longer than reconcile.every") != 1 {
			t.Errorf("the log says:\n%s", log)
		}
		log.Reset()
		close(slow)
		synctest.Wait()
		if v := st.Reconcile(); v.Missed != 0 || v.Verdict != "agree" {
			t.Errorf("when it has ended: %+v", v)
		}

		// A process that does not stream makes no round. That of a fault is missed, that
		// of a standby is made by another process.
		round(finds(reconcile.Missing, 1))
		st.Stopped()
		st.Fault("postgres", errors.New("connection refused"))
		if v := round(nil); v.Missed != 1 || v.Mismatches[reconcile.Missing] != 1 || !strings.Contains(v.Error, "connection refused") {
			t.Errorf("while it cannot stream: %+v", v)
		}
		st.StandBy(errors.New("another process has the slot"))
		if v := round(nil); v.Missed != 0 || v.Mismatches[reconcile.Missing] != 0 || v.Verdict != "none yet" || v.Error != "" {
			t.Errorf("while it stands by: %+v", v)
		}
		st.Streaming(&status.Gauges{})
		log.Reset()
		round(finds(reconcile.Missing, 1))
		says("outbox and Kafka differ")
	})
}

// caughtUp is the status of a process that streams and is behind bytes behind the server.
func caughtUp(behind uint64) *status.Status {
	st := status.New(time.Minute)
	st.UseReconcile(reconcile.Kinds)
	streams(st, behind)
	return st
}

func streams(st *status.Status, behind uint64) {
	st.Streaming(&status.Gauges{Confirmed: func() pglogrepl.LSN { return 1 << 40 }})
	st.Slot(status.Slot{Held: walheld.Facts{Written: 1<<40 + pglogrepl.LSN(behind)}})
}

// begun runs rounds of a day, and returns when each of them has begun, in seconds.
func begun(ctx context.Context, st *status.Status, outcome func() error) func() []int {
	start := time.Now()
	var mu sync.Mutex
	var at []int
	r := &rounds{every: 24 * time.Hour, st: st, log: zerolog.Nop(), compare: func(context.Context) (*reconcile.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, int(time.Since(start).Seconds()))
		if err := outcome(); err != nil {
			return nil, err
		}
		return counted("", 0), nil
	}}
	go r.run(ctx)
	return func() []int {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(at)
	}
}

func succeeds() error { return nil }

// A process that is started again each day compares each day: the first round comes soon
// after it has caught up. Not at once: of processes that start together each has a moment
// of its own, and one that is started again and again compares never.
func TestReconcileFirstRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []func() []int
		for range 20 {
			all = append(all, begun(t.Context(), caughtUp(0), succeeds))
		}
		time.Sleep(firstRoundAfter - time.Second)
		for _, rounds := range all {
			if at := rounds(); len(at) != 0 {
				t.Errorf("a round at %d s", at)
			}
		}
		time.Sleep(firstRoundWithin)
		moments := make(map[int]bool)
		for _, rounds := range all {
			at := rounds()
			if len(at) != 1 {
				t.Fatalf("rounds at %d s, want one", at)
			}
			moments[at[0]] = true
		}
		if len(moments) < 5 {
			t.Errorf("20 processes compare at %d moments", len(moments))
		}
	})
}

// What a process has to publish first comes first. One that never catches up compares
// all the same.
func TestReconcileFirstRoundBehindABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := caughtUp(1 << 30)
		rounds := begun(t.Context(), st, succeeds)
		never := begun(t.Context(), caughtUp(1<<30), succeeds)
		time.Sleep(6 * time.Hour)
		if at := rounds(); len(at) != 0 {
			t.Errorf("rounds at %d s, before it has caught up", at)
		}
		streams(st, 1<<10)
		time.Sleep(firstRoundWithin + time.Second)
		if at := rounds(); len(at) != 1 {
			t.Errorf("rounds at %d s, want one", at)
		}
		time.Sleep(24 * time.Hour)
		if at := rounds(); len(at) != 2 || at[1]-at[0] != 24*60*60 {
			t.Errorf("rounds at %d s, want two, a day apart", at)
		}
		if at := never(); len(at) != 1 || at[0] != 24*60*60 {
			t.Errorf("one that never catches up compares at %d s", at)
		}
	})
}

// A process that takes over compares soon, too: nobody else has, since.
func TestReconcileFirstRoundOfATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := caughtUp(0)
		st.Stopped()
		st.StandBy(errors.New("another process has the slot"))
		rounds := begun(t.Context(), st, succeeds)
		time.Sleep(48 * time.Hour)
		if at := rounds(); len(at) != 0 {
			t.Errorf("one that stands by compares at %d s", at)
		}
		streams(st, 0)
		time.Sleep(firstRoundWithin + time.Second)
		if at := rounds(); len(at) != 1 {
			t.Errorf("rounds at %d s, want one", at)
		}
	})
}

// A round that fails, or falls into a fault, is made up for, each time after a longer pause.
func TestReconcileMissedRoundIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := 5
		rounds := begun(t.Context(), caughtUp(0), func() error {
			if fails--; fails >= 0 {
				return errors.New("no broker")
			}
			return nil
		})
		time.Sleep(23 * time.Hour)
		at := rounds()
		if len(at) != 6 {
			t.Fatalf("rounds at %d s, want six", at)
		}
		for i := 3; i < len(at); i++ {
			if at[i]-at[i-1] < 2*(at[i-1]-at[i-2])-2 { // it looks once a second
				t.Errorf("rounds at %d s: the pauses do not double", at)
			}
		}

		st := caughtUp(0)
		rounds = begun(t.Context(), st, succeeds)
		time.Sleep(time.Hour)
		st.Stopped()
		st.Fault("postgres", errors.New("connection refused"))
		time.Sleep(25 * time.Hour)
		if v := st.Reconcile(); v.Missed != 1 {
			t.Errorf("in a fault: %+v", v)
		}
		streams(st, 0)
		time.Sleep(firstRoundWithin + time.Second)
		if at := rounds(); len(at) != 2 || st.Reconcile().Missed != 0 {
			t.Errorf("rounds at %d s, want two: %+v", at, st.Reconcile())
		}
	})
}

// A round is abandoned when the process stops.
func TestReconcileRoundsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := status.New(time.Minute)
		st.UseReconcile(reconcile.Kinds)
		st.Streaming(&status.Gauges{})
		r := &rounds{every: time.Hour, st: st, log: zerolog.Nop(), compare: func(ctx context.Context) (*reconcile.Result, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.run(ctx) }()
		time.Sleep(90 * time.Minute)
		stop()
		<-ended
		if v := st.Reconcile(); v.Missed != 0 || v.Error != "" {
			t.Errorf("a stop is a failure: %+v", v)
		}
	})
}
