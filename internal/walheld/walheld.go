// Package walheld says why PostgreSQL keeps WAL for a replication slot, in one
// sentence: what keeps it, since when, and what to do. It asks nobody; see
// replication.Observer.Slot for where the facts come from.
package walheld

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// Facts are what is known at one moment of a slot, of its server, and of outboxd. A
// zero value is not known, or is not so.
type Facts struct {
	Slot    string
	Missing bool   // there is no such slot
	Lost    string // why the slot can no longer be used: its wal_status or invalidation_reason

	// WAL from Restart on is kept. PostgreSQL decodes transactions that commit after
	// Confirmed, and writes at Written now.
	Restart, Confirmed, Written pglogrepl.LSN

	// Active says that a process streams from the slot; if none, Inactive is since
	// when.
	Active   bool
	Inactive time.Time
	// Standby says that the server is one: it takes no snapshot of its own.
	Standby bool

	// Stored is the position that outboxd has stored besides the slot, and Rewind the
	// setting of delivery.rewind, by which the slot is confirmed later.
	Stored pglogrepl.LSN
	Rewind string
	// Waits is why events do not get through, as outboxd says itself, and Unacked since
	// when Kafka acknowledges nothing although something is in flight.
	Waits   string
	Unacked time.Time
	// Topics are those of what is in flight.
	Topics []string
	// Busy is what the server does instead of sending, as outboxd says: a sentence.
	Busy string
	// StandbySlot is a physical slot of synchronized_standby_slots that the server
	// waits for before it sends.
	StandbySlot string

	// Oldest is the oldest transaction that has written something and is open.
	Oldest *Transaction
}

// Transaction is one that has not ended, of any database of the server.
type Transaction struct {
	PID         string
	Prepared    string // the gid, of a prepared transaction, which has no process
	Database    string
	User        string
	Application string
	State       string
	// Since is when it began and Open how long ago that was, by the server's clock;
	// zero: the role may not see it.
	Since time.Time
	Open  time.Duration
}

// Cause is the kind of a reason.
type Cause string

// The causes. Programs and metrics know them by these names.
const (
	CauseNothing     Cause = "nothing"     // what is kept is on its way
	CauseMissing     Cause = "missing"     // there is no slot
	CauseLost        Cause = "lost"        // the slot is invalidated
	CauseUnattended  Cause = "unattended"  // nobody streams from the slot
	CauseKafka       Cause = "kafka"       // it acknowledges nothing
	CauseWaits       Cause = "waits"       // outboxd waits for something else
	CauseStandby     Cause = "standby"     // of synchronized_standby_slots
	CauseRewind      Cause = "rewind"      // delivery.rewind
	CauseDecoding    Cause = "decoding"    // the server decodes a large transaction
	CauseBehind      Cause = "behind"      // outboxd has not delivered it yet
	CauseTransaction Cause = "transaction" // that is open
	CausePrepared    Cause = "prepared"    // transaction
	CauseSnapshot    Cause = "snapshot"    // of running transactions, that the server has not taken
)

// Causes are all of them.
func Causes() []Cause {
	return []Cause{CauseNothing, CauseMissing, CauseLost, CauseUnattended, CauseKafka, CauseWaits, CauseStandby, CauseRewind,
		CauseDecoding, CauseBehind, CauseTransaction, CausePrepared, CauseSnapshot}
}

// Reason is why PostgreSQL keeps WAL for a slot.
type Reason struct {
	Cause Cause
	// About tells reasons of one cause apart: the process ID of a transaction, the name
	// of a standby's slot. What only grows, such as a size, is not in it.
	About string
	// Text is the sentence, without a full stop.
	Text string
}

// Same reports whether r is still the reason that o was.
func (r Reason) Same(o Reason) bool { return r.Cause == o.Cause && r.About == o.About }

// Before returns how many bytes of WAL are kept that lie before the confirmed position:
// for transactions that were open there. After returns how many lie behind it: they are
// kept for outboxd.
func (f Facts) Before() int64 { return distance(f.Restart, f.Confirmed) }

// After is explained at Before.
func (f Facts) After() int64 { return distance(f.Confirmed, f.Written) }

const (
	// little is what is kept in any case, whatever anybody does: the server goes on
	// to newer WAL in steps, of running transactions that it logs every 15 s, and of
	// segments. On an idle server it is far less.
	little = 32 << 20
	// long is how long a transaction is open that is not an ordinary one.
	long = 10 * time.Second
)

// Nothing is the sentence where nothing holds WAL but what is on its way.
const Nothing = "nothing holds WAL: what PostgreSQL keeps is on its way"

