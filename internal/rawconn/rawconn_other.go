//go:build !linux

package rawconn

import "net"

// wrap returns c: system calls are made by the net package.
func wrap(c net.Conn) net.Conn { return c }
