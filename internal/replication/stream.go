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
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"

	"outboxd/offsets"
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
	// noticeEvery is how often the same warning of the server is logged.
	noticeEvery = 30 * time.Second
	// maxFrame is the most that a frame may claim: PostgreSQL's limit of 1 GB
	// for a message, and a little for its headers.
	maxFrame = 1<<30 + 1<<20
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

	statusEvery  time.Duration
	probeAfter   time.Duration
	silentAfter  time.Duration
	lastStatus   time.Time
	lastReceived time.Time
	replyDue     bool
	probed       bool
	newest       uint64 // the highest position of any frame

	log       zerolog.Logger
	noticed   string // the last warning that was logged
	noticedAt time.Time

	// Of any goroutine.
	confirmed   atomic.Uint64
	statusDue   atomic.Bool
	interrupted atomic.Pointer[error]
	received    atomic.Uint64
	alive       atomic.Int64 // Unix nanoseconds, see Alive
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
func newStream(conn net.Conn, memory *Memory, statusEvery time.Duration, start pglogrepl.LSN) *Stream {
	now := time.Now()
	s := &Stream{conn: whole(conn), memory: memory, statusEvery: statusEvery, probeAfter: probeAfter, silentAfter: silentAfter, lastStatus: now, lastReceived: now}
	s.pace = paceOf(conn)
	s.confirmed.Store(uint64(start))
	s.received.Store(uint64(start))
	s.alive.Store(now.UnixNano())
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
				s.newest = max(s.newest, binary.BigEndian.Uint64(data[1:]))
				s.pace.message(int64(binary.BigEndian.Uint64(data[17:])), data[25:])
				return Frame{Kind: WALData, Data: data[25:]}, nil
			}
			if len(data) == 18 && data[0] == 'k' {
				end := binary.BigEndian.Uint64(data[1:])
				s.newest = max(s.newest, end)
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
			n := binary.BigEndian.Uint32(s.block.buf[s.r+1:])
			if n < 4 || n > maxFrame {
				return nil, fmt.Errorf("read replication stream: message of %d bytes", n)
			}
			need = 1 + int(n)
			if have >= need {
				m := s.block.buf[s.r : s.r+need : s.r+need]
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
	s.pace.rest(s.w > s.r)
	for {
		if err := s.status(); err != nil {
			return err
		}
		room := s.block.buf[s.w:]
		n, err := s.conn.Read(room)
		if n > 0 {
			s.w += n
			s.lastReceived, s.probed = time.Now(), false
			s.pace.read(n, len(room), s.lastReceived)
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("read replication stream: %w", err)
		}
	}
}

// room makes place for a message of need bytes at r. It waits at the memory's
// limit, and keeps the server informed meanwhile.
func (s *Stream) room(need int) error {
	const worthReading = 16 << 10
	if s.block != nil {
		// Read on in the same block while it is worth it, or as long as a
		// message that fits has begun in it.
		left := len(s.block.buf) - s.r
		if need <= left && (s.w-s.r > 0 || left >= worthReading) && s.w < len(s.block.buf) {
			return nil
		}
	}
	waited := false
	for {
		if next := s.memory.take(need, s.block); next != nil {
			if s.block != nil {
				s.w = copy(next.buf, s.block.buf[s.r:s.w])
				s.r = 0
				s.block.Release(0)
			}
			s.block = next
			if waited {
				// Nothing was read meanwhile: that was us, not the server.
				s.lastReceived = time.Now()
			}
			return nil
		}
		waited = true
		select {
		case <-s.memory.freed:
		case <-time.After(min(s.statusEvery, time.Second)):
		}
		// Also when memory comes back in drops too small to go on with.
		s.lastReceived = time.Now()
		if err := s.status(); err != nil {
			return err
		}
	}
}

// status sends a status update if one is due, and sets the time at which the
// next read gives up waiting.
func (s *Stream) status() error {
	for {
		// Again if a confirmation came before the deadline was set and so did
		// not move it: the flag is set first and the deadline second.
		if err := s.statusNow(); err != nil || !s.statusDue.Load() {
			return err
		}
	}
}

func (s *Stream) statusNow() error {
	now := time.Now()
	s.alive.Store(now.UnixNano())
	silent := now.Sub(s.lastReceived)
	if silent >= s.silentAfter {
		return &Error{
			Err:  fmt.Errorf("%w: nothing was received for %s, not even an answer", ErrSilent, silent.Round(time.Second)),
			Hint: "the connection is given up and made anew",
		}
	}
	probe := silent >= s.probeAfter && !s.probed
	if s.statusDue.Swap(false) || s.replyDue || probe || now.Sub(s.lastStatus) >= s.statusEvery {
		if err := s.send(now, probe); err != nil {
			return err
		}
		s.replyDue = false
		s.probed = s.probed || probe
		s.lastStatus = now
	}
	wake := s.lastStatus.Add(s.statusEvery)
	for _, limit := range []time.Duration{s.probeAfter, s.silentAfter} {
		if at := s.lastReceived.Add(limit); at.After(now) && at.Before(wake) {
			wake = at
		}
	}
	if err := s.conn.SetReadDeadline(wake); err != nil {
		return fmt.Errorf("read replication stream: %w", err)
	}
	// After the deadline was set, for the same reason.
	if err := s.interrupted.Load(); err != nil {
		return *err
	}
	return nil
}

// send is the one place that tells PostgreSQL what it may forget. All three
// positions are the confirmed one: a zero would be filled in from another.
func (s *Stream) send(now time.Time, reply bool) error {
	confirmed := s.confirmed.Load()
	m := make([]byte, 0, 5+34)
	m = append(m, 'd', 0, 0, 0, 4+34, 'r')
	m = binary.BigEndian.AppendUint64(m, confirmed) // written
	m = binary.BigEndian.AppendUint64(m, confirmed) // flushed
	m = binary.BigEndian.AppendUint64(m, confirmed) // applied
	m = binary.BigEndian.AppendUint64(m, uint64(now.UnixMicro()-pgEpochMicros))
	if reply {
		m = append(m, 1)
	} else {
		m = append(m, 0)
	}
	if err := s.conn.SetWriteDeadline(now.Add(writeTimeout)); err != nil {
		return fmt.Errorf("send standby status: %w", err)
	}
	if _, err := s.conn.Write(m); err != nil {
		return fmt.Errorf("send standby status: %w", err)
	}
	return nil
}

// pgEpochMicros is 2000-01-01 UTC, PostgreSQL's epoch, in Unix microseconds.
const pgEpochMicros = 946_684_800_000_000

// Confirm makes a position the one that PostgreSQL is told, at once if the
// stream is waiting. A position older than the last is ignored.
func (s *Stream) Confirm(c offsets.Confirmed) {
	for {
		old := s.confirmed.Load()
		if uint64(c.LSN()) <= old {
			return
		}
		if s.confirmed.CompareAndSwap(old, uint64(c.LSN())) {
			break
		}
	}
	s.statusDue.Store(true)
	s.wake()
}

// Received returns the newest position that the server named.
func (s *Stream) Received() pglogrepl.LSN { return pglogrepl.LSN(s.received.Load()) }

// Alive returns when the reading goroutine was last seen at work. Reading or
// waiting, it passes by at least every ten seconds.
func (s *Stream) Alive() time.Time { return time.Unix(0, s.alive.Load()) }

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

func (s *Stream) wake() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }

