// Package pace holds what reads or publishes many events down to so many a second.
package pace

import (
	"context"
	"time"
)

const (
	// step is what is slept at least: a hundred sleeps a second are enough.
	step = 10 * time.Millisecond
	// carried is how long without an event may be made up for; after a longer pause there
	// is no burst.
	carried = 100 * time.Millisecond
)

// Pace is a rate. One goroutine uses it.
type Pace struct {
	perSecond int
	due       time.Time // when the events up to now would be due at the rate
}

// New returns the pace of so many events a second; 0 is no limit.
func New(perSecond int) Pace { return Pace{perSecond: perSecond} }

// Wait is called for each event. It returns the cause of ctx when that ends first.
func (p *Pace) Wait(ctx context.Context) error {
	if p.perSecond <= 0 {
		return nil
	}
	now := time.Now()
	if now.Sub(p.due) > carried {
		p.due = now
	}
	p.due = p.due.Add(time.Second / time.Duration(p.perSecond))
	ahead := p.due.Sub(now)
	if ahead < step {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(ahead):
		return nil
	}
}
