package replication

import (
	"encoding/binary"
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
		p.heavy, p.little, p.lag = false, true, 2*behindBy.Microseconds()
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
	buffers []int
	arrived uint32
}

func (s *fakeSocket) resize(bytes int) { s.buffers = append(s.buffers, bytes) }
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
	s.pace.heavy, s.pace.little = true, true
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
		s.pace.little = true
		go theirs.Write(frame)
		if f, err := s.Next(); err != nil || string(f.Data[:1]) != message[:1] {
			t.Fatalf("read %q, %v", f.Data, err)
		}
		s.pace.heavy = true
		s.pace.rest()
	}
	begin, insert := "B"+string(make([]byte, 8+8+4)), "I"+string(make([]byte, 20))
	receive(99*time.Millisecond, begin)
	receive(150*time.Millisecond, insert) // of the same transaction, which is large
	receive(200*time.Millisecond, insert)
	receive(time.Second, begin)
	receive(50*time.Millisecond, begin)
	receive(60*time.Millisecond, insert)
	receive(time.Hour, "M"+string(make([]byte, 20))) // in no transaction
	if want := []int{wide.buffer, narrow.buffer, wide.buffer}; !slices.Equal(socket.buffers, want) {
		t.Errorf("buffers %d, want %d", socket.buffers, want)
	}

	far := newPace(nil, nil)
	far.lag = time.Hour.Microseconds()
	if far.fit(); far.socket != &narrow {
		t.Error("the socket of a far server is used in another way")
	}
}
