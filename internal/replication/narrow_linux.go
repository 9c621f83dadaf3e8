package replication

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// near is a round trip up to which the buffer is small: with a longer one it
// would bound the throughput, to a buffer a round trip, and a server that waits
// for acknowledgements puts messages together anyway.
const near = 2 * time.Millisecond

// narrow makes the receive buffer of a connection to a near server small. It is
// called before much has arrived.
func narrow(conn net.Conn) error {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); failed != nil {
			return
		}
		if time.Duration(info.Rtt)*time.Microsecond < near {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	}); err != nil {
		return err
	}
	return failed
}
