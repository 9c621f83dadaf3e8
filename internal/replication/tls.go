package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/internal/rawconn"
)

// PostgreSQL makes a TLS record of each message, and tls.Conn reads one record at a
// time. It asks the socket for little more than that, and does not tell what it has
// read beyond. So below it there is a reader that takes all that the socket has, and
// above it one that goes on until nothing of that is left. A read then brings what
// has come, as it does without TLS.

// dial connects as the dialer does. Reads and writes are raw.
func dial(dialer *net.Dialer) pgconn.DialFunc {
	connect := rawconn.Dial(dialer)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &aheadConn{Conn: conn}, nil
	}
}

// whole returns a connection of dial, with or without TLS, whose reads bring all that
// has come. It takes the place of the given one.
func whole(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case *aheadConn:
		return c.Conn
	case *tls.Conn:
		if below, ok := c.NetConn().(*aheadConn); ok {
			below.buf = make([]byte, readAhead)
			return &secureConn{Conn: c, below: below}
		}
	}
	return conn
}

// readAhead is how much is read at once, in bytes. It is more than what needs no delay
// after it (socketUse.enough).
const readAhead = 64 << 10

// aheadConn is what TLS reads from. It reads ahead if it has a buffer.
type aheadConn struct {
	net.Conn
	buf  []byte
	r, w int // buf[r:w] was read ahead
	// dry says that nothing more is to be read.
	dry bool
	// left is how many more bytes may be read before the stream, if limited: see allow.
	limited atomic.Bool
	left    atomic.Int64
}

func (c *aheadConn) Read(b []byte) (int, error) {
	if c.r == c.w {
		if c.dry {
			return 0, errDry
		}
		if c.buf == nil {
			n, err := c.Conn.Read(b)
			if c.limited.Load() && c.left.Add(-int64(n)) < 0 {
				return 0, errTooMuch
			}
			return n, err
		}
		n, err := c.Conn.Read(c.buf)
		if c.r, c.w = 0, n; n == 0 {
			return 0, err
		}
	}
	n := copy(b, c.buf[c.r:c.w])
	c.r += n
	return n, nil
}

// errTooMuch ends a connection whose server says more than any does.
var errTooMuch = errors.New("the server sends more than an answer can be")

// errDry is a time-out: after it TLS goes on where it was.
var errDry error = dryError{}

type dryError struct{}

func (dryError) Error() string   { return "nothing more was read ahead" }
func (dryError) Timeout() bool   { return true }
func (dryError) Temporary() bool { return true }

// secureConn is a connection with TLS whose Read brings all records that have come.
type secureConn struct {
	*tls.Conn
	below *aheadConn
}

func (c *secureConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.below.dry = true
	for err == nil && n < len(b) {
		var more int
		more, err = c.Conn.Read(b[n:])
		n += more
	}
	c.below.dry = false
	if errors.Is(err, errDry) {
		err = nil
	}
	return n, err
}
