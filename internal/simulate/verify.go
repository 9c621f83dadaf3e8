package simulate

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/offsets"
)

// verifier knows what was committed and reads what Kafka holds, and holds the one to
// the other: whenever PostgreSQL is told a position, whenever one is stored, when a
// stream begins, and after each step of a seed.
type verifier struct {
	w *world
	// exactly: a reader of committed records sees each event once.
	exactly bool

	mu     sync.Mutex
	reader *reader
	first  error // the first promise that was broken
	// rows by id; keys are those of one key and topic in commit order.
	rows map[string]*seenRow
	keys map[string][]*seenRow
	at   map[string]int // the index of each key's record that came last
	part map[string]int32
	// txs are in commit order; those before head are delivered as a whole.
	txs      []*transaction
	head     int
	timeline int32
	left     map[int32]pglogrepl.LSN // where the timelines before it ended
	// arrivals counts records, repeats those that had come before. faults says that
	// something has happened after which a suffix may repeat.
	arrivals, repeats int
	faults            bool
	// overlap says that two processes have run at the same time, without transactions.
	// What the one has sent when it loses the slot can arrive among the events of the
	// other: a repetition need not be a suffix then.
	overlap  bool
	accepted bool // an operator has accepted a gap
	refused  bool // a process has refused a position for a reason, which nobody has accepted yet
	// clean is arrivals at a clean stop, and cleanFrom at the start of the process:
	// what has come between is not repeated. 0: it may be.
	cleanFrom, clean int
	// unknown is arrivals at a start that was accepted on such a history, where what ends
	// after unknownFrom may repeat.
	unknown     int
	unknownFrom pglogrepl.LSN
	// refusable says that a start may refuse the position: the server has lost its
	// slot, or some of its history, and no position of the new one is stored.
	refusable bool
	refusals  int           // how often it became so
	made      pglogrepl.LSN // where the slot was made of a standby that had none
	// owners are the processes that have claimed the position in Kafka.
	owners map[string]bool
	// saved are the positions that were stored, the oldest first: see old.
	saved []saved
	// remembered says that a position was ever stored besides the slot.
	remembered bool
}

// seenRow is an outbox row, and what was seen of it.
type seenRow struct {
	*row
	tx      *transaction
	index   int // in its key
	arrived int // the last time, 0: never
	// snapshots are its positions in backfills.
	snapshots []string
}

func newVerifier(w *world, exactly bool) *verifier {
	return &verifier{w: w, exactly: exactly, timeline: 1, rows: make(map[string]*seenRow), keys: make(map[string][]*seenRow),
		at: make(map[string]int), left: make(map[int32]pglogrepl.LSN), part: make(map[string]int32), owners: make(map[string]bool)}
}

// broken notes that a promise is broken. The caller holds mu.
func (v *verifier) broken(format string, args ...any) {
	if v.first == nil {
		v.first = fmt.Errorf(format, args...)
		v.w.note("BROKEN: %v", v.first)
	}
}

// breaks is broken, of who does not hold mu.
func (v *verifier) breaks(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.broken(format, args...)
}

func (v *verifier) err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.first
}

// written notes rows before their transaction ends.
func (v *verifier) written(tx *transaction, rows []*row) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range rows {
		v.rows[r.id] = &seenRow{row: r, tx: tx}
	}
}

// committed notes a transaction. It is called in commit order.
func (v *verifier) committed(tx *transaction) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.txs = append(v.txs, tx)
	for _, r := range tx.rows {
		s := v.rows[r.id]
		key := s.order()
		s.index = len(v.keys[key])
		v.keys[key] = append(v.keys[key], s)
	}
}

// promoted notes that the server is another one, on a new timeline that begins at cut and
// lacks the newest transactions; had is how far a server that was reached had come.
func (v *verifier) promoted(cut, had pglogrepl.LSN, txs []*transaction) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if had > cut {
		v.refusable = true
		v.refusals++
	}
	for _, tx := range txs {
		tx.lost, tx.had = true, tx.end <= had
	}
	v.left[v.timeline] = cut
	for left, at := range v.left {
		v.left[left] = min(at, cut) // of one that is no ancestor nothing is left
	}
	v.txs = v.txs[:len(v.txs)-len(txs)]
	v.head = min(v.head, len(v.txs))
	v.timeline++
}

// reached notes that another standby is reached, and whether it has a slot. Where it has
// none, a position is refused until one is stored that its new slot has.
func (v *verifier) reached(has bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.made = 0; has {
		return
	}
	v.refusable, v.made = true, math.MaxUint64
	v.refusals++
}

// excuse gives up what was committed before a position and has not arrived. The caller
// holds mu.
func (v *verifier) excuse(at pglogrepl.LSN) {
	for _, tx := range v.txs[v.head:] {
		if tx.commit < at && tx.unseen > 0 {
			tx.excused = true
		}
	}
}

