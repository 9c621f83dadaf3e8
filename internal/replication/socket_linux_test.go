package replication

import (
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connected returns the two ends of a connection over the loopback, and the socket
// of ours.
func connected(t *testing.T) (ours, theirs net.Conn, socket tcpSocket) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	// On a busy machine even the loopback may take long to answer.
	for range 100 {
		if ours, err = net.Dial("tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ours.Close() })
		if theirs, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { theirs.Close() })
		if s := near(ours); s != nil {
			return ours, theirs, s.(tcpSocket)
		}
	}
	t.Fatal("the loopback is not near")
	return nil, nil, tcpSocket{}
}

// When the receive buffer becomes small, there is room for what the server was
// offered before, and then the server is offered no more than there is room for.
func TestReceiveBufferHoldsWhatWasOffered(t *testing.T) {
	ours, theirs, s := connected(t)
	server := tcpSocket{rawSocket(theirs)}
	p := newPace(readable(ours), s)
	burst, room := make([]byte, 5*narrow.buffer), make([]byte, 5*narrow.buffer)
	send := func() {
		for message := range slices.Chunk(burst, 4<<10) {
			if _, err := theirs.Write(message); err != nil {
				t.Error(err)
			}
		}
	}
	receive := func() {
		t.Helper()
		for n := 0; n < len(burst); {
			got, err := ours.Read(room)
			if err != nil {
				t.Fatal(err)
			}
			p.read(got, len(room))
			n += got
		}
	}
	const keepsUp, behind = 1000, 1_000_000 // microseconds
	p.committed = 1
	for range 3 {
		p.lag = keepsUp
		for p.fit(); server.info().Snd_wnd < uint32(len(burst)); {
			go send()
			receive()
		}
		p.lag = behind
		for p.fit(); p.socket != &narrow; p.fit() {
			go send()
			if server.info().Snd_wnd >= uint32(len(burst)) {
				for deadline := time.Now().Add(10 * time.Second); p.readable() < len(burst); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("of %d bytes that were offered %d arrived", len(burst), p.readable())
					}
				}
			}
			receive()
		}
		if offered := server.info().Snd_wnd; offered > uint32(2*narrow.buffer) {
			t.Fatalf("%d bytes are offered, more than the buffer holds", offered)
		}
	}
}

// The loopback is near: its receive buffer can be set, and segments are counted.
func TestNearSocket(t *testing.T) {
	ours, theirs, s := connected(t)
	buffer := func() (n int) {
		if err := rawSocket(ours).Control(func(fd uintptr) {
			var err error
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

// The shortest round trip says how far the server is.
func TestIsNear(t *testing.T) {
	for _, test := range []struct {
		shortest, average uint32 // microseconds
		want              bool
	}{
		{shortest: 60, average: 80, want: true},
		{shortest: 60, average: 5000, want: true}, // on a busy machine
		{shortest: 499, average: 499, want: true},
		{shortest: 500, average: 500},
		{shortest: 10_000, average: 10_000},
		{average: 100}, // not known
	} {
		if got := isNear(unix.TCPInfo{Min_rtt: test.shortest, Rtt: test.average}); got != test.want {
			t.Errorf("a shortest round trip of %d µs, %d on average: near is %v", test.shortest, test.average, got)
		}
	}
}
