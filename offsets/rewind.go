package offsets

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// Rewind is how much of the past is kept for going back to: PostgreSQL decodes
// nothing before the position that was confirmed, so that is done late. At most one
// of both is set; the zero value holds nothing back.
type Rewind struct {
	Age   time.Duration
	Bytes int64 // of WAL
}

// Past are positions that were confirmed earlier, the oldest first; the zero ones
// are not used. It is stored with a position, so that the time that they are held
// back does not restart with each start.
type Past [8]Mark

// Mark is a confirmed position, and when it was one.
type Mark struct {
	LSN pglogrepl.LSN
	At  int64 // Unix milliseconds
}

func (r Rewind) on() bool { return r.Age > 0 || r.Bytes > 0 }

// note remembers a confirmed position, unless the last one that was remembered is
// too near. The marks lie so far apart that all of them together reach back as far
// as the rewind does, and WAL is held for an eighth longer at most.
//
// A mark from the future was made by a clock that has been set back since: it counts
// from now, or the WAL would be held until the old time comes.
func (r Rewind) note(past Past, lsn pglogrepl.LSN, now time.Time) Past {
	n := past.len()
	for i := range n {
		past[i].At = min(past[i].At, now.UnixMilli())
	}
	if n > 0 {
		last := past[n-1]
		apart := time.Duration(now.UnixMilli()-last.At) * time.Millisecond
		if lsn <= last.LSN || apart < r.Age/time.Duration(len(past)) || int64(lsn-last.LSN) < r.Bytes/int64(len(past)) {
			return past
		}
	}
	if n == len(past) {
		n = copy(past[:], past[1:])
	}
	past[n] = Mark{lsn, now.UnixMilli()}
	return past
}

// due returns the newest position of the past that may be confirmed to PostgreSQL, zero when
// there is none. Each was a Tracker's, at its time.
func (r Rewind) due(past Past, newest pglogrepl.LSN, now time.Time) Confirmed {
	var lsn pglogrepl.LSN
	for _, m := range past[:past.len()] {
		if now.UnixMilli()-m.At >= r.Age.Milliseconds() && int64(newest-m.LSN) >= r.Bytes {
			lsn = m.LSN
		}
	}
	return Confirmed{lsn: lsn}
}

func (p Past) len() int {
	for i, m := range p {
		if m == (Mark{}) {
			return i
		}
	}
	return len(p)
}
