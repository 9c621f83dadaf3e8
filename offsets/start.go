package offsets

import (
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pglogrepl"
)

// Situation is everything that the decision where to start depends on. Whoever
// starts fills in what is known, asks Decide, does the step that it names, fills in
// what came of it, and asks again, until the step is Stream.
type Situation struct {
	Server Server
	// Known is the position that was confirmed last, as far as the process knows: its
	// own, or what the store held when it was read. nil: none, and the slot's own
	// counts.
	Known *Position
	// Store says that positions are kept in a store besides the slot.
	Store bool
	// Shared says that another process may have confirmed more than Known.
	Shared bool
	// Read says that Known was read after Server.Slot and before Server.FlushLSN.
	Read bool
	// Lost says that Known was stored, and is not any more.
	Lost bool
	// Unclaimed says that the store wants this process to claim its position, and that
	// it has not since it has its sink.
	Unclaimed bool

	// Transactional says that delivery is exactly once, ID whether the sink has the
	// transactional id.
	Transactional bool
	ID            ID

	// AcceptGap and From are what the operator asked for; From is 0 for nothing.
	AcceptGap bool
	From      pglogrepl.LSN
	// Rewind says that part of the past is kept in the WAL.
	Rewind bool

	// Delivered is the last event that was handed to the sink, zero when the sink is
	// new. It was of the system and the timeline of On.
	Delivered Event
	On        History

	// Refused is why CreateSlot was decided.
	Refused error
	// Elsewhere is what unused stores have, once AskElsewhere is done.
	Elsewhere []Stored
	Asked     bool
	// Outbox is what is published now, once VerifyOutbox is done.
	Outbox   Outbox
	Verified bool
}

// History is that of a server: its system and timeline.
type History struct {
	SystemID string
	Timeline int32
}

// shared is up to where the server has the WAL of the history On, 0 for nothing. Behind that
// the same position is another event's, or will be: also on a standby that is behind, once that
// is promoted while it is streamed from.
func (s Situation) shared() pglogrepl.LSN {
	on, server := s.On, s.Server
	if on == (History{server.SystemID, server.Timeline}) {
		return server.FlushLSN
	}
	if left, known := server.Switches[on.Timeline]; known && on.SystemID == server.SystemID {
		return min(left, server.FlushLSN)
	}
	return 0
}

// delivered is Delivered as far as the server has it: no other event must be passed over.
func (s Situation) delivered() Event {
	shared := s.shared()
	switch {
	case s.Delivered.CommitLSN < shared:
		return s.Delivered
	case shared == 0:
		return Event{}
	}
	return Event{CommitLSN: shared - 1, Number: math.MaxUint32}
}

// ID is whether a process has the transactional id.
type ID int

const (
	NoID       ID = iota // the sink is new, or failed
	HeldID               // since an earlier session
	AcquiredID           // since this start
)

// Stored is the position that a store has, nil for none.
type Stored struct {
	Store    string
	Position *Position
}

// Step is what a start has to do next.
type Step int

const (
	// Wait: another process streams from the slot. Nothing of it is disturbed.
	Wait Step = iota
	// AcquireID: replace the sink by one that has the transactional id. What an older
	// process has not committed is aborted, so that what ReadStore reads after this
	// cannot change any more. Another process may have committed before: Shared.
	AcquireID
	// ReadStore: read the stored position, and after it the end of the WAL. Another
	// process that confirms meanwhile stores a position before the slot has it and
	// after the WAL does, so that neither can seem to contradict the store.
	ReadStore
	// CreateSlot: the slot is gone, and the operator accepts that.
	CreateSlot
	// AskElsewhere: look for a position in the stores that are not used.
	AskElsewhere
	// VerifyOutbox: compare what is published with what was.
	VerifyOutbox
	// Stream: start at Decision.Position, and then store it where Save says so. Only
	// who has the slot may write the store.
	Stream
)

func (s Step) String() string {
	return [...]string{"wait", "acquire id", "read store", "create slot", "ask elsewhere", "verify outbox", "stream"}[s]
}

// Decision is the next step of a start.
type Decision struct {
	Step Step
	// Shared is Situation.Shared from here on, until a start has succeeded.
	Shared bool
	// Reason is for what Wait waits, or why CreateSlot is needed.
	Reason error

	// Of Stream. Position is known from here on: streaming begins at its LSN. Events up
	// to Skip were delivered and are passed over: an event inside a transaction, or what
	// a sink that lives on was given. Confirmed is what is confirmed to PostgreSQL at first.
	Position  Position
	Skip      Event
	Save      bool
	Confirmed pglogrepl.LSN
	// Notes are what the log says.
	Notes []Note
}

// Note is something that the operator is warned of at a start.
type Note struct {
	Message string
	Err     error  // nil: none
	Store   string // "": none
	At      []NamedLSN
}

// NamedLSN is a position in a Note.
type NamedLSN struct {
	Name string
	LSN  pglogrepl.LSN
}

