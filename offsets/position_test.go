package offsets

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// lsns of the table below, with what a message shows of them.
const (
	lsnOlder  = pglogrepl.LSN(0x1_00000100) // 1/100
	lsnStored = pglogrepl.LSN(0x1_00000200) // 1/200
	lsnNewer  = pglogrepl.LSN(0x1_00000300) // 1/300
)

func TestResume(t *testing.T) {
	stored := func(change func(*Position)) *Position {
		p := &Position{SystemID: "7301", Timeline: 2, Slot: "outboxd", LSN: lsnStored}
		if change != nil {
			change(p)
		}
		return p
	}
	inside := func(commit pglogrepl.LSN) *Position {
		return stored(func(p *Position) { p.Inside = Event{CommitLSN: commit, Number: 7} })
	}
	server := func(change func(*Server)) Server {
		s := Server{SystemID: "7301", Timeline: 2, FlushLSN: lsnNewer, SlotName: "outboxd",
			Slot: &Slot{Name: "outboxd", ConfirmedFlush: lsnStored, RestartLSN: lsnOlder, WALStatus: "reserved"}}
		if change != nil {
			change(&s)
		}
		return s
	}
	tests := []struct {
		name   string
		stored *Position
		server Server
		start  pglogrepl.LSN
		refuse error
		says   []string // parts of the message
	}{
		{name: "the slot has the stored position", stored: stored(nil), server: server(nil), start: lsnStored},
		{name: "the slot is behind, as after a crash", stored: stored(nil),
			server: server(func(s *Server) { s.Slot.ConfirmedFlush = lsnOlder }), start: lsnStored},
		{name: "nothing is stored", server: server(func(s *Server) { s.Slot.ConfirmedFlush = lsnOlder }), start: lsnOlder},
		{name: "nothing is stored and the slot is new", server: server(func(s *Server) { s.Slot.ConfirmedFlush = lsnNewer }), start: lsnNewer},
		{name: "all WAL is confirmed", stored: stored(nil), server: server(func(s *Server) { s.FlushLSN = lsnStored }), start: lsnStored},
		{name: "the slot holds more WAL than it should", stored: stored(nil),
			server: server(func(s *Server) { s.Slot.WALStatus = "unreserved" }), start: lsnStored},
		{name: "a promoted standby that has everything", stored: stored(nil), server: server(func(s *Server) {
			s.Timeline, s.Switches = 3, map[int32]pglogrepl.LSN{1: lsnOlder, 2: lsnNewer}
		}), start: lsnStored},
		{name: "promoted exactly at the stored position", stored: stored(nil), server: server(func(s *Server) {
			s.Timeline, s.Switches = 3, map[int32]pglogrepl.LSN{2: lsnStored}
		}), start: lsnStored},

		{name: "a backfill was begun", stored: stored(func(p *Position) { p.Backfill = true }), server: server(nil),
			refuse: ErrBackfill, says: []string{`"outboxd"`, "1/200", "outbox.backfill: existing", "--accept-gap"}},
		{name: "a backfill was begun and left no slot", stored: stored(func(p *Position) { p.Backfill = true }), server: server(func(s *Server) { s.Slot = nil }),
			refuse: ErrBackfill, says: []string{"outbox.backfill: existing"}},
		{name: "a backfill was begun on another system", stored: stored(func(p *Position) { p.Backfill, p.SystemID = true, "1" }), server: server(nil),
			refuse: ErrForeignSystem},

		{name: "inside a transaction", stored: inside(lsnStored), server: server(nil), start: lsnStored},
		{name: "inside a transaction, promoted behind its commit", stored: inside(lsnStored), server: server(func(s *Server) {
			s.Timeline, s.Switches = 3, map[int32]pglogrepl.LSN{2: lsnStored + 8}
		}), start: lsnStored},
		{name: "inside a transaction that a promoted standby does not have", stored: inside(lsnStored + 8), server: server(func(s *Server) {
			s.Timeline, s.Switches = 3, map[int32]pglogrepl.LSN{2: lsnStored + 8}
		}), refuse: ErrForeignTimeline, says: []string{"event 7", "1/208", "--accept-gap"}},
		{name: "inside a transaction that a restored server does not have", stored: inside(lsnNewer), server: server(nil),
			refuse: ErrServerBehind, says: []string{"event 7", "1/300", "--accept-gap"}},

		{name: "no slot", stored: stored(nil), server: server(func(s *Server) { s.Slot = nil }),
			refuse: ErrSlotGone, says: []string{`"outboxd"`, "1/200", "--accept-gap"}},
		{name: "no slot and nothing stored", server: server(func(s *Server) { s.Slot = nil }),
			refuse: ErrSlotGone, says: []string{"an unknown position", "--accept-gap"}},
		{name: "no slot on another system", stored: stored(nil), server: server(func(s *Server) { s.SystemID, s.Slot = "9999", nil }),
			refuse: ErrForeignSystem, says: []string{"7301", "9999"}},
		{name: "no slot on a promoted standby that lacks the newest", stored: stored(nil), server: server(func(s *Server) {
			s.Timeline, s.Switches, s.Slot = 3, map[int32]pglogrepl.LSN{2: lsnOlder}, nil
		}), refuse: ErrForeignTimeline, says: []string{"resumes at the timeline switch point"}},
		{name: "no slot on a server that is behind", stored: stored(nil), server: server(func(s *Server) {
			s.FlushLSN, s.Slot = lsnOlder, nil
		}), refuse: ErrServerBehind},
		{name: "invalidated by a conflict", stored: stored(nil),
			server: server(func(s *Server) { s.Slot.Invalidation = "rows_removed" }),
			refuse: ErrSlotInvalid, says: []string{"rows_removed", "hot_standby_feedback"}},
		{name: "the slot is invalidated", stored: stored(nil),
			server: server(func(s *Server) { s.Slot.Invalidation = "idle_timeout" }),
			refuse: ErrSlotInvalid, says: []string{"idle_timeout", "1/200", "pg_drop_replication_slot('outboxd')", "--accept-gap"}},
		{name: "the slot's WAL is gone, nothing stored", server: server(func(s *Server) { s.Slot.WALStatus = "lost" }),
			refuse: ErrSlotInvalid, says: []string{"its WAL was removed", "max_slot_wal_keep_size"}},
		{name: "another system", stored: stored(nil), server: server(func(s *Server) { s.SystemID = "9999" }),
			refuse: ErrForeignSystem, says: []string{"7301", "9999", "postgres.dsn", "--accept-gap"}},
		{name: "another slot", stored: stored(func(p *Position) { p.Slot = "orders" }), server: server(nil),
			refuse: ErrForeignSlot, says: []string{`"orders"`, `"outboxd"`, "postgres.slot", "--accept-gap"}},
		{name: "a promoted standby that lacks the newest", stored: stored(nil), server: server(func(s *Server) {
			s.Timeline, s.Switches = 3, map[int32]pglogrepl.LSN{2: lsnOlder}
		}), refuse: ErrForeignTimeline, says: []string{"1/200", "1/100", "timeline 2", "timeline 3", "--accept-gap"}},
		{name: "a timeline that is not in the history", stored: stored(nil), server: server(func(s *Server) {
			s.Timeline, s.Switches = 3, map[int32]pglogrepl.LSN{1: lsnNewer}
		}), refuse: ErrForeignTimeline, says: []string{"an unknown position"}},
		{name: "a server that went back to an older timeline", stored: stored(nil), server: server(func(s *Server) { s.Timeline = 1 }),
			refuse: ErrForeignTimeline, says: []string{"timeline 2", "timeline 1"}},
		{name: "the server is older than the position", stored: stored(nil), server: server(func(s *Server) {
			s.FlushLSN, s.Slot.ConfirmedFlush = lsnOlder, lsnOlder
		}), refuse: ErrServerBehind, says: []string{"1/200", "1/100", "backup", "--accept-gap"}},
		{name: "the slot was advanced by someone else", stored: stored(nil),
			server: server(func(s *Server) { s.Slot.ConfirmedFlush = lsnNewer }),
			refuse: ErrSlotAhead, says: []string{"1/300", "1/200", "--accept-gap"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			start, err := Resume(test.stored, test.server)
			if test.refuse == nil {
				if err != nil || start != test.start {
					t.Fatalf("starts at %s, %v; want %s", start, err, test.start)
				}
				return
			}
			var refused *RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, test.refuse) {
				t.Fatalf("starts at %s, %v; want a refusal: %v", start, err, test.refuse)
			}
			if start != 0 {
				t.Errorf("a refusal comes with position %s", start)
			}
			for _, part := range test.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the message does not say %q: %v", part, err)
				}
			}
			if refused.Detail == "" || refused.Hint == "" || strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line with detail and hint: %q", err)
			}
		})
	}
}

