package simulate

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
)

const slotName = "outboxd"

// walStart is where the WAL of a new server begins.
const walStart pglogrepl.LSN = 0x1_0000_0000

// postgres is a server with one outbox, one slot and the slot's own rules. It is
// whichever server the connection string leads to: a promotion makes it another.
//
// Its WAL is durable as soon as it is written. What a crash takes is the slot's
// position, which is on disk as of the last checkpoint, and open transactions.
type postgres struct {
	w *world
	// timeout is wal_sender_timeout. empties: before PostgreSQL 15, transactions of
	// which nothing is published are sent, as a beginning and an end.
	timeout time.Duration
	empties bool

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced with each change
	system   string
	timeline int32                   // of the primary
	switches map[int32]pglogrepl.LSN // replaced with each change
	end      pglogrepl.LSN           // of the WAL
	xid      uint32
	open     []*transaction
	log      []record
	*host              // that processes reach
	others   []*host   // standbys that they do not reach
	snapshot *snapshot // of a backfill; nil: there is none
	pid      uint32
	down     bool
	links    []*link

	// ahead is by how much its clock is wrong.
	ahead time.Duration

	// synchronized: the walsender sends nothing that the standby does not have
	// (synchronized_standby_slots).
	synchronized bool
	// standby: the server is this standby, and the slot is its own. It has decoded nothing
	// behind replicated, and what is written there is lost when it is promoted.
	standby bool
	// copied is the position of the standby's copy of the slot.
	copied pglogrepl.LSN
}

// host is what servers of one primary have of their own: a slot on a standby is
// another one than that of the same name on the next.
type host struct {
	address address
	slot    *slot
	// replicated is how far the standby is, of which timeline; lagging says that it comes
	// no further.
	replicated pglogrepl.LSN
	on         int32
	lagging    bool
	// shown is how far it was when processes reached it last.
	shown pglogrepl.LSN
}

// slot is the logical replication slot.
type slot struct {
	// confirmed is confirmed_flush_lsn: decoding begins with the first transaction
	// whose commit record does not begin before it.
	confirmed pglogrepl.LSN
	// saved is confirmed as it is on disk.
	saved pglogrepl.LSN
	// sender streams from it, nil when none does.
	sender *walsender
}

func newPostgres(w *world) *postgres {
	return &postgres{w: w, changed: make(chan struct{}), system: "7301", timeline: 1, end: walStart,
		switches: make(map[int32]pglogrepl.LSN), host: newHost(1)}
}

func newHost(n int) *host {
	return &host{address: address(fmt.Sprintf("%s%d", postgresAddress, n)), replicated: walStart, on: 1}
}

