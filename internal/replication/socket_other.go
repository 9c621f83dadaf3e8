//go:build !linux

package replication

import (
	"net"
	"time"
)

// near is nil where the round trip cannot be asked for.
func near(net.Conn) nearSocket { return nil }

// water has no mark where that does not bind those who wait for a socket.
func water(net.Conn) lowWater { return unmarked{} }

// limitUnacknowledged leaves it to the kernel.
func limitUnacknowledged(net.Conn, time.Duration) {}
