package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"outboxd/offsets"
)

// never is a status interval that no test lives to see: what goes out has
// another cause.
const never = time.Hour

// standbyStatus is what the server hears from a stream.
type standbyStatus struct {
	confirmed uint64
	reply     bool
}

// server is the other end of a stream: a net.Pipe, on which each write arrives
// as the reads that the test made of it.
type server struct {
	t    *testing.T
	conn net.Conn
	// statuses are the status updates in order, each already checked. It is
	// closed when the stream is.
	statuses chan standbyStatus
}

// newServer returns a stream that has begun, and its server.
func newServer(t *testing.T, memory *Memory, statusEvery time.Duration, start pglogrepl.LSN) (*server, *Stream) {
	t.Helper()
	srv, conn := pipe(t)
	s := newStream(conn, paceOf(conn), memory, statusEvery, start)
	t.Cleanup(s.Close)
	srv.listen()
	return srv, s
}

// pipe is a server to which nobody listens yet.
func pipe(t *testing.T) (*server, net.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	return &server{t: t, conn: theirs, statuses: make(chan standbyStatus, 1<<16)}, ours
}

// listen takes status updates from now on, and holds each to what PostgreSQL
// needs: the three positions equal, never zero, never backwards.
func (srv *server) listen() {
	done := make(chan struct{})
	srv.t.Cleanup(func() {
		srv.conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		defer close(srv.statuses)
		last := uint64(0)
		m := make([]byte, 5+34)
		for {
			if _, err := io.ReadFull(srv.conn, m); err != nil {
				return
			}
			if !bytes.Equal(m[:6], []byte{'d', 0, 0, 0, 38, 'r'}) {
				srv.t.Errorf("the stream sent %q, which is no status update", m)
				return
			}
			write, flush, apply := binary.BigEndian.Uint64(m[6:]), binary.BigEndian.Uint64(m[14:]), binary.BigEndian.Uint64(m[22:])
			if write != flush || flush != apply {
				srv.t.Errorf("status update with write %d, flush %d, apply %d: they must be equal", write, flush, apply)
			}
			if flush == 0 {
				srv.t.Error("status update with position zero, which the server takes for another one")
			}
			if flush < last {
				srv.t.Errorf("status update went back from %d to %d", last, flush)
			}
			last = flush
			srv.statuses <- standbyStatus{flush, m[38] == 1}
		}
	}()
}

func (srv *server) write(b []byte) {
	if _, err := srv.conn.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		srv.t.Errorf("server: %v", err)
	}
}

// status waits for the next status update.
func (srv *server) status() standbyStatus {
	srv.t.Helper()
	select {
	case st, ok := <-srv.statuses:
		if !ok {
			srv.t.Fatal("the stream ended instead of sending a status update")
		}
		return st
	case <-time.After(patience):
		srv.t.Fatal("no status update")
	}
	panic("unreachable")
}

// patience bounds waits that only a bug lets run out.
const patience = 30 * time.Second

func message(typ byte, body []byte) []byte {
	m := append([]byte{typ}, binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))...)
	return append(m, body...)
}

func walData(at uint64, payload []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'w'}, at)
	b = binary.BigEndian.AppendUint64(b, at)
	b = binary.BigEndian.AppendUint64(b, 1)
	return message('d', append(b, payload...))
}

func keepalive(end uint64, reply bool) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, end)
	b = binary.BigEndian.AppendUint64(b, 1)
	if reply {
		return message('d', append(b, 1))
	}
	return message('d', append(b, 0))
}

func errorResponse(code, text string) []byte {
	b, err := (&pgproto3.ErrorResponse{Severity: "ERROR", Code: code, Message: text}).Encode(nil)
	if err != nil {
		panic(err)
	}
	return b
}

// confirmed makes a confirmed position in the one way there is.
func confirmed(lsn pglogrepl.LSN) offsets.Confirmed { return offsets.NewTracker(lsn).Confirmed() }

// text is a frame as a line that a test can compare.
func text(f Frame) string {
	if f.Kind == Keepalive {
		return fmt.Sprintf("keepalive %d", uint64(f.WALEnd))
	}
	return "data " + string(f.Data)
}