// update changes the server and wakes whoever waits for it.
func (s *postgres) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.replicate(s.host)
	for _, h := range s.others {
		s.replicate(h)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// replicate lets a standby have all WAL. The caller holds mu.
func (s *postgres) replicate(h *host) {
	if !h.lagging {
		h.replicated, h.on = s.end, s.timeline
	}
}

// makeSlot makes the slot at the end of the WAL. The caller holds mu.
func (s *postgres) makeSlot() {
	at := s.flushed()
	s.slot = &slot{confirmed: at, saved: at}
	s.copied = at
	s.w.note("server: slot made at %s", at)
}

// confirm takes a client's flush position: LogicalConfirmReceivedLocation.
func (s *postgres) confirm(from *walsender, lsn pglogrepl.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := from.host.slot; slot == nil || slot.sender != from || lsn <= slot.confirmed {
		return
	}
	from.host.slot.confirmed = lsn
	s.w.note("server: confirmed_flush %s", lsn)
}

// checkpoint writes the slot's position to disk, and so does the standby with its
// copy, as far as it has the WAL.
func (s *postgres) checkpoint() {
	s.update(func() {
		if s.slot != nil {
			s.slot.saved = s.slot.confirmed
			s.copied = min(s.slot.confirmed, s.replicated)
			s.w.note("server: checkpoint, slot saved at %s", s.slot.saved)
		}
	})
}

// stop ends the server. A crash takes back what was not on disk; a shutdown writes a
// checkpoint. Open transactions are rolled back, but for those of a standby's primary.
func (s *postgres) stop(crash bool) {
	var links []*link
	s.update(func() {
		s.down = true
		links, s.links = s.links, nil
		if !s.standby {
			s.rollBack()
		}
		s.snapshot = nil
		if s.slot == nil {
			return
		}
		s.slot.sender = nil
		if crash {
			s.slot.confirmed = s.slot.saved
		}
		s.slot.saved = s.slot.confirmed
		s.w.note("server: stopped (crash %t), slot at %s", crash, s.slot.confirmed)
	})
	for _, l := range links {
		l.cut()
	}
}

// rollBack aborts the open transactions. The caller holds mu.
func (s *postgres) rollBack() {
	for _, tx := range s.open {
		tx.aborted = true
	}
	s.open = nil
}

func (s *postgres) start() {
	s.update(func() {
		if s.down {
			s.down = false
			s.write(120) // the checkpoint at the end of recovery
			s.w.note("server: up, WAL ends at %s", s.end)
		}
	})
}

// flushed is up to where the server has the WAL. The caller holds mu.
func (s *postgres) flushed() pglogrepl.LSN { return s.flushedBy(s.host) }

func (s *postgres) flushedBy(h *host) pglogrepl.LSN {
	if s.standby {
		return h.replicated
	}
	return s.end
}

// timelineNow is the timeline of flushed. The caller holds mu.
func (s *postgres) timelineNow() int32 {
	if s.standby {
		return s.on
	}
	return s.timeline
}

// switchTimeline begins a new timeline where the standby is, and returns what is lost of
// the one before. The caller holds mu.
func (s *postgres) switchTimeline() (lost []*transaction) {
	cut := s.replicated
	left := s.timelineNow()
	s.switches = maps.Clone(s.switches)
	maps.DeleteFunc(s.switches, func(t int32, _ pglogrepl.LSN) bool { return t > left }) // these are no ancestors
	s.switches[left] = cut
	s.timeline++
	for i := len(s.log) - 1; i >= 0 && s.log[i].end > cut; i-- {
		if tx := s.log[i].tx; tx != nil {
			lost = append(lost, tx)
		}
	}
	s.log = slices.DeleteFunc(slices.Clone(s.log), func(r record) bool { return r.end > cut })
	s.end, s.lagging, s.on = cut, false, s.timeline
	slices.Reverse(lost)
	return lost
}

// rewind makes the other standbys follow the new primary. One that is beyond the timeline
// switch point cannot: it is made anew by pg_rewind, which leaves it no slot. It returns
// how far processes have seen them come. The caller holds mu.
func (s *postgres) rewind() (furthest pglogrepl.LSN) {
	for _, h := range s.others {
		furthest = max(furthest, h.shown)
		if h.replicated > s.end {
			h.replicated, h.on, h.slot = s.end, s.timeline, nil
		}
	}
	return furthest
}

// promoteStreaming promotes the standby that the process is connected to, or lets its
// primary be replaced. Connections and slot live on.
func (s *postgres) promoteStreaming(promoted bool) {
	s.update(func() {
		if !s.standby || s.down {
			return
		}
		s.rollBack()
		known := s.timelineNow() == s.timeline // else a position may be of one that is no ancestor
		lost := s.switchTimeline()
		s.standby = !promoted
		// It has sent nothing of what is lost; another may have, that was reached before.
		had := max(s.end, s.rewind())
		if !known {
			had = math.MaxUint64
		}
		s.w.verifier.promoted(s.end, had, lost)
		s.w.note("server: timeline %d from %s on, promoted %t, %d transactions lost", s.timeline, s.end, promoted, len(lost))
	})
}

// promote replaces the server by its standby, which has the WAL up to replicated, and
// the slot only if it was kept in step.
func (s *postgres) promote(withSlot bool) {
	s.stop(true)
	s.update(func() {
		cutOff := s.replicated < s.end
		lost := s.switchTimeline()
		cut := s.end
		if s.slot == nil || !withSlot {
			s.slot = nil
		} else {
			at := min(s.copied, cut)
			s.slot = &slot{confirmed: at, saved: at}
			s.copied = at
		}
		had := cut
		if len(lost) > 0 || s.slot == nil || cutOff {
			had = math.MaxUint64
		}
		s.w.verifier.promoted(cut, had, lost)
		s.w.note("server: standby promoted to timeline %d at %s, slot %t, %d transactions lost", s.timeline, cut, s.slot != nil, len(lost))
	})
	s.start()
}

// anotherHost is the end of the network to the standby that processes reach: they reach
// the next one. A crash takes back what its slot has not on disk.
func (s *postgres) anotherHost(crash bool) {
	if !s.standby || len(s.others) == 0 {
		return
	}
	s.stop(crash)
	s.update(func() {
		s.down = false
		was := s.host
		was.shown = was.replicated
		s.host, s.others = s.others[0], append(s.others[1:], was)
		s.w.verifier.reached(s.slot != nil)
		at := pglogrepl.LSN(0)
		if s.slot != nil {
			at = s.slot.confirmed
		}
		s.w.note("server: %s is reached instead of %s, at %s of timeline %d, slot at %s", s.address, was.address, s.replicated, s.on, at)
	})
}

// slotNow is the slot that processes reach, nil for none.
func (s *postgres) slotNow() *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slot
}

// bare reports whether processes may reach a standby that has no slot.
func (s *postgres) bare() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slot == nil && len(s.others) > 0
}

// restart returns where decoding has to begin to read: before every transaction that
// is still to be sent. The caller holds mu.
func (s *postgres) restart() pglogrepl.LSN {
	at := s.slot.confirmed
	for i := len(s.log) - 1; i >= 0 && s.log[i].end > s.slot.confirmed; i-- {
		if tx := s.log[i].tx; tx != nil {
			at = min(at, tx.first)
		}
	}
	for _, tx := range s.open {
		if tx.first != 0 {
			at = min(at, tx.first)
		}
	}
	return at
}

// terminate ends a server process: pg_terminate_backend.
func (s *postgres) terminate(pid uint32) {
	s.mu.Lock()
	var sender *walsender
	if s.slot != nil && s.slot.sender != nil && s.slot.sender.pid == pid {
		sender = s.slot.sender
	}
	s.mu.Unlock()
	if sender != nil {
		sender.end("terminated")
	}
}

func (s *postgres) confirmedFlush() pglogrepl.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slot == nil {
		return 0
	}
	return s.slot.confirmed
}

// sending reports whether a walsender streams from the slot.
func (s *postgres) sending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slot != nil && s.slot.sender != nil
}

func pidText(pid uint32) string { return "started " + strconv.Itoa(int(pid)) }
