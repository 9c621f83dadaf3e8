package replication

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The loopback is near: its receive buffer can be set, and segments are counted.
func TestNearSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	s := near(ours)
	if s == nil {
		t.Fatal("the loopback is not near")
	}
	buffer := func() (n int) {
		if err := rawSocket(ours).Control(func(fd uintptr) {
			if n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, want := range []int{narrow.buffer, narrow.buffer / 2, narrow.buffer} {
		// Linux doubles what is asked for, see socket(7).
		if s.resize(want); buffer() != 2*want {
			t.Errorf("a receive buffer of %d bytes, want twice %d", buffer(), want)
		}
	}
	before := s.segments()
	if _, err := theirs.Write([]byte("a segment")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); readable(ours)() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if got := s.segments() - before; got != 1 {
		t.Errorf("%d segments, want 1", got)
	}
	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	if near(left) != nil {
		t.Error("a pipe is taken for a socket")
	}
}
