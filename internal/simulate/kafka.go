package simulate

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// kafka is franz-go's fake cluster behind simulated connections. Producers'
// sequences, transactions and fencing are the cluster's own.
type kafka struct {
	w       *world
	cluster *kfake.Cluster

	mu        sync.Mutex
	listeners map[string]*listener
	links     []*link
	down      bool // no connection is taken
	brokers   []broker
	// answers counts what the brokers have sent to processes.
	answers atomic.Int64
}

// firstPort is that of broker 0.
const firstPort = 9092

// socketBytes is what a socket and the network hold of one direction.
const socketBytes = 64 << 10

func newKafka(w *world, o ...kfake.Opt) (*kafka, error) {
	k := &kafka{w: w, listeners: make(map[string]*listener), brokers: make([]broker, w.o.brokers)}
	ports := make([]int, w.o.brokers)
	for i := range ports {
		ports[i] = firstPort + i
	}
	var err error
	k.cluster, err = kfake.NewCluster(append([]kfake.Opt{kfake.Ports(ports...), kfake.ListenFn(k.listen)}, o...)...)
	return k, err
}

func (k *kafka) listen(_, addr string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	l := &listener{port: n, conns: make(chan net.Conn), closed: make(chan struct{})}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listeners[port] = l
	return l, nil
}

// dial connects a process to a broker; nil is the verifier, which no fault concerns.
func (k *kafka) dial(ctx context.Context, p *process, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if p != nil {
		if p.gate() != nil {
			// Killed. The client (franz-go v1.22.3) takes a reset for something that passes,
			// and tries again at once while it aborts what is buffered: no time would pass.
			return nil, errRefused
		}
	}
	k.mu.Lock()
	l := k.listeners[port]
	refused := p != nil && (k.down || l != nil && k.brokers[l.port-firstPort].down)
	k.mu.Unlock()
	if l == nil || refused {
		return nil, errRefused
	}
	made := newLink(p, "client", address(addr), 16*socketBytes)
	made.late = k.w.o.lateData()
	if p != nil {
		made.server.writes = &k.answers
	}
	select {
	case l.conns <- made.server:
	case <-l.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p != nil {
		k.mu.Lock()
		k.links = append(slices.DeleteFunc(k.links, (*link).done), made)
		b := k.brokers[l.port-firstPort]
		k.mu.Unlock()
		if err := p.add(made); err != nil {
			return nil, err
		}
		if b.silent {
			made.silence(true)
		}
		if b.latency != [2]time.Duration{} {
			made.slow(b.latency[0], b.latency[1])
		}
	}
	return made.client, nil
}

type listener struct {
	port   int
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

var errListenerClosed = errors.New("listener closed")

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, errListenerClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return address("localhost:" + strconv.Itoa(l.port)) }
