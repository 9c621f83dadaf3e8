//go:build !linux

package replication

import "net"

// near is nil where the round trip cannot be asked for.
func near(net.Conn) nearSocket { return nil }

// readable is nil where it cannot be asked how much a socket holds.
func readable(net.Conn) func() int { return nil }
