package sink

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"outboxd/internal/rawconn"
)

// ErrPaused fails a sink whose process did not run for too long.
var ErrPaused = errors.New("the process was stopped")

// pauses notices that the process did not run for a while: it was stopped by a
// signal, or its machine was. Meanwhile PostgreSQL has ended the replication
// connection, and another process has taken over and published what is still
// buffered here, and more. Sent now, it would arrive behind newer events of its
// keys. So the sink fails before it writes another byte: the check is made at the
// last moment, before each write to a broker, because after a pause every
// goroutine goes on at once.
//
// What the kernel had taken before the pause cannot be called back. Nearly always
// it arrived at once; only the brokers' own fencing of a transactional producer
// makes it certain.
type pauses struct {
	limit time.Duration        // 0: none is too long
	clock func() time.Duration // nil: rawconn.SinceBoot
	beat  atomic.Int64         // when the process was last seen running, by now
}

// now is the time of a clock that nobody sets.
func (p *pauses) now() time.Duration {
	if p.clock != nil {
		return p.clock()
	}
	return rawconn.SinceBoot()
}

// begin notes that the process runs.
func (p *pauses) begin() { p.beat.Store(int64(p.now())) }

// running returns an error if the process has not run for too long. Only alive
// may say that it has.
func (p *pauses) running() error {
	if p.limit == 0 {
		return nil
	}
	// Not by the time of day, which may be set while the process runs.
	pause := p.now() - time.Duration(p.beat.Load())
	if pause <= p.limit {
		return nil
	}
	return fmt.Errorf("%w for %s, another may have taken over: what was not acknowledged is given up, and published again if this one still has the slot",
		ErrPaused, pause.Round(time.Second))
}

// alive notes every so often that the process runs, until the sink fails.
func (k *Kafka) alive() {
	tick := time.NewTicker(k.pauses.limit / 10)
	defer tick.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-tick.C:
		}
		if k.paused() != nil {
			return
		}
		k.pauses.begin()
	}
}

// paused fails the sink after a pause that was too long.
func (k *Kafka) paused() error {
	err := k.pauses.running()
	if err != nil {
		k.cancel(&FailedError{Err: err})
	}
	return err
}

// guarded is a broker's connection that a sink which was paused does not write to.
type guarded struct {
	net.Conn
	k *Kafka
}

func (g *guarded) Write(b []byte) (int, error) {
	if err := g.k.paused(); err != nil {
		return 0, err
	}
	return g.Conn.Write(b)
}
