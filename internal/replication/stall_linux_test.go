package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// walsender is the sending half of a server on a real socket: it sends transactions
// of one row, a write for each, for as long as the socket takes them, and hears the
// status updates of the stream.
type walsender struct {
	conn net.Conn
	sent atomic.Int64 // transactions
	// heard is when each status update arrived.
	mu    sync.Mutex
	heard []time.Time
}

// newWalsender returns a stream over the loopback with a server that sends rate
// transactions of 340 bytes a second, and is heard once a second.
func newWalsender(t *testing.T, memory *Memory, rate int) (*walsender, *Stream) {
	t.Helper()
	ours, theirs, _ := connected(t)
	w := &walsender{conn: theirs}
	s := newStream(ours, paceOf(ours), memory, time.Second, 1)
	var running sync.WaitGroup
	t.Cleanup(func() {
		s.Close()
		theirs.Close()
		running.Wait()
	})
	running.Go(func() { w.send(rate) })
	running.Go(w.listen)
	return w, s
}

// send keeps the rate on average, as a server does that was held up.
func (w *walsender) send(rate int) {
	const size = 340
	for began, n := time.Now(), 1; ; n++ {
		due := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
		time.Sleep(time.Until(due))
		now := uint64(time.Now().UnixMicro() - pgEpochMicros)
		begin := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(n))
		begin = append(binary.BigEndian.AppendUint64(begin, now), 0, 0, 0, 0)
		commit := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(n))
		commit = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(commit, uint64(n)), now)
		transaction := slices.Concat(sentAt(now, n, begin), sentAt(now, n, append([]byte{'I'}, make([]byte, size-3*30-len(begin)-len(commit)-1)...)), sentAt(now, n, commit))
		if _, err := w.conn.Write(transaction); err != nil {
			return
		}
		w.sent.Store(int64(n))
	}
}

// sentAt is a frame with the server's clock, in microseconds since 2000.
func sentAt(now uint64, at int, payload []byte) []byte {
	m := walData(uint64(at), payload)
	binary.BigEndian.PutUint64(m[22:], now)
	return m
}

func (w *walsender) listen() {
	for m := make([]byte, 5+34); ; {
		if _, err := io.ReadFull(w.conn, m); err != nil {
			return
		}
		w.mu.Lock()
		w.heard = append(w.heard, time.Now())
		w.mu.Unlock()
	}
}

// silence is the longest time in which nothing was heard.
func (w *walsender) silence(from, to time.Time) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := from
	for _, at := range append(slices.Clone(w.heard), to) {
		if at.After(from) && !at.After(to) {
			longest = max(longest, at.Sub(last))
			last = at
		}
	}
	return longest
}

// While the stream reads nothing, for whichever reason, the server hears it, and
// when it reads again everything is there at once. A socket whose memory is full
// takes no acknowledgements either, and then the server sends again only when its
// own time-out has expired.
func TestServerHearsAStreamThatDoesNotRead(t *testing.T) {
	t.Parallel()
	const streams = 3 // a deaf one is a matter of luck
	var all sync.WaitGroup
	defer all.Wait()
	for range streams {
		for name, pause := range map[string]func(*Stream, *Memory, time.Duration) error{
			"memory is full": fillMemory, "the reader is elsewhere": serveOnly,
		} {
			memory := NewMemory(2 * blockSize)
			w, s := newWalsender(t, memory, stallRate)
			all.Go(func() {
				if err := w.stall(s, memory, pause); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
}

const stallRate = 1200 // transactions a second

// stall reads for a second, pauses, and reads on until there is nothing old left.
func (w *walsender) stall(s *Stream, memory *Memory, pause func(*Stream, *Memory, time.Duration) error) error {
	read := func(until int) error {
		for {
			f, err := s.Next()
			if err != nil {
				return err
			}
			if bytes.HasPrefix(f.Data, []byte{'B'}) && binary.BigEndian.Uint64(f.Data[1:]) >= uint64(until) {
				return nil
			}
		}
	}
	if err := read(stallRate); err != nil {
		return err
	}
	began := time.Now()
	if err := pause(s, memory, 9*time.Second); err != nil {
		return err
	}
	ended := time.Now()
	if d := w.silence(began, ended); d > 3*time.Second {
		return fmt.Errorf("in %s without reading, the server heard nothing for %s", ended.Sub(began), d)
	}
	if err := read(int(w.sent.Load())); err != nil {
		return err
	}
	if d := time.Since(ended); d > 2*time.Second {
		return fmt.Errorf("what the server had sent was read only after %s", d)
	}
	return nil
}

// serveOnly is a reader that is busy elsewhere.
func serveOnly(s *Stream, _ *Memory, long time.Duration) error {
	done := make(chan struct{})
	time.AfterFunc(long, func() { close(done) })
	return s.Serve(context.Background(), done)
}

// fillMemory keeps what it reads until there is no memory for more, and gives it back
// when the time has passed.
func fillMemory(s *Stream, memory *Memory, long time.Duration) error {
	var held []*Block
	for memory.Used() < 2*blockSize {
		if _, err := s.Next(); err != nil {
			return err
		}
		if n := len(held); n == 0 || held[n-1] != s.Block() {
			s.Block().Retain()
			held = append(held, s.Block())
		}
	}
	time.AfterFunc(long, func() {
		for _, b := range held {
			b.Release(0)
		}
	})
	for began := time.Now(); time.Since(began) < long-100*time.Millisecond; {
		if _, err := s.Next(); err != nil {
			return err
		}
	}
	return nil
}
