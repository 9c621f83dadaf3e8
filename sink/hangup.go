package sink

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (g *guarded) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if err == io.EOF && g.k.learned.answered.Load() {
		err = errHungUp
	}
	return n, err
}

// errHungUp stands for the end of a connection once the brokers have answered. To the client,
// one that ends before the first answer means that TLS or a login is missing: it gives up
// what it has not sent. But a proxy, such as a service mesh's, accepts connections for a
// broker that is away, and then closes them.
var errHungUp = fmt.Errorf("the broker, or a proxy before it, has closed the connection: %w", net.ErrClosed)

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
