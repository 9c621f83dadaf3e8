package pipeline

import (
	"context"
	"time"

	"outboxd/internal/replication"
	"outboxd/internal/status"
)

// healthEvery is how often the slot's health is asked for; asking takes a
// connection for a moment.
const healthEvery = 15 * time.Second

// watchSlot reports the slot's health until ctx ends. That PostgreSQL does not
// answer is told elsewhere.
func (p *Pipeline) watchSlot(ctx context.Context) {
	for {
		wait := healthEvery
		ask, cancel := context.WithTimeout(ctx, healthEvery)
		h, err := replication.ReadHealth(ask, p.o.Source)
		cancel()
		switch {
		case err != nil:
			p.log.Debug().Err(err).Msg("the slot's health is not known")
		case h == nil:
			wait = time.Second // it is about to be made
		default:
			p.o.Status.Slot(status.Slot(*h))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