// Why returns the reason.
func Why(f Facts) Reason {
	switch {
	case f.Missing:
		return Reason{CauseMissing, "", fmt.Sprintf("no WAL is held: there is no slot %q; `outboxd init` or `outboxd run` make it", f.Slot)}
	case f.Lost != "":
		return Reason{CauseLost, f.Lost, fmt.Sprintf("no WAL is held: PostgreSQL has invalidated slot %q (%s); it cannot be streamed from again", f.Slot, f.Lost)}
	}
	before, after := f.Before(), f.After()
	if before > after {
		if reason := f.transaction(before); reason.Text != "" {
			return reason
		}
	}
	if reason := f.ours(after); reason.Text != "" {
		return reason
	}
	if reason := f.transaction(before); reason.Text != "" {
		return reason
	}
	switch {
	case f.Standby && before > little:
		return Reason{CauseSnapshot, "", "the primary has not logged its running transactions for a while: PostgreSQL keeps WAL until it does; SELECT pg_log_standby_snapshot() on the primary does so at once"}
	case before > little:
		return Reason{CauseSnapshot, "", fmt.Sprintf("transactions that were open at %s, or a snapshot of them that is not taken yet: %s before the confirmed position; PostgreSQL releases them after its next checkpoint", f.Restart, Size(before))}
	}
	return Reason{Cause: CauseNothing, Text: Nothing}
}

// ours is why WAL behind the confirmed position is kept.
func (f Facts) ours(after int64) Reason {
	switch {
	case !f.Active && f.Waits != "":
		return Reason{CauseUnattended, f.Waits, "nobody streams from the slot" + since(f.Inactive) + ": " + f.Waits}
	case !f.Active:
		return Reason{CauseUnattended, "", "nobody streams from the slot" + since(f.Inactive) + "; start `outboxd run` (if it stopped by itself, its last line says why), or, if no event waits for it any more, drop the slot: SELECT pg_drop_replication_slot('" +
			strings.ReplaceAll(f.Slot, "'", "''") + "')"}
	case f.Waits != "" && !f.Unacked.IsZero():
		return Reason{CauseKafka, f.Waits, "Kafka acknowledges nothing" + on(f.Topics) + since(f.Unacked) + ": " + f.Waits}
	case f.Waits != "":
		return Reason{CauseWaits, f.Waits, "outboxd waits: " + f.Waits}
	case f.StandbySlot != "":
		return Reason{CauseStandby, f.StandbySlot, fmt.Sprintf("PostgreSQL sends nothing before the standby behind slot %q has it (synchronized_standby_slots); start that standby, or take the slot out of the setting", f.StandbySlot)}
	case f.Rewind != "" && f.Stored > f.Confirmed:
		return Reason{CauseRewind, "", "delivery.rewind " + f.Rewind + " holds it back on purpose: everything up to " + f.Stored.String() + " is delivered"}
	case after > little && f.Busy != "":
		return Reason{CauseDecoding, "", f.Busy}
	case after > little:
		return Reason{CauseBehind, "", fmt.Sprintf("outboxd has not delivered it yet: it is %s behind, or inside a large transaction", Size(after))}
	}
	return Reason{}
}

// transaction is why WAL before the confirmed position is kept.
func (f Facts) transaction(before int64) Reason {
	t := f.Oldest
	if t == nil || before <= 0 || t.Open < long && (t.Open != 0 || before < little) {
		return Reason{}
	}
	var details []string
	for _, d := range []struct{ name, value string }{{"application ", t.Application}, {"user ", t.User}, {"database ", t.Database}, {"", t.State}} {
		if d.value != "" {
			details = append(details, d.name+d.value)
		}
	}
	if t.Open == 0 {
		details = append(details, "since when, this role may not see: grant it pg_read_all_stats")
	}
	who := ""
	if details != nil {
		who = " (" + strings.Join(details, ", ") + ")"
	}
	if t.Prepared != "" {
		quoted := "'" + strings.ReplaceAll(t.Prepared, "'", "''") + "'"
		return Reason{CausePrepared, t.Prepared, fmt.Sprintf("the prepared transaction %s%s%s has not ended; end it: COMMIT PREPARED or ROLLBACK PREPARED %s", quoted, since(t.Since), who, quoted)}
	}
	return Reason{CauseTransaction, t.PID, fmt.Sprintf("a transaction is open%s by pid %s%s; end it: SELECT pg_terminate_backend(%s)", since(t.Since), t.PID, who, t.PID)}
}

// on names topics in a sentence, "" where there are none.
func on(topics []string) string {
	switch n := len(topics); n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf(" on topic %q", topics[0])
	default:
		return fmt.Sprintf(" on topic %q and %d more", topics[0], n-1)
	}
}

// since is a moment in a sentence, "" where it is not known.
func since(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return " since " + at.UTC().Format("2006-01-02 15:04:05 UTC")
}

// distance is 0 where a position is not known.
func distance(from, to pglogrepl.LSN) int64 {
	if from == 0 || to <= from {
		return 0
	}
	return int64(to - from)
}

// Size returns bytes for people.
func Size(bytes int64) string {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.bytes {
			return fmt.Sprintf("%.1f %s", float64(bytes)/float64(unit.bytes), unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}
