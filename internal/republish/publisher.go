// Package republish publishes rows of the outbox table, beside a connector or in place
// of one: what is missing in Kafka, a selection that is wanted again, or what was not
// delivered when a slot was lost. It touches no slot, publication or position.
package republish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/replication"
	"outboxd/router"
	"outboxd/sink"
)

// publisher hands events to Kafka and knows when all of them are acknowledged. It is
// used by one goroutine, which must read rows into the memory of make.
type publisher struct {
	router *router.Router
	format *format.Encoder
	sink   *sink.Kafka
	memory *replication.Memory
	buffer *replication.Buffer
	// transactions says that records count only when they are committed.
	transactions bool
	// pending counts events that are not acknowledged. drained has room for one.
	pending atomic.Int64
	drained chan struct{}
}

// newPublisher returns a publisher. With transactions it takes the transactional id,
// which must be that of a connector that does not run.
func newPublisher(ctx context.Context, rules router.Rules, form format.Options, outbox format.Outbox, o sink.Options, limit int64, transactions bool) (*publisher, error) {
	p := &publisher{memory: replication.NewMemory(limit), drained: make(chan struct{}, 1)}
	p.buffer = replication.NewBuffer(p.memory)
	var err error
	if p.router, err = router.New(rules); err != nil {
		return nil, err
	}
	if !transactions {
		// The transactional id is the connector's, which would lose it.
		o.TransactionalID = ""
	}
	p.transactions, o.OnAck = o.TransactionalID != "", nil
	o.Budget, o.Learned = p.memory, sink.NewLearned()
	if p.sink, err = sink.New(o); err != nil {
		return nil, err
	}
	p.memory.OnShortage(p.sink.Shed)
	outbox.Await = p.sink.Await
	p.format = format.New(form)
	if err := p.format.Open(outbox); err != nil {
		p.close()
		return nil, err
	}
	if p.transactions {
		if err := p.sink.Fence(ctx); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *publisher) close() {
	p.sink.Close()
	p.buffer.Close()
}

// make returns memory for a row, and waits at the limit.
func (p *publisher) make(ctx context.Context, size int) ([]byte, error) {
	return p.buffer.Make(ctx, size)
}

// stalled is after how long without an acknowledgement it is said why.
const stalled = 10 * time.Second

// watch returns a context that ends when a delivery fails, too, and logs why nothing is
// acknowledged. end returns when its goroutine has ended.
func (p *publisher) watch(ctx context.Context, log zerolog.Logger) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var background sync.WaitGroup
	background.Go(func() {
		tick := time.NewTicker(stalled / 2)
		defer tick.Stop()
		said := ""
		for {
			select {
			case <-p.sink.Failed():
				cancel(p.sink.Err())
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if p.sink.Waiting() < stalled {
				continue
			}
			asking, done := context.WithTimeout(ctx, stalled)
			why := p.sink.Diagnose(asking)
			done()
			if why != nil && why.Error() != said && ctx.Err() == nil {
				said = why.Error()
				log.Warn().Err(why).Msg("Kafka acknowledges nothing; waiting")
			}
		}
	})
	return ctx, func() { cancel(nil); background.Wait() }
}

// Acknowledge is called by the Kafka client's goroutine.
func (p *publisher) Acknowledge() {
	if p.pending.Add(-1) == 0 {
		select {
		case p.drained <- struct{}{}:
		default:
		}
	}
}

// publish hands over one event, whose memory make has returned last. sent is false
// where a rule discards it.
func (p *publisher) publish(ev *decoder.Event) (sent bool, err error) {
	d := p.sink.Next()
	if err := p.router.Route(ev, &d.Record); err != nil {
		p.sink.Return()
		return false, undeliverable(ev, err)
	}
	if d.Topic == "" {
		p.sink.Return()
		return false, nil
	}
	if err := p.format.Encode(ev, &d.Record); err != nil {
		p.sink.Return()
		return false, undeliverable(ev, err)
	}
	block := p.buffer.Block()
	block.Retain()
	p.pending.Add(1)
	d.Receipt, d.Memory = p, block
	if err := p.sink.Send(d); err != nil {
		p.Acknowledge()
		block.Release(0)
		return false, undeliverable(ev, err)
	}
	return true, nil
}

func undeliverable(ev *decoder.Event, err error) error {
	return fmt.Errorf("event id %s: %w", decoder.Excerpt(ev.Values[decoder.ID]), err)
}

// settle returns when everything that was handed over is acknowledged and, with
// transactions, committed together with r, which may be nil.
func (p *publisher) settle(ctx context.Context, r *kgo.Record) error {
	if err := p.drain(ctx); err != nil || !p.transactions {
		return err
	}
	p.sink.Seal()
	defer p.sink.Unseal()
	if err := p.sink.Flush(ctx); err != nil {
		return err
	}
	return p.sink.Commit(ctx, r)
}

// drain returns when everything that was handed over is acknowledged.
func (p *publisher) drain(ctx context.Context) error {
	for p.pending.Load() > 0 {
		select {
		case <-p.drained:
		case <-p.sink.Failed():
			return p.sink.Err()
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), fmt.Errorf("%d events were sent and not acknowledged", p.pending.Load()))
		}
	}
	return p.sink.Err()
}
