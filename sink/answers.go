package sink

import (
	"context"
	"encoding/binary"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answers counts the produce requests that the brokers have been sent and have not
// answered. It is a hook of the client, and sees what is written to its connections. Any
// goroutine may use it.
//
// A sink that has failed is replaced by one that sends the same events again. What the
// brokers get of the first one after that arrives among those: on a slow connection, or
// where a segment is lost and sent again by the system, which does so also when the
// connection is closed.
type answers struct {
	mu   sync.Mutex
	due  int
	last bool          // nothing more is sent
	none chan struct{} // closed when nothing more is sent and all is answered
	// closed ends with the sink, by close.
	closed context.Context
	close  context.CancelFunc
}

func newAnswers() *answers {
	a := &answers{none: make(chan struct{})}
	a.closed, a.close = context.WithCancel(context.Background())
	return a
}

// expect notes that a request is about to be written. Once nothing more is sent, it waits for
// the end of the sink.
func (a *answers) expect() error {
	a.mu.Lock()
	if !a.last {
		a.due++
		a.mu.Unlock()
		return nil
	}
	a.mu.Unlock()
	<-a.closed.Done()
	return net.ErrClosed
}

// OnBrokerE2E implements kgo.HookBrokerE2E. It is called once for each request, also for
// those whose connection has ended.
func (a *answers) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	if kmsg.Key(key) != kmsg.Produce {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.due--; a.last && a.due == 0 {
		close(a.none)
	}
}

// end lets nothing more be sent. It may be called again.
func (a *answers) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last {
		return
	}
	if a.last = true; a.due == 0 {
		close(a.none)
	}
}

// over returns a dial whose connections tell what is written to them.
func (a *answers) over(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &answeredConn{conn, a}, nil
	}
}

// answeredConn is a connection to a broker, above TLS: the client writes each request at once.
type answeredConn struct {
	net.Conn
	answers *answers
}

// Write writes a request, unless none is to be sent any more.
func (c *answeredConn) Write(b []byte) (int, error) {
	// A request begins with its size in four bytes and its key in two.
	if len(b) >= 6 && kmsg.Key(binary.BigEndian.Uint16(b[4:])) == kmsg.Produce {
		if err := c.answers.expect(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// AwaitAnswers sends nothing more and waits, as long as ctx, for the brokers' answers to what
// they have been sent, so that nothing of it arrives after what another sink sends. Where
// transactions fence this one off it does not wait. Close has to follow.
func (k *Kafka) AwaitAnswers(ctx context.Context) {
	if k.answers.end(); k.txn != nil {
		return
	}
	select {
	case <-k.answers.none:
	case <-ctx.Done():
	}
}