// madeSlot notes that a process has made the slot: because nothing says that there was
// one, or because the operator has accepted that what lies between is lost. With the
// slot as the only store a process that starts cannot know. With another, it has to see
// before it streams what was stored until now.
func (v *verifier) madeSlot(p *process, at pglogrepl.LSN) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sync()
	v.made = min(v.made, at)
	switch {
	case p.accepts:
	case p.streamed:
		v.broken("%s makes the slot again in silence", p.name)
	case v.remembered:
		return // what lies between is excused when the operator says so
	}
	v.excuse(at)
}

// started notes that a stream begins.
func (v *verifier) started(p *process, from *slot, at pglogrepl.LSN) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p.streamed, p.at, p.falls = true, from, v.w.falls
	if p.accepts {
		v.clean, v.accepted = 0, true
		v.excuse(at)
		if v.w.o.hosts > 0 {
			// The stored position may be on a history that this server knows nothing of,
			// not even where it left it: all that it has is published then.
			v.unknown, v.unknownFrom = v.arrivals, at
		}
		return
	}
	v.sync()
	v.safe(at, "%s starts at %s", p.name, at)
}

// begun notes that a session has begun. Where positions are kept in Kafka, the process
// has claimed them by then: with what it writes and others write later, only that says
// whose counts.
func (v *verifier) begun(p *process) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p.accepts {
		p.accepts, v.refused = false, false
	}
	if v.sync(); p.owner != "" && !v.owners[p.owner] {
		v.broken("%s streams and has not claimed the position", p.name)
	}
}

// told is told of each status update, and of what the slot has and where the WAL ends.
func (v *verifier) told(written, flushed, applied, has, end pglogrepl.LSN) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if flushed > end {
		v.broken("PostgreSQL is told %s, and its WAL ends at %s", flushed, end)
	}
	v.sync()
	for _, lsn := range []pglogrepl.LSN{written, flushed, applied} {
		v.safe(lsn, "PostgreSQL is told %s", lsn)
	}
	if flushed > has {
		v.old(flushed)
	}
}

// stored is told of each position that is stored, and when that was begun.
func (v *verifier) stored(p offsets.Position, at time.Time, by string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sync()
	v.safeStored(p, by)
	v.saved = append(v.saved, saved{p.LSN, at})
}

func (v *verifier) safeStored(p offsets.Position, by string) {
	v.remembered = true
	if left, past := v.left[p.Timeline]; past && (p.LSN > left || p.Inside.CommitLSN >= left) {
		return // it may be of what was lost
	}
	if p.Timeline == v.timeline && p.LSN >= v.made {
		v.refusable = false
	}
	v.safe(p.LSN, "%s is stored by %s", p, by)
	if p.Inside == (offsets.Event{}) {
		return
	}
	v.safe(p.Inside.CommitLSN, "%s is stored by %s", p, by)
	for _, tx := range v.txs[v.head:] {
		if tx.commit != p.Inside.CommitLSN || !tx.expected() {
			continue
		}
		for tx.whole < len(tx.rows) && v.rows[tx.rows[tx.whole].id].arrived > 0 {
			tx.whole++ // a transaction can be large, and have many positions in it
		}
		if tx.whole < min(len(tx.rows), int(p.Inside.Number)) {
			v.broken("position %s is stored by %s, and event %s of it has not arrived", p, by, tx.position(tx.rows[tx.whole]))
		}
	}
}

// safe holds that everything before a position has arrived. The caller holds mu.
func (v *verifier) safe(at pglogrepl.LSN, format string, args ...any) {
	if tx := v.oldest(); tx != nil && tx.commit < at {
		v.broken("%s, and of the transaction committed at %s %d of %d events have not arrived", fmt.Sprintf(format, args...), tx.commit, tx.unseen, len(tx.rows))
	}
}

// oldest returns the first transaction that is expected and not delivered as a whole.
// The caller holds mu.
func (v *verifier) oldest() *transaction {
	for v.head < len(v.txs) && (v.txs[v.head].unseen == 0 || !v.txs[v.head].expected()) {
		v.head++
	}
	if v.head == len(v.txs) {
		return nil
	}
	return v.txs[v.head]
}

// delivered reports whether everything that is expected has arrived.
func (v *verifier) delivered() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sync()
	return v.oldest() == nil
}

// missing says what has not arrived.
func (v *verifier) missing() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	tx := v.oldest()
	if tx == nil {
		return "nothing"
	}
	return fmt.Sprintf("%d of %d events of the transaction committed at %s, and perhaps more", tx.unseen, len(tx.rows), tx.commit)
}
