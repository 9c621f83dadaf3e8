package replication

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rawSocket returns the TCP socket of a connection, or nil.
func rawSocket(conn net.Conn) syscall.RawConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// readable returns how to ask how many bytes the socket holds, or nil.
func readable(conn net.Conn) func() int {
	raw := rawSocket(conn)
	if raw == nil {
		return nil
	}
	n := 0
	ask := func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	return func() int {
		_ = raw.Control(ask)
		return n
	}
}

// near is a round trip up to which the receive buffer is ours to choose: with a
// longer one it would bound the throughput, to a buffer a round trip. It is the
// shortest round trip that counts, since the average one waits for a processor too.
const near = 500 * time.Microsecond

// resizable returns how to set the receive buffer of a connection to a near server,
// or nil. A buffer that is refused stays as it was.
func resizable(conn net.Conn) func(bytes int) {
	raw := rawSocket(conn)
	if raw == nil {
		return nil
	}
	isNear := false
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		isNear = err == nil && time.Duration(info.Min_rtt)*time.Microsecond < near
	})
	if !isNear {
		return nil
	}
	return func(bytes int) {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
		})
	}
}