// sample is a stream with every message that may come in it, and what Next makes
// of it.
func sample() (stream []byte, want []string) {
	stream = slices.Concat(
		walData(100, []byte("one")),
		message('N', []byte("SNOTICE\x00\x00")),
		keepalive(200, false),
		walData(50, nil),
		message('S', []byte("TimeZone\x00UTC\x00")),
		walData(300, []byte("four")),
	)
	return stream, []string{"data one", "keepalive 200", "data ", "data four"}
}

func expectFrames(t *testing.T, s *Stream, want []string) {
	t.Helper()
	for i, w := range want {
		f, err := s.Next()
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if got := text(f); got != w {
			t.Fatalf("frame %d: got %.60q, want %.60q", i, got, w)
		}
	}
}

// A frame may be cut anywhere between two reads.
func TestFramesSplitAtEveryByte(t *testing.T) {
	stream, want := sample()
	for cut := 1; cut < len(stream); cut++ {
		srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
		go func() {
			srv.write(stream[:cut])
			srv.write(stream[cut:])
		}()
		expectFrames(t, s, want)
		s.Close()
	}
}

func TestFramesByteByByte(t *testing.T) {
	stream, want := sample()
	srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
	go func() {
		for i := range stream {
			srv.write(stream[i : i+1])
		}
	}()
	expectFrames(t, s, want)
}

// Frames that do not fit the block evenly move to the next one, together with
// whatever of them was read.
func TestManyFramesInOneRead(t *testing.T) {
	var stream []byte
	var want []string
	for i := range 3000 {
		payload := strings.Repeat(fmt.Sprintf("%04d,", i), i%97)
		stream = append(stream, walData(uint64(i+1), []byte(payload))...)
		want = append(want, "data "+payload)
	}
	if len(stream) < 2*blockSize {
		t.Fatalf("%d bytes do not fill two blocks", len(stream))
	}
	memory := NewMemory(4 * blockSize)
	srv, s := newServer(t, memory, never, 1)
	go srv.write(stream)
	expectFrames(t, s, want)
	s.Close()
	if memory.Used() != 0 {
		t.Errorf("%d bytes are in use after the stream was closed", memory.Used())
	}
}

// The frame is whole and in one piece, also when it is larger than a block, and
// even when it is larger than all the memory: then it has to be alone.
func TestLargeFrame(t *testing.T) {
	for _, limit := range []int64{64 << 20, blockSize} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			memory := NewMemory(limit)
			srv, s := newServer(t, memory, never, 1)
			large := bytes.Repeat([]byte("0123456789abcde\n"), 3*blockSize/16+1)
			go srv.write(slices.Concat(walData(1, []byte("before")), walData(2, large), walData(3, []byte("after"))))
			expectFrames(t, s, []string{"data before", "data " + string(large), "data after"})
			s.Close()
			if memory.Used() != 0 {
				t.Errorf("%d bytes are in use after the stream was closed", memory.Used())
			}
		})
	}
}

// A frame that its reader keeps is not overwritten by what is read later.
func TestRetainedFramesStay(t *testing.T) {
	const frames = 400
	memory := NewMemory(64 << 20)
	srv, s := newServer(t, memory, never, 1)
	payload := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 3000+i) }
	go func() {
		for i := range frames {
			srv.write(walData(uint64(i+1), payload(i)))
		}
	}()
	var data [frames][]byte
	var blocks [frames]*Block
	for i := range frames {
		f, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		s.Block().Retain()
		data[i], blocks[i] = f.Data, s.Block()
	}
	for i := range frames {
		if !bytes.Equal(data[i], payload(i)) {
			t.Fatalf("frame %d was overwritten while its block was held", i)
		}
		blocks[i].Release(0)
	}
	s.Close()
	if memory.Used() != 0 {
		t.Errorf("%d bytes are in use after all was released", memory.Used())
	}
}

