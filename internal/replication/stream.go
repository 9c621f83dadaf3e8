package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/internal/uptime"
)

// Limits of a stream's patience.
const (
	// probeAfter is how long the server may be silent before it is asked for
	// a reply, silentAfter how long before the connection is given up. An idle
	// server sends a keepalive only every wal_sender_timeout/2, or never.
	probeAfter  = 10 * time.Second
	silentAfter = 30 * time.Second
	// statusAtLeast is how often the server hears from us, if
	// wal_sender_timeout does not ask for more.
	statusAtLeast = 10 * time.Second
	writeTimeout  = 10 * time.Second
	// waitAtMost is how long a stream that does not read waits at once: memory may
	// come back in drops too small to wake it.
	waitAtMost = time.Second
	// oversleep is by how much a wait is exceeded only if the process was suspended.
	oversleep = time.Second
	// maxFrame is the most that a frame may claim: PostgreSQL's limit of 1 GB
	// for a message, and a little for its headers.
	maxFrame = 1<<30 + 1<<20
	// trusted is how much memory a frame gets for what it claims, in bytes. For more,
	// half of it must have come.
	trusted = 16 << 20
)

// Stream is a replication connection that is streaming. One goroutine reads
// frames and, between reads, sends status updates; it is the only one that
// touches the connection. Confirm and Interrupt may be called from any.
type Stream struct {
	conn   net.Conn
	memory *Memory
	pace   pace

	block *Block
	r, w  int // block.buf[r:w] is read and not yet handed out

	statusEvery time.Duration
	probeAfter  time.Duration
	silentAfter time.Duration
	lastStatus  time.Time
	// quietSince is since when the server has owed us something: something was
	// received then, or we began to read, or its process was seen at work.
	quietSince time.Time
	wakeAt     time.Time // when the next read gives up waiting
	replyDue   bool
	probed     bool
	walOrder
	sender sender
	// readBack waits until the server has a position; nil: over a connection to it.
	readBack func(ctx context.Context, want pglogrepl.LSN) error

	log      zerolog.Logger
	warnings warnings

	// Of any goroutine.
	confirmed   atomic.Uint64
	statusDue   atomic.Bool
	interrupted atomic.Pointer[error]
	received    atomic.Uint64
	alive       atomic.Int64 // as of uptime.Of, see Alive
	// woken has a value when something is to be looked at that a stream which does
	// not read would notice late.
	woken chan struct{}
}

// FrameKind tells what a frame is.
type FrameKind int

const (
	WALData   FrameKind = iota // a pgoutput message
	Keepalive                  // the server's position, in order with the data
)

// Frame is one message of the stream.
type Frame struct {
	Kind FrameKind
	// Data is the pgoutput message, in the memory of Stream.Block.
	Data []byte
	// WALEnd is the position of a keepalive: everything before it was sent or
	// was of no interest.
	WALEnd pglogrepl.LSN
}

// newStream takes over a connection that has nothing buffered. It starts at a
// confirmed position, which the first status update repeats.
func newStream(conn net.Conn, pace pace, memory *Memory, statusEvery time.Duration, start pglogrepl.LSN) *Stream {
	now := time.Now()
	s := &Stream{conn: whole(conn), pace: pace, memory: memory, statusEvery: statusEvery, probeAfter: probeAfter, silentAfter: silentAfter, lastStatus: now, quietSince: now, woken: make(chan struct{}, 1)}
	s.confirmed.Store(uint64(start))
	s.received.Store(uint64(start))
	s.alive.Store(int64(uptime.Of(now)))
	return s
}

// Next returns the next frame. Its data is valid until the block it lies in is
// released: the caller that keeps it must Retain Block before the next call.
//
// While it waits, for the server or for memory, status updates go out in time.
func (s *Stream) Next() (Frame, error) {
	for {
		body, err := s.message()
		if err != nil {
			return Frame{}, err
		}
		switch body[0] {
		case 'd':
			data := body[5:]
			if len(data) >= 25 && data[0] == 'w' {
				if err := s.checkMessage(binary.BigEndian.Uint64(data[1:]), data[25:]); err != nil {
					return Frame{}, err
				}
				s.pace.message(int64(binary.BigEndian.Uint64(data[17:])), data[25:])
				return Frame{Kind: WALData, Data: data[25:]}, nil
			}
			if len(data) == 18 && data[0] == 'k' {
				end := binary.BigEndian.Uint64(data[1:])
				if err := s.reach(end); err != nil {
					return Frame{}, err
				}
				s.replyDue = s.replyDue || data[17] != 0
				return Frame{Kind: Keepalive, WALEnd: pglogrepl.LSN(end)}, nil
			}
			return Frame{}, fmt.Errorf("read replication stream: unknown copy message of %d bytes", len(data))
		case 'E':
			return Frame{}, fmt.Errorf("read replication stream: %w", serverError(body[5:]))
		case 'N':
			if err := s.notice(body[5:]); err != nil {
				return Frame{}, fmt.Errorf("read replication stream: %w", err)
			}
		case 'S':
			// A changed parameter does not concern the stream.
		case 'c', 'C', 'Z':
			return Frame{}, errors.New("read replication stream: the server ended it")
		default:
			return Frame{}, fmt.Errorf("read replication stream: unexpected message %q", body[0])
		}
	}
}

