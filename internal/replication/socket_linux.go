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

// near returns the socket of a connection to a near server, or nil.
func near(conn net.Conn) nearSocket {
	if raw := rawSocket(conn); raw != nil {
		s := tcpSocket{raw}
		if isNear(s.info()) {
			return s
		}
	}
	return nil
}

// nearTrip is a round trip up to which the receive buffer is ours to choose: with a
// longer one it would bound the throughput, to a buffer a round trip.
const nearTrip = 500 * time.Microsecond

// isNear looks at the shortest round trip: the average one waits for a processor
// too.
func isNear(info unix.TCPInfo) bool {
	trip := time.Duration(info.Min_rtt) * time.Microsecond
	return trip > 0 && trip < nearTrip
}

type tcpSocket struct{ raw syscall.RawConn }

// resize sets SO_RCVBUF. A buffer that is refused stays as it was.
func (s tcpSocket) resize(bytes int) {
	s.set(unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	s.clamp(bytes)
}

// limit looks at the bound of windows (rcv_ssthresh), since older kernels do not
// tell the window itself.
func (s tcpSocket) limit(buffer int) (offered int) {
	if bound := int(s.info().Rcv_ssthresh); bound > window(buffer) {
		s.clamp(buffer)
		return bound
	}
	return 0
}

// clamp bounds the window by what a buffer holds.
func (s tcpSocket) clamp(buffer int) {
	s.set(unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, window(buffer))
}

// window is the largest window of a buffer: Linux doubles what is asked for, see
// socket(7). It must be more than a segment, which is 64 KiB on the loopback: the
// server waits for 200 ms before it sends a part of one.
func window(buffer int) int { return 2 * buffer }

func (s tcpSocket) set(level, option, value int) {
	_ = s.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), level, option, value) })
}

func (s tcpSocket) segments() uint32 { return s.info().Data_segs_in }

// info returns TCP_INFO, all zero where there is none.
func (s tcpSocket) info() (info unix.TCPInfo) {
	_ = s.raw.Control(func(fd uintptr) {
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			info = *i
		}
	})
	return info
}
