package offsets

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// world is what the steps of a start meet: it does each one as a connector would.
type world struct {
	stored  *Position     // in the store
	slot    *Slot         // now
	creates pglogrepl.LSN // where a new slot begins
	flush   pglogrepl.LSN
	// other streams from the slot, and has stored more once the id is acquired.
	other     bool
	committed *Position
	elsewhere []Stored
	outbox    Outbox
}

// start asks Decide until it streams, waits or refuses, and returns the steps.
func (w world) start(s Situation) (d Decision, steps []string, err error) {
	if s.Server.SlotName == "" {
		s.Server.SlotName = "a"
	}
	if s.Server.SystemID == "" {
		s.Server.SystemID, s.Server.Timeline = "7301", max(s.Server.Timeline, 1)
	}
	if s.On == (History{}) {
		s.On = History{s.Server.SystemID, s.Server.Timeline}
	}
	s.Server.Slot, s.Server.FlushLSN = w.slot, w.flush
	if w.slot != nil {
		slot := *w.slot
		slot.Active = w.other
		s.Server.Slot = &slot
	}
	for range 10 {
		if d, err = Decide(s); err != nil {
			return d, append(steps, "refuse"), err
		}
		steps = append(steps, d.Step.String())
		s.Shared = d.Shared
		switch d.Step {
		case Wait, Stream:
			return d, steps, nil
		case AcquireID:
			s.ID, s.Delivered, s.Unclaimed = AcquiredID, Event{}, true
			if w.committed != nil {
				w.stored = w.committed
			}
		case ReadStore:
			s.Read = true
			switch {
			case !s.Store:
				s.Known = nil
			case w.stored == nil && s.Known != nil:
				s.Lost = true
			default:
				s.Known = w.stored
			}
		case CreateSlot:
			s.Refused = d.Reason
			s.Server.Slot = &Slot{Name: "a", ConfirmedFlush: w.creates}
			s.Server.FlushLSN = max(s.Server.FlushLSN, w.creates)
		case AskElsewhere:
			s.Elsewhere, s.Asked = w.elsewhere, true
		case VerifyOutbox:
			s.Outbox, s.Verified = w.outbox, true
		}
	}
	return d, steps, errors.New("it never starts")
}

