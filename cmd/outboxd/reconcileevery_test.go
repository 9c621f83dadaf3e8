package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/reconcile"
	"outboxd/internal/status"
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
