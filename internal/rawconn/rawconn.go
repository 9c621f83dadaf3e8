// Package rawconn reads and writes sockets without telling the Go scheduler.
//
// The net package makes its system calls through the scheduler, since a call may
// block. Reads and writes of its sockets never do, and the scheduler is not needed:
// yet the first such call after the process was idle wakes the runtime's monitoring
// thread (sysmon), which then looks every 20 µs whether the call has returned. With
// a thousand small messages a second that is a quarter of the CPU time.
package rawconn

import (
	"context"
	"net"
)

// Dial connects as the dialer does, and returns a connection whose reads and writes
// are raw where that is possible.
func Dial(dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return wrap(c), nil
	}
}
