package sink

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// listeners are those of the brokers that have answered a request, so that they take the TLS
// and the login that are configured. It is a hook of clients. Any goroutine may use it.
type listeners struct {
	mu       sync.RWMutex
	answered map[listener]bool
}

type listener struct {
	host string
	port int32
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (l *listeners) OnBrokerRead(b kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	switch kmsg.Key(key) {
	case kmsg.ApiVersions, kmsg.SASLHandshake, kmsg.SASLAuthenticate: // of those who are not let in, too
		return
	}
	at := listener{b.Host, b.Port}
	if err != nil || l.has(at) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.answered == nil {
		l.answered = make(map[listener]bool)
	}
	l.answered[at] = true
}

func (l *listeners) has(at listener) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.answered[at]
}

// dial returns how to connect so that clients are told why a connection has ended.
func (l *listeners) dial(connect dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := connect(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return conn, nil
		}
		n, _ := strconv.Atoi(port)
		return &brokerConn{Conn: conn, listeners: l, at: listener{host, int32(n)}}, nil
	}
}

// brokerConn is a connection to a broker. One that ends before anything came means to the
// client that TLS or a login is missing: a producer then gives up what it has not sent. But a
// proxy, such as a service mesh's, accepts connections for a broker that is away, and closes
// them. So where the same listener has answered before, such a connection was none.
type brokerConn struct {
	net.Conn
	listeners *listeners
	at        listener
	read      atomic.Bool // something came
}

// Read reads, and says why there is an end.
func (c *brokerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.read.Load() {
		c.read.Store(true)
	}
	return n, c.why(err)
}

// Write writes, and says why there is an end.
func (c *brokerConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.why(err)
}

func (c *brokerConn) why(err error) error {
	ended := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if !ended || c.read.Load() || !c.listeners.has(c.at) {
		return err
	}
	return &net.OpError{Op: "dial", Net: "tcp", Addr: c.RemoteAddr(), Err: errNobody}
}

// errNobody is not io.EOF, for which the client has its own explanations.
var errNobody = errors.New("the broker, or a proxy whose broker is away, closes connections at once")
