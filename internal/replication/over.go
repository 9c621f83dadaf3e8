package replication

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pglogrepl"
)

// Over returns a stream over a connection on which the server has just begun to send
// what was committed from start on. It is for the simulator, whose server has no
// commands; Conn.Start is for every other. ends is where the server's WAL ends,
// timeout its wal_sender_timeout, and readBack waits until the server has a position.
func Over(conn net.Conn, memory *Memory, timeout time.Duration, start, confirmed, ends pglogrepl.LSN,
	look func(context.Context) (work string, err error), readBack func(ctx context.Context, want pglogrepl.LSN) error) *Stream {
	s := streamFor(conn, paceOf(conn), memory, timeout, confirmed)
	s.sender.look, s.readBack = look, readBack
	s.floor = uint64(max(start, ends))
	s.statusDue.Store(true)
	return s
}

// streamFor returns a stream whose patience is that of the server, which ends a
// connection that it has not heard of for timeout; 0: never.
func streamFor(conn net.Conn, pace pace, memory *Memory, timeout time.Duration, confirmed pglogrepl.LSN) *Stream {
	statusEvery := statusAtLeast
	if timeout > 0 {
		statusEvery = min(statusEvery, timeout/3)
	}
	s := newStream(conn, pace, memory, statusEvery, confirmed)
	if timeout > 0 {
		// No later than the server gives us up, and lets another process in.
		s.silentAfter = min(s.silentAfter, timeout)
		s.probeAfter = min(s.probeAfter, s.silentAfter/3)
	}
	return s
}
