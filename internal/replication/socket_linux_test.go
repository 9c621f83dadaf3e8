package replication

import (
	"crypto/tls"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"outboxd/internal/rawconn"
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

func socketHolds(t *testing.T, socket syscall.RawConn) (n int) {
	t.Helper()
	if err := socket.Control(func(fd uintptr) { n = rawconn.Held(fd) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// arrives waits until a socket holds so many bytes.
func arrives(t *testing.T, socket syscall.RawConn, bytes int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); socketHolds(t, socket) < bytes; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("of %d bytes that were offered %d arrived", bytes, socketHolds(t, socket))
		}
	}
}

func lowWaterMark(t *testing.T, socket syscall.RawConn) (n int) {
	t.Helper()
	if err := socket.Control(func(fd uintptr) {
		var err error
		if n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A delay ends when enough has come, when no more can come, at its end, or when the
// read deadline is moved, and not before.
func TestAwait(t *testing.T) {
	const long = time.Minute
	ours, theirs, s := connected(t)
	s.resize(smallBuffer.buffer)
	w := water(ours).(*tcpWater)
	write := func(n int) {
		t.Helper()
		if _, err := theirs.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	awaits := func(atMost time.Duration) <-chan time.Duration {
		ended := make(chan time.Duration, 1)
		go func() {
			began := time.Now()
			w.await(atMost)
			ended <- time.Since(began)
		}()
		return ended
	}
	ends := func(what string, ended <-chan time.Duration) {
		t.Helper()
		select {
		case <-ended:
		case <-time.After(long / 2):
			t.Fatalf("the delay goes on %s", what)
		}
	}
	goesOn := func(ended <-chan time.Duration) {
		t.Helper()
		select {
		case <-ended:
			t.Fatalf("the delay ended with %d bytes", socketHolds(t, s.raw))
		case <-time.After(50 * time.Millisecond):
		}
	}
	w.mark(1000)
	ended := awaits(long)
	for range 9 {
		write(100)
		goesOn(ended)
	}
	write(100)
	ends("with enough", ended)
	ends("with enough that was there", awaits(long))

	w.mark(2000)
	if took := <-awaits(20 * time.Millisecond); took < 20*time.Millisecond {
		t.Errorf("a delay of 20 ms ended after %s", took)
	}
	ended = awaits(long)
	goesOn(ended)
	if err := ours.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	ends("when the deadline was moved", ended)

	w.mark(1 << 30)
	ended = awaits(long)
	goesOn(ended) // by now it waits, and hears of the full socket
	go theirs.Write(make([]byte, 16<<20))
	ends("when the socket takes no more", ended)
	w.mark(1 << 29)
	ended = awaits(long)
	ours.Close()
	ends("when the connection was closed", ended)
	w.await(long)
}

// After a delay a Read waits for one byte only, however much the delay was to bring.
func TestReadyAfterDelay(t *testing.T) {
	ours, theirs, s := connected(t)
	w := water(ours).(*tcpWater)
	w.mark(1000)
	w.await(time.Millisecond)
	if got := lowWaterMark(t, s.raw); got != 1000 {
		t.Fatalf("the mark is at %d", got)
	}
	w.ready()
	if got := lowWaterMark(t, s.raw); got != 1 {
		t.Errorf("with an empty socket the mark stays at %d", got)
	}
	w.mark(1000)
	if _, err := theirs.Write([]byte("something")); err != nil {
		t.Fatal(err)
	}
	arrives(t, s.raw, len("something"))
	w.ready()
	if got := lowWaterMark(t, s.raw); got != 1000 {
		t.Errorf("with something to read the mark goes to %d, and wakes somebody for nothing", got)
	}
	if err := ours.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Read(make([]byte, 100)); n != len("something") || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if w.ready(); lowWaterMark(t, s.raw) != 1 {
		t.Error("the mark stays for the next read")
	}
	// A record may be there in part.
	secure := water(tls.Client(ours, &tls.Config{})).(*tcpWater)
	secure.mark(1000)
	if _, err := theirs.Write([]byte("something")); err != nil {
		t.Fatal(err)
	}
	if !w.all() || secure.all() {
		t.Errorf("all that has come is in the socket: %v, with TLS %v", w.all(), secure.all())
	}
	if secure.ready(); lowWaterMark(t, s.raw) != 1 {
		t.Error("with TLS the mark stays")
	}
}

// What is shorter than a transaction waits for one, but not for long.
func TestFrequentTrafficHoldsNothingBack(t *testing.T) {
	ours, theirs, socket := connected(t)
	srv := &server{t: t, conn: theirs, statuses: make(chan standbyStatus, 1<<16)}
	s := newStream(ours, paceOf(ours), NewMemory(1<<20), never, 700)
	t.Cleanup(s.Close)
	srv.listen()
	begin, insert, commit := string(append([]byte{'B'}, make([]byte, 20)...)), "I", string(append([]byte{'C'}, make([]byte, 25)...))
	frames := make(chan string)
	go func() {
		defer close(frames)
		for {
			f, err := s.Next()
			if err != nil {
				return
			}
			frames <- text(f)
		}
	}()
	t.Cleanup(func() {
		theirs.Close()
		for range frames {
		}
	})
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-frames:
			if got != want {
				t.Fatalf("read %q, want %q", got, want)
			}
		case <-time.After(probeAfter / 2):
			t.Fatalf("%q is held back", want)
		}
	}
	for frequent := false; !frequent; frequent = lowWaterMark(t, socket.raw) == transaction {
		srv.write(slices.Concat(walData(1, []byte(begin)), walData(1, []byte(insert)), walData(1, []byte(commit))))
		for _, m := range []string{begin, insert, commit} {
			expect("data " + m)
		}
	}
	srv.write(keepalive(900, true))
	expect("keepalive 900")
	if st := srv.status(); st.confirmed != 700 {
		t.Errorf("the answer is %+v", st)
	}
	srv.write(walData(1, []byte(begin)))
	expect("data " + begin)
}

// When the receive buffer becomes small, there is room for what the server was
// offered before, and then the server is offered no more than there is room for.
func TestReceiveBufferHoldsWhatWasOffered(t *testing.T) {
	ours, theirs, s := connected(t)
	server := tcpSocket{raw: rawSocket(theirs)}
	p := newPace(unmarked{}, s)
	burst, room := make([]byte, 5*smallBuffer.buffer), make([]byte, 5*smallBuffer.buffer)
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
			p.read(got, len(room), time.Now())
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
		for p.fit(); p.socket != &smallBuffer; p.fit() {
			go send()
			if server.info().Snd_wnd >= uint32(len(burst)) {
				arrives(t, s.raw, len(burst))
			}
			receive()
		}
		if offered := server.info().Snd_wnd; offered > uint32(2*smallBuffer.buffer) {
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
	for _, want := range []int{smallBuffer.buffer, smallBuffer.buffer / 2, smallBuffer.buffer} {
		// Linux doubles what is asked for, see socket(7).
		if s.resize(want); buffer() != 2*want {
			t.Errorf("a receive buffer of %d bytes, want twice %d", buffer(), want)
		}
	}
	before := s.segments()
	if _, err := theirs.Write([]byte("a segment")); err != nil {
		t.Fatal(err)
	}
	arrives(t, s.raw, len("a segment"))
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
