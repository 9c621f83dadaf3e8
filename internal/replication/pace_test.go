package replication

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

func TestRestEndsWhenTheWindowIsClosed(t *testing.T) {
	full := narrow.full
	for _, test := range []struct {
		name  string
		holds []int // what the socket holds each time it is looked at
		looks int
	}{
		{"the window is closed", []int{10, full, full + 1}, 2},
		{"more and more arrives", []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, int(restFor / restSlice)},
		{"the server does not get to it", []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, int(restFor / restSlice)},
	} {
		looks := 0
		p := newPace(func() int {
			looks++
			return test.holds[looks-1]
		}, nil)
		p.heavy, p.little = true, true
		p.rest()
		if looks != test.looks {
			t.Errorf("%s: looked %d times, want %d", test.name, looks, test.looks)
		}
		looks = 0
		p.heavy = false
		p.rest()
		p.heavy, p.little = true, false
		p.rest()
		if looks != 0 {
			t.Errorf("%s: rested in light traffic, or after a read of plenty", test.name)
		}
		p.heavy, p.little, p.lag, p.committed = false, true, 2*behindBy.Microseconds(), 1
		p.rest()
		if looks != 0 {
			t.Errorf("%s: rested in light traffic for a far server", test.name)
		}
		p.near = new(fakeSocket)
		p.rest()
		if looks != test.looks {
			t.Errorf("%s: behind in light traffic, looked %d times, want %d", test.name, looks, test.looks)
		}
	}
}

type fakeSocket struct {
	did     []string
	offered int
	arrived uint32
}

func (s *fakeSocket) resize(bytes int) { s.did = append(s.did, fmt.Sprint("resize ", bytes)) }
func (s *fakeSocket) limit(buffer int) int {
	offered := s.offered
	s.did, s.offered = append(s.did, fmt.Sprint("limit ", buffer)), 0
	return offered
}
func (s *fakeSocket) segments() uint32 { return s.arrived }

// While a server that is behind sends small segments, the socket is not looked at.
func TestRestIsLongWhileSegmentsAreSmall(t *testing.T) {
	looks := 0
	socket := &fakeSocket{arrived: 1<<32 - 10} // before it wraps around
	p := newPace(func() int { looks++; return wide.full }, socket)
	p.segments = socket.arrived
	for _, test := range []struct {
		name            string
		behind          bool
		segments, bytes int
		looks           int
	}{
		{"small, keeping up", false, 100, 10_000, 1},
		{"small", true, 100, 10_000, 0},
		{"not quite", true, 10, 10*small - 1, 0},
		{"large", true, 10, 10 * small, 1},
		{"none", true, 0, 0, 1},
		{"small again", true, 20, 1000, 0},
	} {
		p.lag = 0
		if test.behind {
			p.lag = time.Second.Microseconds()
		}
		socket.arrived += uint32(test.segments)
		p.read(test.bytes, 1<<20)
		p.heavy, p.little, looks = true, true, 0
		before := time.Now()
		p.rest()
		if looks != test.looks {
			t.Errorf("%s: looked %d times, want %d", test.name, looks, test.looks)
		}
		if took := time.Since(before); test.looks == 0 && took < closeFor {
			t.Errorf("%s: rested for %s only", test.name, took)
		}
		if !test.behind {
			p.smallSegments() // count anew
		}
	}
}

// The receive buffer is small only where the server is near and behind, by its own
// clock alone.
func TestReceiveBufferFitsTheServer(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	s := newStream(ours, NewMemory(1<<20), time.Hour, 0)
	socket := new(fakeSocket)
	s.pace = newPace(func() int { return wide.full }, socket)
	s.pace.little = true
	s.pace.rest()
	toNarrow, toWide := fmt.Sprint("resize ", narrow.buffer), fmt.Sprint("resize ", wide.buffer)
	did := func(want ...string) {
		t.Helper()
		if !slices.Equal(socket.did, want) {
			t.Errorf("did %q, want %q", socket.did, want)
		}
		socket.did = nil
	}
	did(toNarrow) // nobody knows yet
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
		s.pace.little = false // no rest before it
		go theirs.Write(frame)
		if f, err := s.Next(); err != nil || string(f.Data[:1]) != message[:1] {
			t.Fatalf("read %q, %v", f.Data, err)
		}
		s.pace.little, s.pace.heavy = true, heavy
		s.pace.rest()
	}
	begin, insert := "B"+string(make([]byte, 8+8+4)), "I"+string(make([]byte, 20))
	limit := fmt.Sprint("limit ", narrow.buffer)

	receive(29*time.Millisecond, begin)
	did(toWide)
	receive(31*time.Millisecond, insert) // of the same transaction, which is large
	did(limit, toNarrow)                 // no more was offered
	receive(40*time.Millisecond, insert)
	did()
	receive(time.Second, begin)
	did()
	receive(20*time.Millisecond, begin)
	receive(25*time.Millisecond, insert)
	receive(time.Hour, "M"+string(make([]byte, 20))) // in no transaction
	did(toWide)

	heavy = false
	receive(99*time.Millisecond, begin)
	did()
	socket.offered = 75 // a frame is 51 bytes
	receive(101*time.Millisecond, begin)
	did(limit)
	receive(150*time.Millisecond, begin)
	did(limit)
	receive(150*time.Millisecond, begin)
	did(limit, toNarrow)
	receive(time.Millisecond, begin)
	socket.offered = 75
	receive(time.Second, begin)
	did(toWide, limit)
	socket.offered = 40 // the kernel has lifted the limit
	receive(time.Second, begin)
	receive(time.Second, begin)
	did(limit, limit, toNarrow)
	receive(time.Millisecond, begin)
	socket.offered = 75
	receive(time.Second, begin)
	receive(time.Millisecond, begin) // it has caught up meanwhile
	did(toWide, limit, toWide)

	far := newPace(nil, nil)
	far.lag, far.committed = time.Hour.Microseconds(), 1
	if far.fit(); far.socket != &narrow {
		t.Error("the socket of a far server is used in another way")
	}
}
