package main

import (
	"context"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/reconcile"
	"outboxd/internal/status"
)

// reconcileEvery compares the outbox with Kafka every so often while this process
// streams, until ctx ends. file is the configuration file that it was started with.
func reconcileEvery(ctx context.Context, cfg *config.Config, file string, st *status.Status, log zerolog.Logger) error {
	// Formats belong to one goroutine: these are not the connector's.
	p, err := connectorOptions(cfg, status.New(0), log)
	if err != nil {
		return err
	}
	o := reconcileOptions(cfg, p)
	o.Log = log
	st.UseReconcile(reconcile.Kinds)
	r := &rounds{every: cfg.Reconcile.Every, st: st, log: log, file: file,
		compare: func(ctx context.Context) (*reconcile.Result, error) { return reconcile.Run(ctx, o) }}
	go r.run(ctx)
	return nil
}

const (
	// firstRoundAfter and firstRoundWithin are how long after a process has caught up it
	// makes its first round, by chance: processes that start together do not compare
	// together, and one that ends within the first minute again and again never compares.
	firstRoundAfter  = time.Minute
	firstRoundWithin = 5 * time.Minute
	// lookEvery is how often rounds looks whether one is due.
	lookEvery = time.Second
)

// rounds compares soon after this process has begun to stream and has caught up, and
// then every so often, never twice at a time. A round is missed when the one before
// still runs, when it fails, or when the process cannot stream; it is made up for as
// soon as the first is made, after a failure with a pause that doubles.
type rounds struct {
	every   time.Duration
	compare func(context.Context) (*reconcile.Result, error)
	st      *status.Status
	log     zerolog.Logger
	file    string // the configuration file that the process was started with

	last map[string]int64 // what the last round found that ended; nil: nothing is known

	due      time.Time     // when a round is due, whether the process has caught up or not
	soon     bool          // one is wanted before that: there was none, or it was missed
	first    time.Duration // how long after settled the first one comes, by chance
	pause    time.Duration // and how long the next
	settled  time.Time     // when the process had caught up, or a round failed; zero: it has not
	tooSlow  bool          // that a round takes longer than every was logged
	failures int           // in a row
}

// ending is how a round has ended.
type ending struct {
	result *reconcile.Result
	err    error
}

func (r *rounds) run(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	r.restart()
	var running chan ending // nil: no round runs
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-running:
			running = nil
			if ctx.Err() != nil {
				return
			}
			r.ended(o)
		case <-look.C:
			if !r.isDue() {
				continue
			}
			if running != nil {
				r.st.ReconcileMissed("the comparison that runs takes longer than reconcile.every")
				if !r.tooSlow {
					r.log.Warn().Dur("every", r.every).Msg("the comparison with Kafka takes longer than reconcile.every; raise it")
				}
				r.tooSlow = true
				continue
			}
			if !r.mayStart() {
				continue
			}
			r.soon, r.tooSlow = false, false
			running = make(chan ending, 1)
			go func(ended chan<- ending) {
				result, err := r.compare(ctx)
				ended <- ending{result, err}
			}(running)
		}
	}
}

// restart forgets what was: nothing is known of the outbox.
func (r *rounds) restart() {
	r.last, r.failures = nil, 0
	r.due, r.settled = time.Now().Add(r.every), time.Time{}
	r.first = firstRoundAfter + rand.N(firstRoundWithin-firstRoundAfter)
	r.wantSoon()
}

// wantSoon makes the next round come before it is due.
func (r *rounds) wantSoon() {
	r.soon, r.pause = true, r.first
	for i := 1; i < r.failures && r.pause < r.every; i++ {
		r.pause *= 2
	}
}

// isDue reports whether there is to be a round now, and plans the next one.
func (r *rounds) isDue() bool {
	role, now := r.st.Role(), time.Now()
	switch {
	case role == status.Standby:
		r.restart()
		r.st.ForgetReconcile()
		return false
	case role != status.Streaming:
		r.settled = time.Time{}
	case r.settled.IsZero() && r.st.CaughtUp():
		r.settled = now
	}
	if settled := r.soon && !r.settled.IsZero() && now.Sub(r.settled) >= r.pause; !settled && now.Before(r.due) {
		return false
	}
	r.due = now.Add(r.every)
	return true
}

// mayStart reports whether the process streams; if it does not, the round is missed.
func (r *rounds) mayStart() bool {
	switch r.st.Role() {
	case status.Streaming:
		return true
	case status.Waiting:
		why := "this process does not stream"
		if err := r.st.NotReady(); err != nil {
			why += ": " + err.Error()
		}
		r.st.ReconcileMissed(why)
	}
	r.wantSoon()
	return false
}

func (r *rounds) ended(o ending) {
	if o.err != nil {
		r.failures++
		r.settled = time.Now()
		r.wantSoon()
		r.st.ReconcileMissed(o.err.Error())
		r.log.Warn().Err(o.err).Msg("the outbox could not be compared with Kafka")
		return
	}
	r.failures = 0
	found := o.result.Mismatches
	r.st.Reconciled(o.result.Rows, found)
	differed := (&reconcile.Result{Mismatches: r.last}).Differ()
	switch differs := o.result.Differ(); {
	case differs && !maps.Equal(found, r.last):
		r.log.Warn().Interface("mismatches", found).Str("command", strings.Trim(nameConfig("`outboxd reconcile`", r.file), "`")).
			Msg("outbox and Kafka differ; the command shows examples")
	case !differs && differed:
		r.log.Info().Int64("rows", o.result.Rows).Msg("outbox and Kafka agree again")
	}
	r.last = found
}
