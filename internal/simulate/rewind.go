package simulate

import (
	"time"

	"github.com/jackc/pglogrepl"
)

// saved is a position, and when it was to be stored.
type saved struct {
	lsn pglogrepl.LSN
	at  time.Time
}

// old holds a position that PostgreSQL is told to delivery.rewind: it was stored, or one
// behind it, so long ago or so many bytes of WAL before the newest. The caller holds mu.
func (v *verifier) old(at pglogrepl.LSN) {
	r := v.w.o.rewind
	if r.Age == 0 && r.Bytes == 0 || v.w.o.standby {
		return // what is stored of a standby is older by how long the question for the timeline takes
	}
	var newest pglogrepl.LSN
	long := false
	for _, s := range v.saved {
		newest = max(newest, s.lsn)
		// A time is stored in whole milliseconds.
		long = long || s.lsn >= at && time.Since(s.at)+v.w.clock.setAhead(s.at) >= r.Age-time.Millisecond
	}
	if r.Bytes > 0 && int64(newest-at) < r.Bytes || r.Age > 0 && !long {
		v.broken("PostgreSQL is told %s, of which delivery.rewind (%s, %d bytes) keeps more; the newest position is %s", at, r.Age, r.Bytes, newest)
	}
}
