package replication

import (
	"encoding/binary"
	"fmt"
	"time"

	"outboxd/internal/uptime"
	"outboxd/offsets"
)

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
	if err := s.judge(now); err != nil {
		return err
	}
	silent := now.Sub(s.quietSince)
	probe := silent >= s.probeAfter && !s.probed
	if err := s.inform(now, probe); err != nil {
		return err
	}
	s.probed = s.probed || probe
	s.wakeAt = s.lastStatus.Add(s.statusEvery)
	for _, limit := range []time.Duration{s.probeAfter, s.askAfter(), s.silentAfter} {
		if at := s.quietSince.Add(limit); at.After(now) && at.Before(s.wakeAt) {
			s.wakeAt = at
		}
	}
	if err := s.conn.SetReadDeadline(s.wakeAt); err != nil {
		return fmt.Errorf("read replication stream: %w", err)
	}
	// After the deadline was set, for the same reason.
	if err := s.interrupted.Load(); err != nil {
		return *err
	}
	return nil
}

// inform sends a status update if one is due. probe asks for an answer.
func (s *Stream) inform(now time.Time, probe bool) error {
	s.alive.Store(int64(uptime.Of(now)))
	if !s.statusDue.Swap(false) && !s.replyDue && !probe && now.Sub(s.lastStatus) < s.statusEvery {
		return nil
	}
	if err := s.send(now, probe); err != nil {
		return err
	}
	s.replyDue, s.lastStatus = false, now
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
