package offsets

import (
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/event"
)

// Position is a confirmed place in the WAL of one server, with what is needed
// to see that it still means the same place.
type Position struct {
	SystemID string        // IDENTIFY_SYSTEM's systemid: which cluster
	Timeline int32         // the timeline the position was confirmed on
	Slot     string        // the slot that delivered it
	LSN      pglogrepl.LSN // the end of the last confirmed transaction
	// Inside is the last event that was delivered of a transaction behind LSN,
	// zero when that is none: streaming resumes at LSN, and passes over the
	// events up to this one, which decoding repeats exactly.
	Inside Event
	// Past is for a rewind.
	Past Past
	// Outbox is what was published when the position was stored.
	Outbox Outbox
	// Backfill says that a backfill was begun at LSN, and that nothing of it is
	// committed: it is done when a position without this is stored. Nothing resumes here.
	Backfill bool
}

// Outbox identifies what was published: a table of the same name is another one, and
// one that was taken out of a publication and added again was not published between.
// The zero value is not known: of an older version, or without a table.
type Outbox struct {
	Table       uint32 // OID of the table
	Publication uint32 // OID of the publication
	// Entry is the OID of the row of pg_publication_rel or pg_publication_namespace
	// by which the table is in the publication; 0: it is FOR ALL TABLES.
	Entry uint32
	// Seen is the position up to which the outbox is known to have been published as
	// a whole. It may be before or after the position that it is stored with.
	Seen pglogrepl.LSN
}

// Same reports whether both positions are equal, whenever the outbox was seen.
func (p Position) Same(other Position) bool {
	p.Outbox.Seen = other.Outbox.Seen
	return p == other
}

// same reports whether both are the same, whenever they were seen.
func (o Outbox) same(other Outbox) bool {
	o.Seen = other.Seen
	return o == other
}

// Event names an event by its position.
type Event = event.Position

// after reports whether a server whose history ends at end lacks some of what p
// says was delivered. A commit record that begins before the end is part of it.
func (p Position) after(end pglogrepl.LSN) bool {
	return p.LSN > end || p.Inside != Event{} && p.Inside.CommitLSN >= end
}

// String returns the position for people.
func (p Position) String() string {
	if p.Inside == (Event{}) {
		return p.LSN.String()
	}
	return fmt.Sprintf("%s and event %d of the transaction committed at %s", p.LSN, p.Inside.Number, p.Inside.CommitLSN)
}

// Server is what the server says of itself and of the slot at a start.
type Server struct {
	SystemID string
	Timeline int32
	FlushLSN pglogrepl.LSN // WAL is durable up to here
	Standby  bool          // it is one: more WAL is on its way to it, or is being replayed
	// Switches tells where each timeline up to Timeline ended: Switches[t] is
	// the position at which timeline t was left. Nil when not known.
	Switches map[int32]pglogrepl.LSN
	SlotName string // as it is configured
	Slot     *Slot  // nil: there is no such slot
}

// Slot is a row of pg_replication_slots.
type Slot struct {
	Name           string
	ConfirmedFlush pglogrepl.LSN
	RestartLSN     pglogrepl.LSN
	WALStatus      string // reserved, extended, unreserved or lost
	Invalidation   string // PostgreSQL 16+: why the slot can no longer be used, "" if it can
	Active         bool   // a connection streams from it
	Failover       bool   // PostgreSQL 17+: standbys keep copies of it
}

// Reasons for refusing a position. Each comes wrapped in a *RefusedError.
var (
	ErrSlotGone        = errors.New("the replication slot is gone")
	ErrSlotInvalid     = errors.New("the replication slot is invalidated")
	ErrSlotAhead       = errors.New("the replication slot is confirmed beyond the stored position")
	ErrForeignSystem   = errors.New("the stored position is of another database system")
	ErrForeignSlot     = errors.New("the stored position is of another slot")
	ErrForeignTimeline = errors.New("the stored position is on a history that this server does not have")
	ErrServerBehind    = errors.New("the server's WAL ends before the stored position")
	ErrBackfill        = errors.New("a backfill was begun and is not done")
)

