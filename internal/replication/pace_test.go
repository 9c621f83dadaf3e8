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
	}
}

// The receive buffer is small only where the server is near and behind, by its own
// clock alone.
func TestReceiveBufferFitsTheServer(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	s := newStream(ours, NewMemory(1<<20), time.Hour, 0)
	var buffers []int
	s.pace = newPace(func() int { return wide.full }, func(bytes int) { buffers = append(buffers, bytes) })
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
	if want := []int{wide.buffer, narrow.buffer, wide.buffer}; !slices.Equal(buffers, want) {
		t.Errorf("buffers %d, want %d", buffers, want)
	}

	far := newPace(nil, nil)
	far.sent = time.Hour.Microseconds()
	if far.fit(); far.socket != &narrow {
		t.Error("the socket of a far server is used in another way")
	}
}
