package main

import (
	"context"
	"maps"
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

// rounds compares at each tick, and never twice at a time. A round is missed when the
// one before still runs, when it fails, or when the process cannot stream.
type rounds struct {
	every   time.Duration
	compare func(context.Context) (*reconcile.Result, error)
	st      *status.Status
	log     zerolog.Logger
	file    string // the configuration file that the process was started with

	last map[string]int64 // what the last round found that ended; nil: nothing is known
}

// ending is how a round has ended.
type ending struct {
	result *reconcile.Result
	err    error
}

func (r *rounds) run(ctx context.Context) {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	var running chan ending // nil: no round runs
	slow := false
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
		case <-tick.C:
			if running != nil {
				r.st.ReconcileMissed("the comparison that runs takes longer than reconcile.every")
				if !slow {
					r.log.Warn().Dur("every", r.every).Msg("the comparison with Kafka takes longer than reconcile.every; raise it")
				}
				slow = true
				continue
			}
			if !r.due() {
				continue
			}
			slow = false
			running = make(chan ending, 1)
			go func(ended chan<- ending) {
				result, err := r.compare(ctx)
				ended <- ending{result, err}
			}(running)
		}
	}
}

// due reports whether this process is to compare now.
func (r *rounds) due() bool {
	switch r.st.Role() {
	case status.Streaming:
		return true
	case status.Standby:
		r.last = nil
		r.st.ForgetReconcile()
	case status.Waiting:
		why := "this process does not stream"
		if err := r.st.NotReady(); err != nil {
			why += ": " + err.Error()
		}
		r.st.ReconcileMissed(why)
	}
	return false
}

func (r *rounds) ended(o ending) {
	if o.err != nil {
		r.st.ReconcileMissed(o.err.Error())
		r.log.Warn().Err(o.err).Msg("the outbox could not be compared with Kafka")
		return
	}
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
