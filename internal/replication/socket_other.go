//go:build !linux

package replication

import "net"

// narrow does nothing where the round trip cannot be asked for.
func narrow(net.Conn) error { return nil }

// readable is nil where it cannot be asked how much a socket holds.
func readable(net.Conn) func() int { return nil }
