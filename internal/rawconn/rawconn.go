// Package rawconn reads and writes sockets without telling the Go scheduler.
//
// The net package makes its system calls through the scheduler, since a call may
// block. Reads and writes of its sockets never do, and the scheduler is not needed:
// yet the first such call after the process was idle wakes the runtime's monitoring
// thread (sysmon), which then looks every 20 µs whether the call has returned. With
// a thousand small messages a second that is a quarter of the CPU time. The same holds for
// every other call that is made once a message and waits for nothing: see Held.
package rawconn

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

var (
	disabled atomic.Bool
	open     atomic.Int64
)

// started is what SinceBoot counts from where the system tells nothing better.
var started = time.Now()

// Enable turns raw reads and writes on, as they are by default, or off, for the
// connections that Dial makes from then on, in the whole process.
func Enable(on bool) { disabled.Store(!on) }

// Enabled returns whether connections are made raw where that is possible.
func Enabled() bool { return !disabled.Load() }

// Open returns how many connections with raw reads and writes are open in the process.
func Open() int64 { return open.Load() }

// Dial connects as the dialer does, and returns a connection whose reads and writes
// are raw where that is possible and Enable has not turned it off.
func Dial(dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if !Enabled() {
			return c, nil
		}
		return wrap(c), nil
	}
}
