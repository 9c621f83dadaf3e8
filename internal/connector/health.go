package connector

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/status"
	"outboxd/internal/walheld"
)

// healthEvery is how often the slot's health is asked for, and healthTimeout how long
// an answer may take: the same connection serves the looks at the outbox.
const (
	healthEvery   = 15 * time.Second
	healthTimeout = 5 * time.Second
)

// watchSlot reports the slot's health until ctx ends. That PostgreSQL does not
// answer is told elsewhere.
func (p *Connector) watchSlot(ctx context.Context) {
	synchronous := "" // what was logged last; a start has logged it
	for {
		wait := healthEvery
		ask, cancel := context.WithTimeout(ctx, healthTimeout)
		h, err := p.observer.Health(ask)
		cancel()
		switch {
		case err != nil:
			p.log.Debug().Err(err).Msg("the slot's health is not known")
		case h == nil:
			wait = time.Second // it is about to be made
		default:
			p.o.Status.Slot(status.Slot(*h))
			if h.Synchronous != "" && h.Synchronous != synchronous {
				p.log.Warn().Msg(h.Synchronous)
			}
			synchronous = h.Synchronous
			p.logHeld()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// logHeld says why PostgreSQL keeps WAL, when that changes.
func (p *Connector) logHeld() {
	why, changed := p.o.Status.WhyChanged()
	if !changed {
		return
	}
	level := zerolog.WarnLevel
	if why.Cause == walheld.CauseNothing || why.Cause == walheld.CauseRewind {
		level = zerolog.InfoLevel
	}
	p.log.WithLevel(level).Str("slot", p.o.Source.Slot).Str("cause", string(why.Cause)).Str("why", why.Text).Msg("why PostgreSQL keeps WAL")
}
