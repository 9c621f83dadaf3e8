package connector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"outboxd/internal/uptime"
	"outboxd/sink"
)

const (
	// stallAfter is how long Kafka may acknowledge nothing, or the store take, before
	// the operator hears why.
	stallAfter = 5 * time.Second
	// watchEvery and diagnoseLimit let the operator hear of a stall within ten seconds.
	watchEvery = time.Second
	// suspendedAfter is by how much a tick is late only if the process was suspended.
	suspendedAfter = 3 * time.Second
	diagnoseLimit  = 3 * time.Second
	// lookEvery is how often the cluster is asked while nothing is published.
	lookEvery = 15 * time.Second
	// sayAgain is how often the same reason is logged.
	sayAgain = time.Minute
	// standbyRetry is how soon another process's end is noticed.
	standbyRetry = time.Second
)

// watcher tells the operator what keeps events from Kafka, or positions from the
// store: /readyz at once, the log when it changes.
type watcher struct {
	p       *Connector
	sink    *sink.Kafka
	storing *atomic.Int64 // nil: nothing is stored
	// said is what the log said last of each side, and when.
	said   map[string]string
	saidAt map[string]time.Time
	looked time.Time // when the cluster was asked, or acknowledged something
	// awake is since when the process has not been suspended.
	awake time.Time
	// diagnosed is when the cluster was asked why it acknowledges nothing.
	diagnosed time.Time
}

// watch runs beside whatever publishes until ctx ends. storing is since when a position
// is being stored, as of uptime.Of, 0 when none is; nil: none ever is.
func (p *Connector) watch(ctx context.Context, k *sink.Kafka, storing *atomic.Int64) {
	w := &watcher{p: p, sink: k, storing: storing, said: make(map[string]string), saidAt: make(map[string]time.Time)}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	w.awake = time.Now()
	for {
		w.store(ctx)
		w.kafka(ctx)
		slept := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := time.Now(); now.Sub(slept) > suspendedAfter {
			w.awake = now // what took so long was us
		}
	}
}

// waited returns how long something has been waited for of which we were awake.
func (w *watcher) waited(d time.Duration) time.Duration { return min(d, time.Since(w.awake)) }

// kafka looks whether Kafka acknowledges, or answers while there is nothing to
// acknowledge.
func (w *watcher) kafka(ctx context.Context) {
	p, k := w.p, w.sink
	waiting := w.waited(k.Waiting())
	switch acked := p.o.Status.Acknowledged(); {
	case waiting >= stallAfter && k.Throttled():
		p.o.Status.Kafka(nil) // a quota is no fault, and the sink has said so
	case waiting >= stallAfter:
		if time.Since(w.diagnosed) < stallAfter {
			return
		}
		w.diagnosed = time.Now()
		err := within(ctx, k.Diagnose)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the cluster answers, but does not acknowledge")
		}
		p.o.Status.Kafka(err)
		if w.state(sideKafka, "stalled: "+err.Error()) {
			p.log.Warn().Err(err).Stringer("for", waiting.Round(time.Second)).Int64("in_flight_events", k.InFlight()).
				Msg("Kafka acknowledges nothing; waiting")
		}
	case acked.After(w.looked):
		w.looked = acked
		w.kafkaWorks()
	case w.said[sideKafka] != "" || time.Since(w.looked) >= lookEvery:
		err := within(ctx, k.Reach) // a topic that is not there yet may be about to be created
		if ctx.Err() != nil {
			return
		}
		w.looked = time.Now()
		if err == nil {
			w.kafkaWorks()
			return
		}
		p.o.Status.Kafka(err)
		if w.state(sideKafka, "no answer: "+err.Error()) {
			p.log.Warn().Err(err).Msg("Kafka does not answer")
		}
	}
}

func (w *watcher) kafkaWorks() {
	w.p.o.Status.Kafka(nil)
	if w.said[sideKafka] != "" {
		w.p.log.Info().Msg("Kafka works again")
		w.said[sideKafka] = ""
	}
}

// store looks whether a position is being stored for too long.
func (w *watcher) store(ctx context.Context) {
	p := w.p
	if p.o.Store == nil || w.storing == nil {
		return
	}
	since := w.storing.Load()
	waiting := w.waited(time.Since(uptime.At(time.Duration(since))))
	if since == 0 || waiting < stallAfter {
		if w.said[sideStore] != "" {
			p.log.Info().Msg("positions are stored again")
			w.said[sideStore] = ""
			p.o.Status.Store(nil)
		}
		return
	}
	err := errors.New("it does not answer")
	if d, ok := p.o.Store.(interface{ Diagnose(context.Context) error }); ok {
		ask, cancel := context.WithTimeout(ctx, stallAfter)
		if why := d.Diagnose(ask); why != nil {
			err = why
		}
		cancel()
	}
	if ctx.Err() != nil {
		return
	}
	err = fmt.Errorf("the position cannot be stored, so PostgreSQL keeps its WAL: %w", err)
	p.o.Status.Store(err)
	if w.state(sideStore, err.Error()) {
		p.log.Warn().Err(err).Stringer("for", waiting.Round(time.Second)).Msg("positions are not stored; waiting")
	}
}

const (
	sideKafka = "kafka"
	sideStore = "store"
)

// state notes what is said of a side, and returns whether it is to be logged.
func (w *watcher) state(side, text string) bool {
	if w.said[side] == text && time.Since(w.saidAt[side]) < sayAgain {
		return false
	}
	w.said[side], w.saidAt[side] = text, time.Now()
	return true
}

// within asks the cluster something, for no longer than diagnoseLimit.
func within(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, diagnoseLimit)
	defer cancel()
	return ask(ctx)
}

// standBy is what a process does that finds the slot in use: it is healthy, and says
// so once. That it is able to take over, it looks.
func (p *Connector) standBy(ctx context.Context, reason error) {
	p.o.Status.StandBy(reason)
	if !p.standingBy {
		p.standingBy, p.lookedAt = true, time.Time{}
		p.log.Info().Str("slot", p.o.Source.Slot).AnErr("reason", reason).Msg("standing by")
	}
	if time.Since(p.lookedAt) < lookEvery {
		return
	}
	k := p.sink
	if k == nil {
		o := p.o.Sink
		o.TransactionalID = "" // which the other process has
		var err error
		if k, err = sink.New(o); err != nil {
			return // the session that follows says so
		}
		defer k.Close()
	}
	if err := within(ctx, k.Reach); ctx.Err() == nil {
		p.o.Status.Kafka(err)
		p.lookedAt = time.Now()
	}
}