// At the memory's limit the stream does not read, but the server hears of it, and
// of what is confirmed meanwhile.
func TestMemoryLimitKeepsTheServerInformed(t *testing.T) {
	const frames = 12
	memory := NewMemory(2 * blockSize)
	srv, s := newServer(t, memory, 5*time.Millisecond, 1000)
	go func() {
		for i := range frames {
			srv.write(walData(uint64(2000+i), make([]byte, 100_000)))
		}
	}()
	var read atomic.Int64
	blocks := make(chan *Block, frames)
	ended := make(chan error, 1)
	go func() {
		for range frames {
			if _, err := s.Next(); err != nil {
				ended <- err
				return
			}
			s.Block().Retain()
			blocks <- s.Block()
			read.Add(1)
		}
		ended <- nil
	}()
	// Two blocks hold two frames each: the fifth finds no place.
	for deadline := time.Now().Add(patience); read.Load() < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames were read", read.Load())
		}
	}
	for range 5 {
		if st := srv.status(); st.confirmed != 1000 {
			t.Fatalf("status update with %d, only 1000 is confirmed", st.confirmed)
		}
	}
	s.Confirm(confirmed(1500))
	for srv.status().confirmed != 1500 {
	}
	if n := read.Load(); n >= frames/2 {
		t.Fatalf("%d frames were read beyond the limit", n)
	}
	for range frames {
		select {
		case b := <-blocks:
			b.Release(0)
		case <-time.After(patience):
			t.Fatal("memory was given back, and the stream does not read on")
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	s.Close()
	if memory.Used() != 0 {
		t.Errorf("%d bytes are in use after all was released", memory.Used())
	}
}

// Interrupt reaches a stream that waits for memory, too.
func TestInterruptAtTheMemoryLimit(t *testing.T) {
	memory := NewMemory(blockSize)
	held := memory.Take(1, nil)
	held.Retain()
	_, s := newServer(t, memory, 5*time.Millisecond, 1)
	why := errors.New("enough")
	ended := make(chan error, 1)
	go func() {
		_, err := s.Next()
		ended <- err
	}()
	s.Interrupt(why)
	if err := wait(t, ended); !errors.Is(err, why) {
		t.Errorf("Next returned %v", err)
	}
}

func wait(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("the stream does not return")
		return nil
	}
}

func TestKeepaliveIsAnswered(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), never, 700)
	go func() { srv.write(slices.Concat(keepalive(900, false), keepalive(901, true))) }()
	expectFrames(t, s, []string{"keepalive 900", "keepalive 901"})
	ended := make(chan error, 1)
	go func() {
		_, err := s.Next()
		ended <- err
	}()
	// What the server said is not what is confirmed.
	if st := srv.status(); st != (standbyStatus{700, false}) {
		t.Errorf("the answer is %+v, want position 700 and no further question", st)
	}
	srv.conn.Close()
	if err := wait(t, ended); err == nil {
		t.Error("the server is gone, and Next returned no error")
	}
	if got := s.Received(); got != 901 {
		t.Errorf("Received is %d, want the newest keepalive's 901", uint64(got))
	}
	if n := len(srv.statuses); n != 0 {
		t.Errorf("%d more answers to one question", n)
	}
}

func TestStatusEvery(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), 5*time.Millisecond, 700)
	go func() {
		for range 3 {
			srv.status()
		}
		srv.write(walData(1, []byte("done")))
	}()
	expectFrames(t, s, []string{"data done"})
}

func TestConfirmIsMonotone(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), 5*time.Millisecond, 100)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Next()
		ended <- err
	}()
	var confirmers sync.WaitGroup
	for g := range 4 {
		confirmers.Go(func() {
			for lsn := 90 + g; lsn <= 400; lsn += 4 {
				s.Confirm(confirmed(pglogrepl.LSN(lsn)))
			}
		})
	}
	confirmers.Wait()
	s.Confirm(confirmed(0))
	s.Confirm(confirmed(399))
	// The server's end of the pipe checks that no update goes backwards.
	for srv.status().confirmed != 400 {
	}
	for range 3 {
		if st := srv.status(); st.confirmed != 400 {
			t.Errorf("status update with %d, 400 is confirmed", st.confirmed)
		}
	}
	s.Interrupt(io.EOF)
	wait(t, ended)
}