// Block returns the memory of the frame that Next returned last.
func (s *Stream) Block() *Block { return s.block }

// message returns the next whole message with its type and length.
func (s *Stream) message() ([]byte, error) {
	for {
		need := 5
		if have := s.w - s.r; have >= 5 {
			// The length counts itself and not the type.
			n := binary.BigEndian.Uint32(s.block.Bytes()[s.r+1:])
			if n < 4 || n > maxFrame {
				return nil, fmt.Errorf("read replication stream: message of %d bytes", n)
			}
			need = 1 + int(n)
			if have >= need {
				m := s.block.Bytes()[s.r : s.r+need : s.r+need]
				s.r += need
				return m, nil
			}
		}
		if err := s.fill(need); err != nil {
			return nil, err
		}
	}
}

// fill reads at least one byte more. need is the length of the message that
// begins at r, as far as it is known.
func (s *Stream) fill(need int) error {
	if err := s.room(need); err != nil {
		return err
	}
	if s.newest != 0 {
		s.received.Store(s.newest)
	}
	s.pace.delay(s.w > s.r)
	// What passed until now without a read was us, not the server.
	s.quietSince, s.probed = time.Now(), false
	for {
		if err := s.status(); err != nil {
			return err
		}
		room := s.block.Bytes()[s.w:]
		n, err := s.conn.Read(room)
		now := time.Now()
		if n > 0 {
			s.w += n
			s.heard(now)
			s.pace.read(n, len(room), now)
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("read replication stream: %w", err)
		}
		if late := now.Sub(s.wakeAt); late > oversleep {
			// The process was suspended. What came meanwhile is still to be read.
			s.quietSince = s.quietSince.Add(late)
		}
	}
}

// room makes place for a message of need bytes at r, or for as much as its first bytes
// are worth: a long one gets more as it comes. It waits at the memory's
// limit, and keeps the server informed meanwhile.
func (s *Stream) room(need int) error {
	const worthReading = 16 << 10
	if s.block != nil {
		// Read on in the same block while it is worth it, or as long as a
		// message that fits has begun in it.
		left, have := len(s.block.Bytes())-s.r, s.w-s.r
		if s.w < len(s.block.Bytes()) && (need <= left && (have > 0 || left >= worthReading) || left >= trusted) {
			return nil
		}
		need = min(need, max(2*have, trusted))
	}
	for {
		if next := s.memory.Take(need, s.block); next != nil {
			if s.block != nil {
				s.w = copy(next.Bytes(), s.block.Bytes()[s.r:s.w])
				s.r = 0
				s.block.Release(0)
			}
			s.block = next
			return nil
		}
		if _, err := s.wait(context.Background(), s.memory.Freed()); err != nil {
			return err
		}
	}
}

// wait waits for a signal instead of reading, and keeps the server informed. It may
// return sooner; signalled tells. An interruption or the end of ctx is an error.
func (s *Stream) wait(ctx context.Context, signal <-chan struct{}) (signalled bool, err error) {
	now := time.Now()
	if err := s.inform(now, false); err != nil {
		return false, err
	}
	if err := s.interrupted.Load(); err != nil {
		return false, *err
	}
	limit := min(s.lastStatus.Add(s.statusEvery).Sub(now), waitAtMost)
	if !s.pace.paused {
		limit = min(limit, closeFor) // no longer than a delay; then reading pauses
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-signal:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-s.woken:
	case <-timer.C:
		s.pace.pause()
	}
	return false, nil
}

// Received returns the newest position that the server named.
func (s *Stream) Received() pglogrepl.LSN { return pglogrepl.LSN(s.received.Load()) }

// Addr returns the server's address.
func (s *Stream) Addr() net.Addr { return s.conn.RemoteAddr() }

// Alive returns when the reading goroutine was last seen at work. Reading or
// waiting, it passes by at least every ten seconds.
func (s *Stream) Alive() time.Time { return uptime.At(time.Duration(s.alive.Load())) }

// Interrupt makes Next return the error, now and until Resume. The last one
// counts.
func (s *Stream) Interrupt(err error) {
	s.interrupted.Store(&err)
	s.wake()
}

// Resume takes back an interruption, if it is still the one by this error.
func (s *Stream) Resume(err error) {
	if p := s.interrupted.Load(); p != nil && *p == err {
		s.interrupted.CompareAndSwap(p, nil)
	}
}

// ClearInterrupt takes back any interruption.
func (s *Stream) ClearInterrupt() { s.interrupted.Store(nil) }

func (s *Stream) wake() {
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// Serve keeps the connection alive without reading frames, until done is closed: then
// it returns nil. Confirmations go out at once, and Alive moves on. It ends with an
// error when the stream was interrupted (the error of Interrupt), when ctx ends (its
// cause), or when the server cannot be written to; done may then still be open.
//
// The reading goroutine calls it instead of waiting for something else, and may read
// on afterwards.
func (s *Stream) Serve(ctx context.Context, done <-chan struct{}) error {
	for {
		if ended, err := s.wait(ctx, done); ended || err != nil {
			return err
		}
	}
}

// Close ends the connection. Events keep their blocks.
func (s *Stream) Close() {
	s.conn.Close()
	s.sender.stop()
	if s.block != nil {
		s.block.Release(0)
		s.block = nil
	}
}
