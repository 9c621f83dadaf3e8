package rawconn

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// socket is a connection of the net package.
type socket interface {
	net.Conn
	syscall.Conn
}

// wrap returns a connection that behaves as c, and c itself where it is no socket.
func wrap(c net.Conn) net.Conn {
	s, ok := c.(socket)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	w := &conn{socket: s}
	w.read = half{name: "read", call: syscall.SYS_READ, wait: raw.Read}
	w.write = half{name: "write", call: syscall.SYS_WRITE, wait: raw.Write, whole: true}
	w.read.try, w.write.try = w.read.attempt, w.write.attempt
	open.Add(1)
	return w
}

// conn is a socket of the net package, which is in non-blocking mode.
type conn struct {
	socket
	read, write half
	closed      atomic.Bool
}

// Close may be called more than once.
func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		open.Add(-1)
	}
	return c.socket.Close()
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.do(&c.read, b)
	if err == nil && n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) { return c.do(&c.write, b) }

// do returns an error as the net package does.
func (c *conn) do(h *half, b []byte) (int, error) {
	n, err := h.transfer(b)
	if err == nil {
		return n, nil
	}
	if e, ok := err.(*net.OpError); ok {
		err = e.Err // of the wait
	}
	return n, &net.OpError{Op: h.name, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// half is one direction of a connection.
type half struct {
	name  string
	call  uintptr
	whole bool // takes all bytes, as io.Writer demands
	// wait calls a function until it returns true, and before each further call
	// waits until the socket is ready.
	wait func(func(fd uintptr) bool) error
	try  func(fd uintptr) bool // attempt, bound once

	mu  sync.Mutex // a transfer holds it
	b   []byte
	n   int
	err error
}

func (h *half) transfer(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b, h.n, h.err = b, 0, nil
	err := h.wait(h.try)
	h.b = nil
	if err == nil {
		err = h.err
	}
	return h.n, err
}

// attempt returns false if the socket is not ready.
func (h *half) attempt(fd uintptr) bool {
	for {
		rest := h.b[h.n:]
		n, _, errno := syscall.RawSyscall(h.call, fd, uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)))
		switch errno {
		case 0:
			h.n += int(n)
			if !h.whole || h.n == len(h.b) {
				return true
			}
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			h.err = os.NewSyscallError(h.name, errno)
			return true
		}
	}
}
