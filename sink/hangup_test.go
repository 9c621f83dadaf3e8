package sink

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A proxy, such as a service mesh's, accepts connections for a broker that is away and closes
// them. That is no reason to give up what is in flight, where the broker has answered before.
func TestProxyHangsUpForABroker(t *testing.T) {
	const partitions = 8
	c := broker(t, partitions)
	p := newHangingUp(t)
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.Dial = p.dial })}
	s.send(testTopic, "k", "0")
	s.delivered()
	p.leave()
	s.send(testTopic, "k", "1") // may be sent already: the client does not give up that one
	until(t, "the client has noticed", func() bool { return p.refused.Load() > 0 })
	for i := range 2 * partitions {
		s.send(testTopic, fmt.Sprint(i), "2")
	}
	tried := p.refused.Load() + 10
	until(t, "the client has tried some times", func() bool {
		select {
		case <-s.k.Failed():
			t.Fatalf("the sink failed: %v", s.k.Err())
		default:
		}
		return p.refused.Load() > tried
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.k.Diagnose(ctx); err == nil || !strings.Contains(err.Error(), "a proxy whose broker is away, closes connections at once") {
		t.Errorf("what is said of it: %v", err)
	}
	p.away.Store(false)
	s.delivered()
	consume(t, c, 2+2*partitions)
}

// hangingUp is a way to brokers that accepts connections also while they are away.
type hangingUp struct {
	listener net.Listener
	away     atomic.Bool
	refused  atomic.Int64
	mu       sync.Mutex
	conns    []net.Conn
}

func newHangingUp(t *testing.T) *hangingUp {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &hangingUp{listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.refused.Add(1)
			conn.Close()
		}
	}()
	return p
}

func (p *hangingUp) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.away.Load() {
		addr = p.listener.Addr().String()
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.conns = append(p.conns, conn)
	}
	return conn, err
}

// leave cuts what is connected; what connects from here on is closed.
func (p *hangingUp) leave() {
	p.away.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
}
