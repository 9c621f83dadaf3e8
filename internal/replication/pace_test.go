package replication

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// fakeWater notes what is asked of a socket's low-water mark.
type fakeWater struct {
	did    []string
	secure bool
}

func (w *fakeWater) mark(bytes int)             { w.did = append(w.did, fmt.Sprint("mark ", bytes)) }
func (w *fakeWater) await(atMost time.Duration) { w.did = append(w.did, fmt.Sprint("await ", atMost)) }
func (w *fakeWater) ready()                     { w.did = append(w.did, "ready") }
func (w *fakeWater) all() bool                  { return !w.secure }

func TestDelay(t *testing.T) {
	tillFull := []string{fmt.Sprint("mark ", smallBuffer.full), "await 10ms", "ready"}
	shorter := []string{fmt.Sprint("mark ", smallBuffer.full), "await 5ms", "ready"}
	whole := []string{"mark 52", "await 20ms", "ready"}
	atOnce := []string{"ready"}
	late := 2 * behindBy.Microseconds()
	for _, test := range []struct {
		name   string
		pace   pace
		midway bool
		want   []string
	}{
		{"heavy traffic", pace{heavy: true, smallRead: true}, false, tillFull},
		{"heavy traffic, in a transaction", pace{heavy: true, smallRead: true, open: true}, false, tillFull},
		{"heavy traffic, in a message", pace{heavy: true, smallRead: true}, true, tillFull},
		{"heavy traffic, a read of enough", pace{heavy: true, frequent: true}, false, atOnce},
		{"heavy traffic, near", pace{heavy: true, smallRead: true, near: new(fakeSocket)}, false, shorter},
		{"light traffic", pace{smallRead: true}, false, atOnce},
		{"frequent traffic", pace{smallRead: true, frequent: true}, false, whole},
		{"frequent traffic, in a transaction", pace{smallRead: true, frequent: true, open: true}, false, atOnce},
		{"frequent traffic, in a message", pace{smallRead: true, frequent: true}, true, atOnce},
		{"light traffic, far and behind", pace{smallRead: true, lag: late, committed: 1}, false, atOnce},
		{"light traffic, near and behind", pace{smallRead: true, lag: late, committed: 1, near: new(fakeSocket)}, false, tillFull},
		{"heavy traffic, near and behind", pace{smallRead: true, heavy: true, lag: late, committed: 1, near: new(fakeSocket)}, false, tillFull},
		{"frequent traffic, with TLS", pace{smallRead: true, frequent: true, water: &fakeWater{secure: true}}, false, atOnce},
	} {
		water, ok := test.pace.water.(*fakeWater)
		if !ok {
			water = new(fakeWater)
		}
		test.pace.water, test.pace.socket = water, &smallBuffer
		if test.pace.delay(test.midway); !slices.Equal(water.did, test.want) {
			t.Errorf("%s: did %q, want %q", test.name, water.did, test.want)
		}
	}
}

// Without a low-water mark a delay is a sleep, and there is none in light traffic.
func TestDelayWithoutLowWaterMark(t *testing.T) {
	p := newPace(unmarked{}, nil)
	p.smallRead, p.heavy = true, true
	before := time.Now()
	if p.delay(false); time.Since(before) < delayFor {
		t.Error("no delay in heavy traffic")
	}
	slept := false
	for range 100 {
		p.heavy, p.frequent = false, true
		before := time.Now()
		p.delay(false)
		if slept = time.Since(before) >= frequentFor; !slept {
			break
		}
	}
	if slept {
		t.Error("a delay in light traffic")
	}
}

// A server behind a Unix socket waits for a reader that delays, so no read is delayed.
func TestUnixSocketIsReadWithoutDelay(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := paceOf(conn)
	p.smallRead, p.heavy, p.frequent = true, true, true
	delayed := 0
	for range 100 {
		before := time.Now()
		if p.delay(false); time.Since(before) >= delayFor {
			delayed++
		}
	}
	if delayed == 100 {
		t.Error("each read waits")
	}
}

// Traffic is frequent while reads follow each other closely, and a transaction is open
// until its end.
func TestFrequentAndOpen(t *testing.T) {
	p := newPace(unmarked{}, nil)
	now := time.Now()
	if p.read(1, 2, now); p.frequent {
		t.Error("frequent after the first read")
	}
	if p.read(1, 2, now.Add(frequentFor-1)); !p.frequent {
		t.Error("not frequent after a read that followed closely")
	}
	if p.read(1, 2, now.Add(2*frequentFor)); p.frequent {
		t.Error("frequent after a pause")
	}
	for _, test := range []struct {
		message string
		open    bool
	}{{"B", true}, {"R", true}, {"I", true}, {"I", true}, {"M", true}, {"C", false}, {"M", false}, {"B", true}, {"C", false}} {
		if p.message(1, []byte(test.message+string(make([]byte, 20)))); p.open != test.open {
			t.Errorf("after %s the transaction is open: %v", test.message, p.open)
		}
	}
}

// The rest of a message is not held back, however short it is.
func TestNoDelayInAMessage(t *testing.T) {
	srv, s := newServer(t, NewMemory(1<<20), never, 700)
	water := new(fakeWater)
	s.pace = newPace(water, nil)
	s.pace.lastRead = time.Now().Add(time.Hour) // so that traffic is frequent
	go func() {
		m := keepalive(900, false)
		srv.write(m[:10])
		srv.write(m[10:])
	}()
	if f, err := s.Next(); err != nil || f.WALEnd != 900 {
		t.Fatalf("read %v, %v", f, err)
	}
	if want := []string{"ready", "ready"}; !slices.Equal(water.did, want) {
		t.Errorf("did %q, want %q", water.did, want)
	}
}