func TestServerError(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
	go srv.write(slices.Concat(walData(1, []byte("one")), errorResponse("57P01", "terminating connection")))
	expectFrames(t, s, []string{"data one"})
	_, err := s.Next()
	if sqlState(err) != "57P01" || !strings.Contains(err.Error(), "terminating connection") {
		t.Errorf("Next returned %v, want SQLSTATE 57P01 and the server's words", err)
	}
}

func TestStreamRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, b := range map[string][]byte{
		"copy done":         message('c', nil),
		"ready for query":   message('Z', []byte{'I'}),
		"other message":     message('T', []byte("x")),
		"other copy data":   message('d', []byte("x12345678")),
		"empty copy data":   message('d', nil),
		"short data":        message('d', []byte("w1234567")),
		"short keepalive":   message('d', []byte("k1234567")),
		"length too small":  {'d', 0, 0, 0, 3},
		"length too large":  {'d', 0xff, 0, 0, 0},
		"error not parsed":  message('E', []byte("S")),
		"error without end": message('E', nil),
	} {
		t.Run(name, func(t *testing.T) {
			srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
			go func() {
				srv.write(b)
				srv.conn.Close()
			}()
			if f, err := s.Next(); err == nil {
				t.Errorf("Next returned frame %+v", f)
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
	why := errors.New("enough")
	ended := make(chan error, 1)
	next := func() {
		_, err := s.Next()
		ended <- err
	}
	go next()
	s.Interrupt(why)
	if err := wait(t, ended); !errors.Is(err, why) {
		t.Fatalf("Next returned %v", err)
	}
	go next()
	if err := wait(t, ended); !errors.Is(err, why) {
		t.Fatalf("Next returned %v after an interruption that nobody took back", err)
	}
	s.Resume(errors.New("another"))
	go next()
	if err := wait(t, ended); !errors.Is(err, why) {
		t.Fatalf("Next returned %v, although another interruption was taken back", err)
	}
	s.Resume(why)
	go srv.write(walData(1, []byte("on")))
	expectFrames(t, s, []string{"data on"})
}

// An interruption may come at any moment between two reads; none may be lost.
func TestInterruptIsNeverLost(t *testing.T) {
	for range 300 {
		srv, s := newServer(t, NewMemory(4*blockSize), never, 1)
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := s.Next(); err != nil {
					ended <- err
					return
				}
			}
		}()
		go srv.write(walData(1, []byte("x")))
		s.Interrupt(io.EOF)
		if err := wait(t, ended); !errors.Is(err, io.EOF) {
			t.Fatalf("Next returned %v", err)
		}
		s.Close()
	}
}

// The clock is set back on the stream instead of waiting.
func TestSilentServer(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), never, 700)
	if err := s.status(); err != nil || len(srv.statuses) != 0 {
		t.Fatalf("error %v and %d status updates when nothing is due", err, len(srv.statuses))
	}
	s.quietSince = time.Now().Add(-probeAfter)
	for range 2 {
		if err := s.status(); err != nil {
			t.Fatal(err)
		}
	}
	if st := srv.status(); st != (standbyStatus{700, true}) {
		t.Errorf("a silent server was sent %+v, want position 700 and a question", st)
	}
	if n := len(srv.statuses); n != 0 {
		t.Errorf("%d more questions before the first was answered", n)
	}
	s.quietSince = time.Now().Add(-silentAfter)
	err := s.status()
	var advice *Error
	if !errors.Is(err, ErrSilent) || !errors.As(err, &advice) || advice.Hint == "" {
		t.Errorf("got %v, want ErrSilent with advice", err)
	}
}

func TestSilentServerAnswers(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), never, 700)
	s.probeAfter = 5 * time.Millisecond
	for range 2 {
		go func() {
			if srv.status().reply {
				srv.write(keepalive(900, false))
			}
		}()
		// It waits for the answer, or this test for ever.
		expectFrames(t, s, []string{"keepalive 900"})
	}
}

// Serve goes on telling the server without reading.
func TestServe(t *testing.T) {
	srv, s := newServer(t, NewMemory(4*blockSize), 5*time.Millisecond, 700)
	done := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context(), done) }()
	srv.status()
	s.Confirm(confirmed(800))
	for srv.status().confirmed != 800 {
	}
	close(done)
	if err := wait(t, ended); err != nil {
		t.Error(err)
	}
}