// ErrReplaying is no refusal: the server is a standby that has not come as far as the
// stored position yet.
var ErrReplaying = errors.New("the standby has not replayed the WAL up to the stored position yet")

// RefusedError says why a position cannot be trusted, and what the operator can
// do. It is never retried: the process ends with exit code 3.
type RefusedError struct {
	Reason error // one of the sentinels above
	Detail string
	Hint   string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("position refused: %v: %s; %s", e.Reason, e.Detail, e.Hint)
}

func (e *RefusedError) Unwrap() error { return e.Reason }

const acceptGap = "`outboxd run --accept-gap` resumes at the slot's own position"

// Resume decides where to start streaming. stored is the position that was
// confirmed last as far as the process or its store knows, nil when nothing is
// known; then the slot itself is trusted. The slot being behind the stored
// position is normal: PostgreSQL writes a slot's position to disk only at a
// checkpoint, and a crash can come between the store and the slot.
//
// What is asked first is what explains the rest: on another server, or on another
// history of it, the slot says nothing.
func Resume(stored *Position, server Server) (pglogrepl.LSN, error) {
	if stored != nil {
		if err := sameHistory(*stored, server); err != nil {
			return 0, err
		}
	}
	if stored != nil && stored.Backfill {
		return 0, &RefusedError{ErrBackfill,
			fmt.Sprintf("slot %q was to begin at %s, and nothing of the rows before it is committed", server.SlotName, stored.LSN),
			"start with outbox.backfill: existing, which publishes them all; `outboxd run --accept-gap` skips them"}
	}
	slot := server.Slot
	if slot == nil {
		return 0, &RefusedError{ErrSlotGone,
			fmt.Sprintf("slot %q does not exist, but was confirmed up to %s before", server.SlotName, storedLSN(stored)),
			"it was dropped, or a standby was promoted that did not have it (PostgreSQL 17 and later keep failover slots, see postgres.failover); " +
				"`outboxd recover` creates a new slot and publishes the rows that were not delivered, while they are in the outbox table; " +
				"`outboxd run --accept-gap` creates one and skips them"}
	}
	if err := Usable(slot); err != nil {
		return 0, err
	}
	if stored == nil {
		return slot.ConfirmedFlush, nil
	}
	if slot.ConfirmedFlush > stored.LSN {
		return 0, &RefusedError{ErrSlotAhead,
			fmt.Sprintf("slot %q is confirmed up to %s, the stored position is %s", slot.Name, slot.ConfirmedFlush, stored.LSN),
			"someone advanced or recreated the slot, and the events between were not published from here; " + acceptGap +
				", and `outboxd recover` publishes the rows that lie between, while they are in the outbox table"}
	}
	return stored.LSN, nil
}