type fakeSocket struct {
	did     []string
	offered int
	arrived uint32
}

func (s *fakeSocket) resize(bytes int) { s.did = append(s.did, fmt.Sprint("resize ", bytes)) }
func (s *fakeSocket) lock(on bool)     { s.did = append(s.did, fmt.Sprint("lock ", on)) }
func (s *fakeSocket) limit(buffer int) int {
	offered := s.offered
	s.did, s.offered = append(s.did, fmt.Sprint("limit ", buffer)), 0
	return offered
}
func (s *fakeSocket) segments() uint32 { return s.arrived }

// While a server that is behind sends small segments, nothing ends a delay.
func TestDelayIsLongWhileSegmentsAreSmall(t *testing.T) {
	water := new(fakeWater)
	socket := &fakeSocket{arrived: 1<<32 - 10} // before it wraps around
	p := newPace(water, socket)
	p.segments = socket.arrived
	for _, test := range []struct {
		name            string
		behind          bool
		segments, bytes int
		sleeps          bool
	}{
		{"small, keeping up", false, 100, 10_000, false},
		{"small", true, 100, 10_000, true},
		{"not quite", true, 10, 10*small - 1, true},
		{"large", true, 10, 10 * small, false},
		{"none", true, 0, 0, false},
		{"small again", true, 20, 1000, true},
	} {
		p.lag = 0
		if test.behind {
			p.lag = time.Second.Microseconds()
		}
		socket.arrived += uint32(test.segments)
		p.read(test.bytes, 1<<20, time.Now())
		p.heavy, p.smallRead, water.did = true, true, nil
		before := time.Now()
		p.delay(false)
		took := time.Since(before)
		if slept := slices.Equal(water.did, []string{fmt.Sprint("mark ", math.MaxInt32), "ready"}); slept != test.sleeps || slept && took < closeFor {
			t.Errorf("%s: did %q in %s", test.name, water.did, took)
		}
		if !test.behind {
			p.smallSegments() // count anew
		}
	}
}

// The receive buffer is small only where the server is near and behind, by its own
// clock alone.
func TestReceiveBufferFitsTheServer(t *testing.T) {
	srv, s := newServer(t, NewMemory(1<<20), never, 700)
	socket := new(fakeSocket)
	s.pace = newPace(new(fakeWater), socket)
	s.pace.smallRead = true
	s.pace.delay(false)
	toSmall, toLarge := fmt.Sprint("resize ", smallBuffer.buffer), fmt.Sprint("resize ", largeBuffer.buffer)
	did := func(want ...string) {
		t.Helper()
		if !slices.Equal(socket.did, want) {
			t.Errorf("did %q, want %q", socket.did, want)
		}
		socket.did = nil
	}
	did(toSmall) // nobody knows yet
	heavy := true
	receive := func(lag time.Duration, message string) {
		t.Helper()
		const committed = 1_000_000_000 // in some other year
		frame := []byte{'d', 0, 0, 0, byte(4 + 25 + len(message)), 'w'}
		frame = binary.BigEndian.AppendUint64(frame, 1)
		frame = binary.BigEndian.AppendUint64(frame, 1)
		frame = binary.BigEndian.AppendUint64(frame, uint64(committed+lag.Microseconds()))
		frame = append(frame, message...)
		if message[0] == 'B' {
			binary.BigEndian.PutUint64(frame[len(frame)-12:], committed)
		}
		s.pace.smallRead = false // no delay before it
		go srv.write(frame)
		if f, err := s.Next(); err != nil || string(f.Data[:1]) != message[:1] {
			t.Fatalf("read %q, %v", f.Data, err)
		}
		s.pace.smallRead, s.pace.heavy = true, heavy
		s.pace.delay(false)
	}
	begin, insert := "B"+string(make([]byte, 8+8+4)), "I"+string(make([]byte, 20))
	limit := fmt.Sprint("limit ", smallBuffer.buffer)

	receive(29*time.Millisecond, begin)
	did(toLarge)
	receive(31*time.Millisecond, insert) // of the same transaction, which is large
	did(limit, toSmall)                  // no more was offered
	receive(40*time.Millisecond, insert)
	did()
	receive(time.Second, begin)
	did()
	receive(20*time.Millisecond, begin)
	receive(25*time.Millisecond, insert)
	receive(time.Hour, "M"+string(make([]byte, 20))) // in no transaction
	did(toLarge)

	heavy = false
	receive(99*time.Millisecond, begin)
	did()
	socket.offered = 75 // a frame is 51 bytes
	receive(101*time.Millisecond, begin)
	did(limit)
	receive(150*time.Millisecond, begin)
	did(limit)
	receive(150*time.Millisecond, begin)
	did(limit, toSmall)
	receive(time.Millisecond, begin)
	socket.offered = 75
	receive(time.Second, begin)
	did(toLarge, limit)
	socket.offered = 40 // the kernel has lifted the limit
	receive(time.Second, begin)
	receive(time.Second, begin)
	did(limit, limit, toSmall)
	receive(time.Millisecond, begin)
	socket.offered = 75
	receive(time.Second, begin)
	receive(time.Millisecond, begin) // it has caught up meanwhile
	did(toLarge, limit, toLarge)

	far := newPace(unmarked{}, nil)
	far.lag, far.committed = time.Hour.Microseconds(), 1
	if far.fit(); far.socket != &smallBuffer {
		t.Error("the socket of a far server is used in another way")
	}
}