// Every start that docs/operations.md ("When X fails") and e2e/position_test.go speak
// of, and what becomes of it.
func TestDecide(t *testing.T) {
	const (
		first  = "read store, verify outbox, stream" // of a process with a store
		again  = "verify outbox, stream"             // a session that follows on another
		once   = "acquire id, read store, verify outbox, stream"
		unsure = "read store, ask elsewhere, verify outbox, stream"
	)
	at := func(lsn pglogrepl.LSN, change ...func(*Position)) *Position {
		p := &Position{SystemID: "7301", Timeline: 1, Slot: "a", LSN: lsn}
		for _, c := range change {
			c(p)
		}
		return p
	}
	timeline := func(n int32) func(*Position) { return func(p *Position) { p.Timeline = n } }
	inside := func(p *Position) { p.Inside = Event{CommitLSN: 0x2F0, Number: 7} }
	slot := func(lsn pglogrepl.LSN) *Slot { return &Slot{Name: "a", ConfirmedFlush: lsn} }
	store := Situation{Store: true, Shared: true} // the first start of a process with a store
	with := func(s Situation, change func(*Situation)) Situation { change(&s); return s }
	accept := func(s *Situation) { s.AcceptGap = true }
	from := func(lsn pglogrepl.LSN) func(*Situation) { return func(s *Situation) { s.From = lsn } }
	exactly := Situation{Store: true, Shared: true, Transactional: true}
	later := Situation{Store: true, Known: at(0x200), ID: HeldID, Delivered: Event{CommitLSN: 0x1F0, Number: 3}} // a session follows, with the sink of the one before
	now := Outbox{Table: 1, Publication: 2, Entry: 3}

	for name, test := range map[string]struct {
		world world
		start Situation
		steps string
		// Of a start.
		at, told pglogrepl.LSN // told: 0 is at
		inside   bool
		skip     Event
		save     bool
		note     string
		from     pglogrepl.LSN // of the note
		// Of a refusal or a wait.
		refused error
		says    string
		shared  bool
	}{
		// The process.
		"first start of all, with the slot as the only store": {
			world: world{slot: slot(0x100), flush: 0x300}, start: Situation{Shared: true}, steps: unsure, at: 0x100, shared: true},
		"first start of all, with a store": {
			world: world{slot: slot(0x100), flush: 0x300}, start: store, steps: unsure, at: 0x100, save: true, shared: true},
		"killed, with the slot as the only store": {
			world: world{slot: slot(0x200), flush: 0x300}, start: Situation{Shared: true}, steps: unsure, at: 0x200, shared: true},
		"killed, with a store": {
			world: world{slot: slot(0x200), stored: at(0x200), flush: 0x300}, start: store, steps: first, at: 0x200, shared: true},
		"killed inside a large transaction": {
			world: world{slot: slot(0x200), stored: at(0x200, inside), flush: 0x300}, start: store, steps: first, at: 0x200, inside: true, skip: Event{CommitLSN: 0x2F0, Number: 7}, shared: true},
		"killed between the store and the slot, or the server crashed: the slot is behind": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: store, steps: first, at: 0x200, shared: true},
		"the slot is behind because of delivery.rewind": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: with(store, func(s *Situation) { s.Rewind = true }), steps: first, at: 0x200, told: 0x100, shared: true},

		// PostgreSQL.
		"the connection was cut: the next session resumes behind what was sent": {
			world: world{slot: slot(0x200), flush: 0x300}, start: Situation{Known: at(0x200), ID: HeldID, Delivered: Event{CommitLSN: 0x1F0, Number: 3}}, steps: again, at: 0x200, skip: Event{CommitLSN: 0x1F0, Number: 3}},
		"the connection was cut inside a transaction that is read again": {
			world: world{slot: slot(0x200), stored: at(0x200, inside), flush: 0x400},
			start: with(later, func(s *Situation) { s.Known, s.Delivered = at(0x200, inside), Event{CommitLSN: 0x2F0, Number: 9} }), steps: again, at: 0x200, inside: true, skip: Event{CommitLSN: 0x2F0, Number: 9}},
		"the delivery failed: the next session resumes at the confirmed position": {
			world: world{slot: slot(0x200), stored: at(0x200), flush: 0x300}, start: Situation{Store: true, Known: at(0x200)}, steps: again, at: 0x200},
		"another process has the slot, at least once: START_REPLICATION is refused": {
			world: world{slot: slot(0x200), stored: at(0x200), flush: 0x300, other: true}, start: store, steps: first, at: 0x200, shared: true},
		"it took over while this process was cut off, and streams": {
			world: world{slot: slot(0x280), stored: at(0x200), flush: 0x300, other: true}, start: later, steps: "read store, wait", says: "confirmed up to 0/280 meanwhile", shared: true},
		"it took over, stored its position, and streams": {
			world: world{slot: slot(0x280), stored: at(0x290), flush: 0x300, other: true}, start: later, steps: first, at: 0x290, skip: Event{CommitLSN: 0x1F0, Number: 3}, shared: true},
		"it took over and has ended": {
			world: world{slot: slot(0x280), stored: at(0x280), flush: 0x300}, start: later, steps: first, at: 0x280, skip: Event{CommitLSN: 0x1F0, Number: 3}, shared: true},
		"it took over, and the slot is the only store": {
			world: world{slot: slot(0x280), flush: 0x300, other: true}, start: Situation{Known: at(0x200), ID: HeldID}, steps: "wait", says: "confirmed up to 0/280 meanwhile", shared: true},
		"it took over and has ended, and the slot is the only store": {
			world: world{slot: slot(0x280), flush: 0x300}, start: Situation{Known: at(0x200), ID: HeldID}, steps: "refuse", refused: ErrSlotAhead, says: "someone advanced"},
		"it was seen in the slot before it ended, and the slot is the only store": {
			world: world{slot: slot(0x280), flush: 0x300}, start: Situation{Known: at(0x200), ID: HeldID, Shared: true}, steps: unsure, at: 0x280, shared: true},
		"the standby that outboxd streams from crashed and replays": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x180}, start: with(store, func(s *Situation) { s.Server.Standby = true }), steps: "read store, refuse", refused: ErrReplaying, says: "waits for it"},

		// The slot and the position.
		"the slot was dropped": {
			world: world{stored: at(0x200), flush: 0x300}, start: with(store, func(s *Situation) { s.Known = at(0x200) }), steps: "refuse", refused: ErrSlotGone, says: "--accept-gap"},
		"the slot was dropped, accepted": {
			world: world{stored: at(0x200), flush: 0x300, creates: 0x310}, start: with(store, func(s *Situation) { s.Known, s.AcceptGap = at(0x200, inside), true }),
			steps: "create slot, read store, verify outbox, stream", at: 0x310, save: true, note: "are skipped (--accept-gap)", from: 0x200, shared: true},
		"the slot was dropped, accepted, and the store has gone, too": {
			world: world{flush: 0x300, creates: 0x310}, start: Situation{Store: true, Known: at(0x200), AcceptGap: true},
			steps: "create slot, verify outbox, stream", at: 0x310, save: true, note: "are skipped (--accept-gap)", from: 0x200},
		"the slot was dropped under a process without a store": {
			world: world{flush: 0x300}, start: Situation{Known: at(0x200), ID: HeldID}, steps: "refuse", refused: ErrSlotGone, says: "was confirmed up to 0/200 before"},
		"the slot was dropped and created again": {
			world: world{slot: slot(0x280), stored: at(0x200), flush: 0x300}, start: store, steps: "read store, refuse", refused: ErrSlotAhead, says: "--accept-gap"},
		"the slot was dropped and created again under a process without a store": {
			world: world{slot: slot(0x280), flush: 0x300}, start: Situation{Known: at(0x200), ID: HeldID}, steps: "refuse", refused: ErrSlotAhead, says: "--accept-gap"},
		"the slot was advanced by hand, accepted": {
			world: world{slot: slot(0x280), stored: at(0x200, inside), flush: 0x300}, start: with(store, accept), steps: first, at: 0x280, save: true,
			note: "transactions that end after from, up to to, are skipped", from: 0x200, shared: true},
		"the slot is invalidated": {
			world: world{slot: &Slot{Name: "a", WALStatus: "lost"}, stored: at(0x200), flush: 0x300}, start: store, steps: "read store, refuse", refused: ErrSlotInvalid, says: "drop it"},
		"the slot is invalidated, accepted: it has to be dropped first": {
			world: world{slot: &Slot{Name: "a", WALStatus: "lost"}, stored: at(0x200), flush: 0x300}, start: with(store, accept), steps: "read store, refuse", refused: ErrSlotInvalid, says: "drop it"},
		"the position is of another system": {
			world: world{slot: slot(0x100), stored: at(0x200, func(p *Position) { p.SystemID = "7000" }), flush: 0x300}, start: store, steps: "read store, refuse", refused: ErrForeignSystem, says: "postgres.dsn"},
		"the position is of another system, accepted": {
			world: world{slot: slot(0x100), stored: at(0x200, func(p *Position) { p.SystemID = "7000" }), flush: 0x300}, start: with(store, accept), steps: first, at: 0x100, save: true,
			note: "going on from the slot's own position", shared: true},
		"the position is of another slot": {
			world: world{slot: slot(0x100), stored: at(0x200, func(p *Position) { p.Slot = "b" }), flush: 0x300}, start: store, steps: "read store, refuse", refused: ErrForeignSlot, says: "postgres.slot"},
		"an old primary that still believes it is the primary": {
			world: world{slot: slot(0x100), stored: at(0x200, timeline(7)), flush: 0x300}, start: store, steps: "read store, refuse", refused: ErrForeignTimeline, says: "left behind"},
		"the promoted standby lacks what was published last": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300},
			start: with(store, func(s *Situation) {
				s.Server.Timeline, s.Server.SystemID, s.Server.Switches = 2, "7301", map[int32]pglogrepl.LSN{1: 0x180}
			}), steps: "read store, refuse", refused: ErrForeignTimeline, says: "Kafka has events that this database lost"},
		"the promoted standby lacks what was published last, accepted": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300},
			start: with(store, func(s *Situation) {
				s.AcceptGap, s.Server.Timeline, s.Server.SystemID, s.Server.Switches = true, 2, "7301", map[int32]pglogrepl.LSN{1: 0x180}
			}), steps: first, at: 0x180, save: true, note: "nothing of this server is skipped", from: 0x180, shared: true},
		"the promoted standby has everything": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300},
			start: with(store, func(s *Situation) {
				s.Server.Timeline, s.Server.SystemID, s.Server.Switches = 2, "7301", map[int32]pglogrepl.LSN{1: 0x200}
			}), steps: first, at: 0x200, save: true, shared: true},
		"the promoted standby does not have the slot": {
			world: world{stored: at(0x200), flush: 0x300},
			start: with(store, func(s *Situation) {
				s.Known, s.Server.Timeline, s.Server.SystemID, s.Server.Switches = at(0x200), 2, "7301", map[int32]pglogrepl.LSN{1: 0x200}
			}), steps: "refuse", refused: ErrSlotGone, says: "a standby was promoted that did not have it"},
		"the server was restored from a backup": {
			world: world{slot: slot(0x100), stored: at(0xFFFF_0000), flush: 0x300}, start: store, steps: "read store, refuse", refused: ErrServerBehind, says: "restored from a backup"},
		"the server was restored from a backup, accepted": {
			world: world{slot: slot(0x100), stored: at(0xFFFF_0000), flush: 0x300}, start: with(store, accept), steps: first, at: 0x100, save: true, note: "going on from the slot's own position", shared: true},
		"--accept-gap, and nothing is refused": {
			world: world{slot: slot(0x100), stored: at(0x200, inside), flush: 0x300}, start: with(store, accept), steps: first, at: 0x200, inside: true, skip: Event{CommitLSN: 0x2F0, Number: 7}, shared: true},
		"--from-lsn before the stored position": {
			world: world{slot: slot(0x100), stored: at(0x300, inside), flush: 0x400}, start: with(with(store, from(0x180)), func(s *Situation) { s.Delivered = Event{CommitLSN: 0x280, Number: 1} }),
			steps: first, at: 0x180, save: true, note: "instead of at the stored position", from: 0x180, shared: true},
		"--from-lsn at the first start of all": {
			world: world{slot: slot(0x100), flush: 0x400}, start: with(Situation{Shared: true}, from(0x100)), steps: first, at: 0x100, note: "instead of at the stored position", from: 0x100, shared: true},
		"--from-lsn beyond the stored position": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: with(store, from(0x201)), steps: "read store, refuse", refused: ErrSkips, says: "--accept-gap"},
		"--from-lsn beyond the stored position, accepted": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: with(with(store, from(0x201)), accept), steps: first, at: 0x201, save: true,
			note: "transactions committed between from and to are skipped", from: 0x200, shared: true},
		"--from-lsn before what the slot has": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: with(store, from(0xFF)), steps: "read store, refuse", refused: ErrOutsideWindow, says: "0/100 to 0/300"},
		"--from-lsn behind the end of the WAL": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: with(with(store, from(0x301)), accept), steps: "read store, refuse", refused: ErrOutsideWindow, says: "0/100 to 0/300"},
		"--from-lsn and a slot without WAL": {
			world: world{slot: &Slot{Name: "a", WALStatus: "lost"}, flush: 0x300}, start: with(Situation{Shared: true}, from(0x200)), steps: "read store, refuse", refused: ErrSlotInvalid, says: "drop it"},
		"another store has a newer position": {
			world: world{slot: slot(0x100), flush: 0x300, elsewhere: []Stored{{"file f", nil}, {"topic t", at(0x200)}}}, start: Situation{Shared: true},
			steps: "read store, ask elsewhere, refuse", refused: ErrOtherStore, says: "topic t"},
		"another store has a newer position, accepted": {
			world: world{slot: slot(0x100), flush: 0x300, elsewhere: []Stored{{"topic t", at(0x200)}}}, start: with(Situation{Shared: true}, accept),
			steps: unsure, at: 0x100, note: "published again (--accept-gap)", from: 0x100, shared: true},
		"another store has an older one, one of another slot or system, or one that this server never had": {
			world: world{slot: slot(0x100), flush: 0x300, elsewhere: []Stored{{"a", at(0x100)}, {"b", at(0x200, func(p *Position) { p.Slot = "b" })},
				{"c", at(0x200, func(p *Position) { p.SystemID = "1" })}, {"d", at(0x301)}}}, start: Situation{Shared: true}, steps: unsure, at: 0x100, shared: true},
		"the positions topic was deleted while outboxd runs": {
			world: world{slot: slot(0x100), flush: 0x300}, start: Situation{Store: true, Shared: true, Known: at(0x200)}, steps: first, at: 0x200, save: true, shared: true},
		"the store wants a claim": {
			world: world{slot: slot(0x200), stored: at(0x200), flush: 0x300}, start: with(store, func(s *Situation) { s.Unclaimed = true }), steps: first, at: 0x200, save: true, shared: true},

		// The table and the publication: what is found is stored with the position.
		"the outbox is not the one that was stored, accepted": {
			world: world{slot: slot(0x200), stored: at(0x200, func(p *Position) { p.Outbox = Outbox{Table: 9, Publication: 2, Seen: 0x200} }), flush: 0x300, outbox: now},
			start: with(store, accept), steps: first, at: 0x200, save: true, shared: true},

		// Exactly once.
		"exactly once, first start of all": {
			world: world{slot: slot(0x100), flush: 0x300}, start: exactly, steps: "acquire id, read store, ask elsewhere, verify outbox, stream", at: 0x100, save: true, shared: true},
		"exactly once, killed inside a transaction": {
			world: world{slot: slot(0x100), stored: at(0x200, inside), flush: 0x300}, start: exactly, steps: once, at: 0x200, inside: true, skip: Event{CommitLSN: 0x2F0, Number: 7}, save: true, shared: true},
		"exactly once, what the older process was committing counts": {
			world: world{slot: slot(0x100), stored: at(0x200), committed: at(0x280), flush: 0x300}, start: exactly, steps: once, at: 0x280, save: true, shared: true},
		"exactly once, another process streams: its id is not touched": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300, other: true}, start: exactly, steps: "wait", says: "it is active", shared: true},
		"exactly once, the connection was cut": {
			world: world{slot: slot(0x100), stored: at(0x200), flush: 0x300}, start: with(later, func(s *Situation) { s.Transactional = true }), steps: again, at: 0x200, skip: Event{CommitLSN: 0x1F0, Number: 3}},
		"exactly once, the outcome of a transaction is unknown: the sink is new": {
			world: world{slot: slot(0x100), stored: at(0x280), flush: 0x300}, start: Situation{Store: true, Known: at(0x200), Transactional: true}, steps: once, at: 0x280, save: true, shared: true},
		"exactly once, another process took over and has ended": {
			world: world{slot: slot(0x280), stored: at(0x280), flush: 0x300}, start: with(later, func(s *Situation) { s.Transactional = true }), steps: once, at: 0x280, save: true, shared: true},
		"exactly once, the slot was dropped, accepted": {
			world: world{stored: at(0x200), flush: 0x300, creates: 0x310}, start: Situation{Store: true, Known: at(0x200), Transactional: true, AcceptGap: true},
			steps: "create slot, acquire id, read store, verify outbox, stream", at: 0x310, save: true, note: "are skipped (--accept-gap)", from: 0x200, shared: true},
	} {
		t.Run(name, func(t *testing.T) {
			d, steps, err := test.world.start(test.start)
			if got := strings.Join(steps, ", "); got != test.steps {
				t.Errorf("steps %s, want %s (%v)", got, test.steps, err)
			}
			if test.refused != nil {
				if !errors.Is(err, test.refused) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v, want %v with %q", err, test.refused, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d.Shared != test.shared {
				t.Errorf("shared %t", d.Shared)
			}
			if d.Step == Wait {
				if !strings.Contains(fmt.Sprint(d.Reason), test.says) || test.says == "" {
					t.Errorf("waits because of %v, want %q", d.Reason, test.says)
				}
				return
			}
			want := Position{SystemID: "7301", Timeline: max(test.start.Server.Timeline, 1), Slot: "a", LSN: test.at, Outbox: test.world.outbox}
			if test.inside {
				want.Inside = Event{CommitLSN: 0x2F0, Number: 7}
			}
			if test.world.outbox.Publication != 0 {
				want.Outbox.Seen = test.at
			}
			if d.Position != want || d.Skip != test.skip || d.Save != test.save {
				t.Errorf("at %+v, skipping up to %v, save %t; want %+v, %v, %t", d.Position, d.Skip, d.Save, want, test.skip, test.save)
			}
			if told := max(test.told, 0); told == 0 && d.Confirmed != test.at || told != 0 && d.Confirmed != told {
				t.Errorf("PostgreSQL is told %s", d.Confirmed)
			}
			var note string
			var from pglogrepl.LSN
			for _, n := range d.Notes {
				note += n.Message
				for _, at := range n.At {
					if at.Name == "from" {
						from = at.LSN
					}
				}
			}
			if (note == "") != (test.note == "") || !strings.Contains(note, test.note) || from != test.from {
				t.Errorf("notes %q from %s, want %q from %s", note, from, test.note, test.from)
			}
		})
	}
}

