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

// near is a round trip up to which the buffer is small: with a longer one it
// would bound the throughput, to a buffer a round trip. It is the shortest round trip
// that counts, since the average one waits for a processor too.
const near = 500 * time.Microsecond

// narrow makes the receive buffer of a connection to a near server small. It is
// called before much has arrived.
func narrow(conn net.Conn) error {
	raw := rawSocket(conn)
	if raw == nil {
		return nil
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); failed != nil {
			return
		}
		if time.Duration(info.Min_rtt)*time.Microsecond < near {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	}); err != nil {
		return err
	}
	return failed
}