// Decide returns the next step of a start, or a *RefusedError, or ErrReplaying. It
// depends on nothing but its argument.
//
// With exactly_once its order keeps two processes apart: while another connection
// streams, nothing is done; then the transactional id is acquired; the position is
// read only after that; and the same position is stored again under this process's
// name (the claim) when it has the slot.
func Decide(s Situation) (Decision, error) {
	d := Decision{Shared: s.Shared}
	slot := s.Server.Slot
	if s.Transactional && slot != nil && (s.ID == NoID || s.ID == HeldID && s.Shared) {
		if slot.Active {
			d.Shared, d.Reason = true, errors.New("it is active")
			return d, nil
		}
		d.Step, d.Shared = AcquireID, true
		return d, nil
	}
	if s.Shared && slot != nil && !s.Read {
		d.Step = ReadStore
		return d, nil
	}
	start, err := Resume(s.Known, s.Server)
	if s.Refused != nil {
		return s.from(d, start, s.Refused) // the slot was created, and is ahead of course
	}
	if errors.Is(err, ErrSlotAhead) && s.Store && !s.Shared {
		// While we were cut off another process had the slot, and has given it back: the
		// store knows how far it came.
		s.Shared = true
		return Decide(s)
	}
	if errors.Is(err, ErrSlotAhead) && slot.Active {
		// Another process has taken over while we were cut off.
		d.Shared, d.Reason = true, fmt.Errorf("it was confirmed up to %s meanwhile", slot.ConfirmedFlush)
		return d, nil
	}
	return s.from(d, start, err)
}

// from decides where to start, given where Resume would.
func (s Situation) from(d Decision, start pglogrepl.LSN, err error) (Decision, error) {
	fresh := s.From != 0 // what was delivered inside a transaction is of no account
	if refused := (*RefusedError)(nil); errors.As(err, &refused) && s.AcceptGap {
		if s.Server.Slot == nil {
			d.Step, d.Reason = CreateSlot, err
			return d, nil
		}
		if err := Usable(s.Server.Slot); err != nil {
			return d, err
		}
		gap := AcceptGap(s.Known, s.Server)
		start, fresh = gap.Start, true
		d.Notes = append(d.Notes, gap.note(err))
		err = nil
	}
	if err != nil {
		return d, err
	}
	if s.Known == nil && s.From == 0 {
		if !s.Asked {
			return Decision{Step: AskElsewhere, Shared: d.Shared}, nil
		}
		for _, e := range s.Elsewhere {
			switch err := e.refuse(s.Server, start); {
			case err == nil:
			case !s.AcceptGap:
				return d, err
			default:
				d.Notes = append(d.Notes, Note{Message: "events that were published with another store are published again (--accept-gap)",
					Err: err, Store: e.Store, At: []NamedLSN{{"from", start}}})
			}
		}
	}
	if s.From != 0 {
		note, err := s.startFrom(start)
		if err != nil {
			return d, err
		}
		start, d.Notes = s.From, append(d.Notes, note)
	}
	if !s.Verified {
		return Decision{Step: VerifyOutbox, Shared: d.Shared}, nil
	}
	return s.stream(d, start, fresh), nil
}

// startFrom lets the events from --from-lsn on be published, also those that were
// before, or refuses that position.
func (s Situation) startFrom(stored pglogrepl.LSN) (Note, error) {
	window, err := WindowOf(s.Server)
	if err == nil {
		err = window.Contains(s.From)
	}
	if err == nil && !s.AcceptGap {
		err = Skips(s.From, stored)
	}
	switch {
	case err != nil:
		return Note{}, err
	case s.From > stored:
		return Note{Message: "starting where --from-lsn says; transactions committed between from and to are skipped (--accept-gap)",
			At: []NamedLSN{{"from", stored}, {"to", s.From}}}, nil
	}
	return Note{Message: "starting where --from-lsn says instead of at the stored position", At: []NamedLSN{{"stored", stored}, {"from", s.From}}}, nil
}

// stream is the decision to start. fresh says that nothing that was delivered behind
// start is of account.
func (s Situation) stream(d Decision, start pglogrepl.LSN, fresh bool) Decision {
	d.Step = Stream
	outbox := s.Outbox
	if outbox.Publication != 0 {
		outbox.Seen = max(outbox.Seen, start)
	}
	d.Position = Position{SystemID: s.Server.SystemID, Timeline: s.Server.Timeline, Slot: s.Server.SlotName, LSN: start, Outbox: outbox}
	if !fresh {
		if s.Known != nil {
			d.Position.Inside, d.Position.Past = s.Known.Inside, s.Known.Past
		}
		d.Skip = s.delivered()
	}
	if d.Position.Inside.After(d.Skip) {
		d.Skip = d.Position.Inside
	}
	d.Save = s.Store && (s.Known == nil || !s.Known.Same(d.Position) || s.Unclaimed || s.Lost)
	d.Confirmed = start
	if s.Rewind {
		d.Confirmed = min(start, s.Server.Slot.ConfirmedFlush) // the window stays
	}
	return d
}

// note says what is abandoned with a refused position.
func (g Gap) note(refused error) Note {
	n := Note{Err: refused, At: []NamedLSN{{"to", g.Start}}}
	if g.From != 0 {
		n.At = append(n.At, NamedLSN{"from", g.From})
	}
	switch {
	case g.From == 0:
		n.Message = "going on from the slot's own position; what was committed before it and not published is skipped (--accept-gap)"
	case g.From < g.Start:
		n.Message = "transactions that end after from, up to to, are skipped (--accept-gap)"
	default:
		n.Message = "going on from there; nothing of this server is skipped (--accept-gap)"
	}
	return n
}
