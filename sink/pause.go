package sink

import (
	"context"
	"crypto/tls"
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
	limit time.Duration // 0: none is too long
	beat  atomic.Pointer[time.Time]
}

// running returns an error if the process has not run for too long. Only alive
// may say that it has.
func (p *pauses) running() error {
	if p.limit == 0 {
		return nil
	}
	now, last := time.Now(), *p.beat.Load()
	// A suspended machine stops the monotonic clock, and not the other.
	pause := max(now.Sub(last), now.Round(0).Sub(last.Round(0)))
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
		now := time.Now()
		k.pauses.beat.Store(&now)
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

// dial connects to a broker as the client itself would, but for the check before
// each write.
func (k *Kafka) dial(config *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	connect := rawconn.Dial(&net.Dialer{Timeout: dialTimeout})
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := connect(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conn = &guarded{conn, k}
		if config == nil {
			return conn, nil
		}
		config := config.Clone()
		if config.ServerName == "" {
			if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
				conn.Close()
				return nil, fmt.Errorf("server name of broker %s: %w", addr, err)
			}
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
}

// dialTimeout bounds a connection attempt to one broker.
const dialTimeout = 10 * time.Second

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
