package sink

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// hungUp returns what the client is told of the end of a connection. One that ends before
// anything came means to the client that TLS or a login is missing: it gives up what it has
// not sent. But a proxy, such as a service mesh's, accepts connections for a broker that is
// away, and then closes them. So once the brokers have answered, such a connection was none.
func (g *guarded) hungUp(err error) error {
	switch {
	case err == nil || !g.k.learned.answered.Load():
	case !g.answered.Load():
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			return &net.OpError{Op: "dial", Net: "tcp", Addr: g.RemoteAddr(), Err: errNobody}
		}
	case errors.Is(err, io.EOF):
		return errHungUp
	}
	return err
}

func (g *guarded) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if n > 0 && !g.answered.Load() {
		g.answered.Store(true)
	}
	return n, g.hungUp(err)
}

// Neither is io.EOF, for which the client has its own explanations: an end that it retries, and
// the reason of a connection that it does not get.
var (
	errHungUp = fmt.Errorf("the broker has closed the connection: %w", net.ErrClosed)
	errNobody = errors.New("the broker, or a proxy whose broker is away, closes connections at once")
)

// answers notes that the brokers take the configured TLS and login. It is a hook of the
// client.
type answers struct{ learned *Learned }

// OnBrokerRead implements kgo.HookBrokerRead.
func (a answers) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	switch kmsg.Key(key) {
	case kmsg.ApiVersions, kmsg.SASLHandshake, kmsg.SASLAuthenticate: // of those who are not let in, too
	default:
		if err == nil && !a.learned.answered.Load() {
			a.learned.answered.Store(true)
		}
	}
}