// Serve keeps the connection alive without reading frames, until done is closed
// or ctx ends. The reading goroutine calls it while it waits for
// acknowledgements at the end.
func (s *Stream) Serve(ctx context.Context, done <-chan struct{}) error {
	tick := time.NewTicker(min(s.statusEvery, 200*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if now := time.Now(); s.statusDue.Swap(false) || now.Sub(s.lastStatus) >= s.statusEvery {
				if err := s.send(now, false); err != nil {
					return err
				}
				s.lastStatus = now
			}
		}
	}
}

// Close ends the connection. Events keep their blocks.
func (s *Stream) Close() {
	s.conn.Close()
	if s.block != nil {
		s.block.Release(0)
		s.block = nil
	}
}

// notice looks at what the server says beside the stream. One is an error: that a
// publication did not exist when events were written. Before PostgreSQL 18 the
// server made it one itself; since then it warns, and passes the events over. It
// shares its SQLSTATE with others, and messages are translated, so what tells it
// apart is the function that it comes from.
//
// Other warnings say what the server waits for, above all for a standby of
// synchronized_standby_slots, and are logged.
func (s *Stream) notice(body []byte) error {
	var m pgproto3.NoticeResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	if m.Code == objectNotInPrerequisiteState && m.Routine == "LoadPublications" {
		return fmt.Errorf("%w: %s; %s", errPublicationMissed, m.Message, m.Detail)
	}
	// The server repeats it each time it looks.
	if now := time.Now(); m.Message != s.noticed || now.Sub(s.noticedAt) >= noticeEvery {
		s.noticed, s.noticedAt = m.Message, now
		s.log.Warn().Str("detail", m.Detail).Str("hint", m.Hint).Msg("PostgreSQL warns: " + m.Message)
	}
	return nil
}

// serverError decodes an ErrorResponse.
func serverError(body []byte) error {
	var m pgproto3.ErrorResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	return pgconn.ErrorResponseToPgError(&m)
}