// sameHistory refuses a position whose place in the WAL this server does not have.
func sameHistory(stored Position, server Server) error {
	if stored.SystemID != server.SystemID {
		return &RefusedError{ErrForeignSystem,
			fmt.Sprintf("it was made on system %s, this is system %s", stored.SystemID, server.SystemID),
			"check postgres.dsn; if the database was really replaced, " + acceptGap}
	}
	if stored.Slot != server.SlotName {
		return &RefusedError{ErrForeignSlot,
			fmt.Sprintf("it belongs to slot %q, the configuration names slot %q", stored.Slot, server.SlotName),
			"give each slot a store of its own, or set postgres.slot back; otherwise " + acceptGap}
	}
	if server.Standby && (stored.Timeline > server.Timeline || stored.Timeline == server.Timeline && stored.after(server.FlushLSN)) {
		return fmt.Errorf("%w: %s on timeline %d was confirmed, the standby is at %s on timeline %d; outboxd waits for it, "+
			"if it comes no further see its log and its connection to the primary", ErrReplaying, stored, stored.Timeline, server.FlushLSN, server.Timeline)
	}
	if stored.Timeline > server.Timeline {
		return &RefusedError{ErrForeignTimeline,
			fmt.Sprintf("%s was confirmed on timeline %d; the server is on timeline %d, which is older", stored, stored.Timeline, server.Timeline),
			"another server was promoted since, and this one was left behind or restored from a backup: take it out of postgres.dsn, or make it a standby of the other; " +
				"only if it is to replace the other, " + acceptGap}
	}
	if stored.Timeline < server.Timeline {
		left, known := server.Switches[stored.Timeline]
		if !known || stored.after(left) {
			return &RefusedError{ErrForeignTimeline,
				fmt.Sprintf("%s was confirmed on timeline %d; the server is on timeline %d, which left that timeline at %s",
					stored, stored.Timeline, server.Timeline, switchText(left, known)),
				"the server was promoted or restored without the last transactions that were published: Kafka has events that this database lost; " +
					"settle these with their consumers, then `outboxd run --accept-gap` resumes at the timeline switch point"}
		}
	}
	if stored.after(server.FlushLSN) {
		return &RefusedError{ErrServerBehind,
			fmt.Sprintf("%s was confirmed, the server has WAL up to %s only", stored, server.FlushLSN),
			"the server was restored from a backup or lost its newest WAL: Kafka has events that this database lost; " +
				"settle these with their consumers, then " + acceptGap}
	}
	return nil
}

// Usable refuses a slot that PostgreSQL has invalidated: there is nothing to resume
// from, whatever is accepted.
func Usable(slot *Slot) error {
	if slot.Invalidation == "" && slot.WALStatus != "lost" {
		return nil
	}
	why, next := slot.Invalidation, ""
	switch why {
	case "", "wal_removed":
		why, next = "its WAL was removed", "raise max_slot_wal_keep_size"
	case "idle_timeout":
		next = "raise idle_replication_slot_timeout"
	case "wal_level_insufficient":
		next = "keep wal_level = logical on the primary"
	default: // rows_removed, or what PostgreSQL 16 calls a conflict
		next = "set hot_standby_feedback = on on the standby and keep wal_level = logical on the primary"
	}
	return &RefusedError{ErrSlotInvalid,
		fmt.Sprintf("slot %q, confirmed up to %s, can no longer be read (%s)", slot.Name, slot.ConfirmedFlush, why),
		"`outboxd recover` replaces it by a new one and publishes the rows that were not delivered, while they are in the outbox table " +
			"(or drop it with SELECT pg_drop_replication_slot('" + slot.Name + "') and start with --accept-gap, which skips them); " + next + " so that it does not happen again"}
}

// Gap is what becomes of a refused position that the operator gave up.
type Gap struct {
	Start pglogrepl.LSN // where streaming resumes
	// From is where the last event ended that is known to be published and to
	// be of this server's history; 0: not known. What lies between it and Start
	// is skipped.
	From pglogrepl.LSN
}

// AcceptGap decides where to resume on a server whose slot is usable, although
// Resume refuses the position.
func AcceptGap(stored *Position, server Server) Gap {
	at := server.Slot.ConfirmedFlush
	if stored == nil || stored.SystemID != server.SystemID || stored.Slot != server.SlotName {
		return Gap{Start: at}
	}
	from := stored.LSN
	if stored.Timeline != server.Timeline {
		left, known := server.Switches[stored.Timeline]
		if !known {
			return Gap{Start: at}
		}
		// What was published before the timeline switch point is of both.
		from = min(from, left)
	}
	if from > server.FlushLSN {
		return Gap{Start: at} // the timeline switch point is not known
	}
	return Gap{Start: max(at, from), From: from}
}

func storedLSN(p *Position) string {
	if p == nil {
		return "an unknown position"
	}
	return p.String()
}

func switchText(lsn pglogrepl.LSN, known bool) string {
	if !known {
		return "an unknown position"
	}
	return lsn.String()
}