// What is asked first matters: a message about the slot's position would mislead
// when the server is another one.
func TestResumeNamesTheDeepestReason(t *testing.T) {
	stored := &Position{SystemID: "7301", Timeline: 2, Slot: "outboxd", LSN: lsnStored}
	_, err := Resume(stored, Server{SystemID: "9999", Timeline: 1, FlushLSN: lsnOlder,
		Slot: &Slot{Name: "other", ConfirmedFlush: lsnNewer}})
	if !errors.Is(err, ErrForeignSystem) {
		t.Errorf("%v, want %v", err, ErrForeignSystem)
	}
}

func TestAcceptGap(t *testing.T) {
	stored := &Position{SystemID: "7301", Timeline: 2, Slot: "outboxd", LSN: lsnStored}
	tests := []struct {
		name   string
		stored *Position
		change func(*Server)
		want   Gap
	}{
		{"the slot is ahead", stored, func(s *Server) { s.Slot.ConfirmedFlush = lsnNewer }, Gap{Start: lsnNewer, From: lsnStored}},
		{"the slot is new, nothing is known", nil, func(s *Server) { s.Slot.ConfirmedFlush = lsnNewer }, Gap{Start: lsnNewer}},
		{"another system", stored, func(s *Server) { s.SystemID = "9999" }, Gap{Start: lsnOlder}},
		{"another slot", stored, func(s *Server) { s.SlotName = "orders" }, Gap{Start: lsnOlder}},
		// What was published before the timeline switch point is not repeated, what
		// came after it not skipped.
		{"another history", stored, func(s *Server) {
			s.Timeline, s.Switches, s.FlushLSN = 3, map[int32]pglogrepl.LSN{2: lsnOlder + 8}, lsnNewer
		}, Gap{Start: lsnOlder + 8, From: lsnOlder + 8}},
		{"another history and a new slot", stored, func(s *Server) {
			s.Timeline, s.Switches, s.Slot.ConfirmedFlush = 3, map[int32]pglogrepl.LSN{2: lsnOlder}, lsnNewer
		}, Gap{Start: lsnNewer, From: lsnOlder}},
		{"a history that is not known", stored, func(s *Server) { s.Timeline = 3 }, Gap{Start: lsnOlder}},
		{"an older history", stored, func(s *Server) { s.Timeline = 1 }, Gap{Start: lsnOlder}},
		{"a server that is behind", stored, func(s *Server) { s.FlushLSN = lsnOlder + 8 }, Gap{Start: lsnOlder}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := Server{SystemID: "7301", Timeline: 2, FlushLSN: lsnNewer, SlotName: "outboxd",
				Slot: &Slot{Name: "outboxd", ConfirmedFlush: lsnOlder}}
			test.change(&server)
			if got := AcceptGap(test.stored, server); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// A standby that crashed replays what it had; what it has not replayed yet is no
// reason to doubt the position.
func TestResumeOnAStandbyThatReplays(t *testing.T) {
	slot := &Slot{Name: "outboxd", ConfirmedFlush: 100, WALStatus: "reserved"}
	for name, c := range map[string]struct {
		stored  Position
		server  Server
		want    error // nil: it resumes
		refused bool
	}{
		"replayed":              {Position{LSN: 200, Timeline: 1}, Server{Timeline: 1, FlushLSN: 200, Standby: true}, nil, false},
		"not yet":               {Position{LSN: 200, Timeline: 1}, Server{Timeline: 1, FlushLSN: 199, Standby: true}, ErrReplaying, false},
		"not yet inside":        {Position{LSN: 200, Timeline: 1, Inside: Event{CommitLSN: 300, Number: 1}}, Server{Timeline: 1, FlushLSN: 250, Standby: true}, ErrReplaying, false},
		"timeline not yet":      {Position{LSN: 200, Timeline: 2}, Server{Timeline: 1, FlushLSN: 250, Standby: true}, ErrReplaying, false},
		"a lost history":        {Position{LSN: 200, Timeline: 1}, Server{Timeline: 2, FlushLSN: 250, Standby: true, Switches: map[int32]pglogrepl.LSN{1: 150}}, ErrForeignTimeline, true},
		"a primary":             {Position{LSN: 200, Timeline: 1}, Server{Timeline: 1, FlushLSN: 199}, ErrServerBehind, true},
		"an older primary":      {Position{LSN: 200, Timeline: 2}, Server{Timeline: 1, FlushLSN: 250}, ErrForeignTimeline, true},
		"promoted, as followed": {Position{LSN: 200, Timeline: 2}, Server{Timeline: 2, FlushLSN: 250, Switches: map[int32]pglogrepl.LSN{1: 150}}, nil, false},
	} {
		c.stored.SystemID, c.stored.Slot = "1", "outboxd"
		c.server.SystemID, c.server.SlotName, c.server.Slot = "1", "outboxd", slot
		start, err := Resume(&c.stored, c.server)
		var refused *RefusedError
		if !errors.Is(err, c.want) || errors.As(err, &refused) != c.refused || c.want == nil && start != 200 {
			t.Errorf("%s: %s, %v", name, start, err)
		}
	}
}
