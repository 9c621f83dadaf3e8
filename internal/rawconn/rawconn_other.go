//go:build !linux

package rawconn

import (
	"net"
	"time"
)

// wrap returns c: system calls are made by the net package.
func wrap(c net.Conn) net.Conn { return c }

// SinceBoot is a clock that nobody sets.
func SinceBoot() time.Duration { return time.Since(started) }
