package replication

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"outboxd/internal/rawconn"
)

// rawSocket returns the socket of a TCP connection, or nil.
func rawSocket(conn net.Conn) syscall.RawConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if ahead, ok := conn.(*aheadConn); ok {
		conn = ahead.Conn
	}
	if socket, ok := conn.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// water returns the low-water mark of a connection.
func water(conn net.Conn) lowWater {
	raw := rawSocket(conn)
	if raw == nil {
		return unmarked{}
	}
	_, secure := conn.(*tls.Conn)
	return &tcpWater{conn: conn, raw: raw, secure: secure, wakesAt: 1}
}

// tcpWater is the low-water mark of a TCP socket. Linux disregards it when the socket's
// memory is nearly used up or its window closed (tcp_epollin_ready).
type tcpWater struct {
	conn net.Conn
	raw  syscall.RawConn
	// secure is a connection with TLS. It reads ahead, and its Read may need more
	// than the socket holds.
	secure  bool
	wakesAt int
}

func (w *tcpWater) mark(bytes int) {
	if bytes == w.wakesAt {
		return
	}
	w.wakesAt = bytes
	_ = w.raw.Control(func(fd uintptr) { rawconn.SetLowWater(fd, bytes) })
}

func (w *tcpWater) await(atMost time.Duration) {
	if err := w.conn.SetReadDeadline(time.Now().Add(atMost)); err != nil {
		return // a closed connection, as Read will tell
	}
	woken := false
	_ = w.raw.Read(func(fd uintptr) bool {
		enough := woken || rawconn.Held(fd) >= w.wakesAt
		woken = true
		return enough
	})
}

// ready leaves the mark where it is if there is something to read: to lower it then
// would wake somebody for nothing.
func (w *tcpWater) ready() {
	if w.wakesAt == 1 {
		return
	}
	n := 0
	if !w.secure {
		_ = w.raw.Control(func(fd uintptr) { n = rawconn.Held(fd) })
	}
	if n == 0 {
		w.mark(1)
	}
}

func (w *tcpWater) all() bool { return !w.secure }

// near returns the socket of a connection to a near server, or nil.
func near(conn net.Conn) nearSocket {
	if raw := rawSocket(conn); raw != nil {
		s := tcpSocket{raw: raw}
		_ = raw.Control(func(fd uintptr) {
			_, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BUF_LOCK)
			s.lockable = err == nil
		})
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

type tcpSocket struct {
	raw syscall.RawConn
	// lockable tells whether the size of a buffer can be left to the kernel again
	// once it was set (SO_BUF_LOCK, Linux 5.14). Elsewhere it is never set.
	lockable bool
}

// resize sets SO_RCVBUF. A buffer that is refused stays as it was.
func (s tcpSocket) resize(bytes int) {
	if s.lockable {
		s.set(unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	}
	s.clamp(bytes)
}

func (s tcpSocket) lock(on bool) {
	locks := 0
	if on {
		locks = unix.SOCK_RCVBUF_LOCK
	}
	if s.lockable {
		s.set(unix.SOL_SOCKET, unix.SO_BUF_LOCK, locks)
	}
}

// limit looks at the bound of windows (rcv_ssthresh), since older kernels do not
// tell the window itself.
func (s tcpSocket) limit(buffer int) (offered int) {
	if bound := int(s.info().Rcv_ssthresh); bound > window(buffer) {
		s.clamp(buffer)
		if s.lockable { // else the buffer does not become smaller
			return bound
		}
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

// limitUnacknowledged makes the kernel end a connection on which something that was
// sent stays unacknowledged for so long. Otherwise it tries for a quarter of an hour.
func limitUnacknowledged(conn net.Conn, after time.Duration) {
	if raw := rawSocket(conn); raw != nil {
		tcpSocket{raw: raw}.set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	}
}