// The notes of a gap name from where to where it goes, as far as that is known.
func TestGapNote(t *testing.T) {
	for _, test := range []struct {
		gap Gap
		has string
		at  []NamedLSN
	}{
		{Gap{Start: 0x200}, "going on from the slot's own position", []NamedLSN{{"to", 0x200}}},
		{Gap{From: 0x100, Start: 0x200}, "transactions that end after from, up to to, are skipped", []NamedLSN{{"to", 0x200}, {"from", 0x100}}},
		{Gap{From: 0x200, Start: 0x200}, "going on from there; nothing of this server is skipped", []NamedLSN{{"to", 0x200}, {"from", 0x200}}},
	} {
		n := test.gap.note(ErrSlotAhead)
		if !strings.Contains(n.Message, test.has) || !reflect.DeepEqual(n.At, test.at) || n.Err != ErrSlotAhead {
			t.Errorf("%+v: %+v", test.gap, n)
		}
	}
}

// The rules of a start hold in every situation: it ends; with exactly_once the id is
// acquired before the position is read, never while another process streams, and the
// position is claimed after that; a position inside a transaction is honoured or given
// up, never passed; what is stored, told and skipped never lies beyond what was
// confirmed or delivered, unless the operator accepts a gap.
func TestRulesOfAStart(t *testing.T) {
	bools := []bool{false, true}
	positions := []*Position{nil, {SystemID: "7301", Timeline: 1, Slot: "a", LSN: 0x200}, {SystemID: "7301", Timeline: 1, Slot: "a", LSN: 0x200, Inside: Event{CommitLSN: 0x2F0, Number: 7}},
		{SystemID: "7301", Timeline: 1, Slot: "a", LSN: 0x300}, {SystemID: "7000", Timeline: 1, Slot: "a", LSN: 0x200}}
	slots := []*Slot{nil, {Name: "a", ConfirmedFlush: 0x100}, {Name: "a", ConfirmedFlush: 0x280}, {Name: "a", WALStatus: "lost"}}
	n := 0
	for _, known := range positions {
		for _, stored := range positions {
			for _, slot := range slots {
				for bits := range 1 << 6 {
					flag := func(i int) bool { return bools[bits>>i&1] }
					s := Situation{Known: known, Store: flag(0) || flag(2), Shared: flag(1), Transactional: flag(2), AcceptGap: flag(3), Rewind: flag(5) && flag(0)}
					if flag(4) {
						s.From = 0x180
					}
					for _, id := range []ID{NoID, HeldID} {
						for _, other := range bools {
							if slot == nil && (known == nil || other) {
								continue // Prepare creates the slot where nothing is known
							}
							n++
							s.ID = id
							w := world{stored: stored, slot: slot, creates: 0x310, flush: 0x400, other: other}
							d, steps, err := w.start(s)
							what := fmt.Sprintf("%+v in %+v: %v, %v", s, w, steps, err)
							acquired, read := slices.Index(steps, "acquire id"), slices.Index(steps, "read store")
							switch {
							case len(steps) >= 9:
								t.Fatalf("does not end: %s", what)
							case acquired >= 0 && (!s.Transactional || other):
								t.Fatalf("the id is acquired: %s", what)
							case s.Transactional && read >= 0 && (acquired < 0 || acquired > read):
								t.Fatalf("the position is read before the id is acquired: %s", what)
							case acquired >= 0 && err == nil && (read < acquired || !d.Save):
								t.Fatalf("acquired, and not read and claimed: %s", what)
							}
							if err != nil || d.Step == Wait {
								continue
							}
							p := d.Position
							switch {
							case s.Transactional && id == NoID && acquired < 0:
								t.Fatalf("streams without the id: %s", what)
							case p.Inside != (Event{}) && d.Skip != p.Inside, p.Inside == (Event{}) && d.Skip != (Event{}):
								t.Fatalf("skips up to %v at %s: %s", d.Skip, p, what)
							case d.Confirmed > p.LSN:
								t.Fatalf("tells %s, and starts at %s: %s", d.Confirmed, p, what)
							case !s.AcceptGap && s.From == 0 && p.LSN < slot.ConfirmedFlush:
								t.Fatalf("starts at %s: %s", p, what)
							case !s.AcceptGap && s.From == 0 && s.Store && read >= 0 && stored != nil && (p.LSN != stored.LSN || p.Inside != stored.Inside):
								t.Fatalf("starts at %s, and %s is stored: %s", p, stored, what)
							}
						}
					}
				}
			}
		}
	}
	if n < 1000 {
		t.Errorf("%d situations are too few", n)
	}
}
