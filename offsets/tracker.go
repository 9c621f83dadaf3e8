package offsets

import (
	"sync"
	"sync/atomic"

	"github.com/jackc/pglogrepl"
)

// Confirmed is a position up to which everything was acknowledged by Kafka, so
// that PostgreSQL can recycle the WAL before it. Its zero value means "nothing";
// only this package can make another.
type Confirmed struct {
	lsn   pglogrepl.LSN
	event Event
}

// LSN returns the position that may be confirmed to PostgreSQL, the end of a whole
// transaction; 0 means nothing is confirmed.
func (c Confirmed) LSN() pglogrepl.LSN { return c.lsn }

// Event returns the last event of the transaction behind LSN up to which
// everything was acknowledged, or zero when that is none. PostgreSQL knows
// nothing so fine; a store does.
func (c Confirmed) Event() Event { return c.event }

// Tracker finds the newest position before which everything is acknowledged.
//
// It counts by transaction, because the end of a transaction is the only place
// at which PostgreSQL can resume. A large one is counted in parts, so that what
// is delivered of it is known without an entry for each event. Transactions are
// opened and ended by one goroutine, in commit order; their events are
// acknowledged from any goroutine, in any order.
type Tracker struct {
	// open is the last part of the transaction whose commit has not been read
	// yet. It belongs to the goroutine that opens and ends transactions.
	open *Transaction
	// partSize is how many events a part counts.
	partSize int

	mu        sync.Mutex
	confirmed pglogrepl.LSN
	inside    Event // delivered of the transaction behind confirmed
	failed    bool
	// queue holds the parts from the oldest unconfirmed one on, in commit
	// order; queue[head:] is in use.
	queue []*Transaction
	head  int
	free  []*Transaction
	// drained is non-nil while someone waits for an empty queue.
	drained chan struct{}
}

// partSize bounds how many events of a large transaction are repeated although
// they were acknowledged. Smaller parts cost more of the lock.
const partSize = 256

// Transaction is the acknowledgement count of one transaction, or of a part of
// a large one. Add, Withdraw and Commit belong to the goroutine that called
// Tracker.Begin.
type Transaction struct {
	tracker *Tracker
	// pending counts events not yet acknowledged, and one more for the end of
	// the part, so that it cannot reach zero before that.
	pending atomic.Int64

	// Of the goroutine that adds: how many events were added, the last of them,
	// and the one before.
	added        int
	last, before Event
	// ended says that the part counts no further events.
	ended bool

	// Guarded by tracker.mu.
	end  pglogrepl.LSN // of the transaction, 0 when it does not end here
	upTo Event         // the last event, once the part has ended
	done bool
	// abandoned says that the rest of the transaction was never read.
	abandoned bool
}

// NewTracker starts at a position that is known to be confirmed: the one the
// run resumes from.
func NewTracker(start pglogrepl.LSN) *Tracker { return NewTrackerInside(start, Event{}) }

// NewTrackerInside starts inside a transaction behind start, of which the events
// up to inside were delivered before. They are not added again.
func NewTrackerInside(start pglogrepl.LSN, inside Event) *Tracker {
	return &Tracker{partSize: partSize, confirmed: start, inside: inside}
}

// Begin opens the next transaction in commit order. The one before it must have
// been committed.
func (t *Tracker) Begin() *Transaction {
	if t.open != nil {
		panic("offsets: transaction opened inside another")
	}
	t.open = t.part()
	return t.open
}

// part appends a part to the queue.
func (t *Tracker) part() *Transaction {
	t.mu.Lock()
	defer t.mu.Unlock()
	var tx *Transaction
	if n := len(t.free); n > 0 {
		tx, t.free = t.free[n-1], t.free[:n-1]
	} else {
		tx = &Transaction{tracker: t}
	}
	tx.added, tx.last, tx.before, tx.ended = 0, Event{}, Event{}, false
	tx.end, tx.upTo, tx.done, tx.abandoned = 0, Event{}, false, false
	tx.pending.Store(1)
	t.push(tx)
	return tx
}

// Add announces one more event, and returns the part of the transaction that
// counts it: its acknowledgement goes there, and so does the next call. It must
// be called before the event is handed to whoever acknowledges it.
func (tx *Transaction) Add(ev Event) *Transaction {
	if tx.ended || tx.added == tx.tracker.partSize {
		tx.tracker.Cut()
		tx = tx.tracker.part()
		tx.tracker.open = tx
	}
	tx.added++
	tx.before, tx.last = tx.last, ev
	tx.pending.Add(1)
	return tx
}

// Acknowledge says that Kafka has acknowledged one event. Any goroutine may call
// it, once for each Add.
func (tx *Transaction) Acknowledge() { tx.settle() }

// Withdraw takes back the Add just made: its event was not handed over after all.
func (tx *Transaction) Withdraw() {
	tx.added--
	tx.last = tx.before
	tx.settle()
}

// Commit ends the transaction. end is the position just after its commit
// record, Commit.TransactionEndLSN in pgoutput.
func (tx *Transaction) Commit(end pglogrepl.LSN) { tx.finish(end, false) }

func (tx *Transaction) finish(end pglogrepl.LSN, abandoned bool) {
	t := tx.tracker
	if tx.ended {
		tx = t.part()
	}
	t.open = nil
	t.mu.Lock()
	tx.end, tx.upTo, tx.abandoned = end, tx.last, abandoned
	t.mu.Unlock()
	tx.settle()
}

// Cut ends the part that is counted now: when all that was added before is
// acknowledged, the confirmed position is that of the last event added. It is
// called by the goroutine that adds, or while that one is kept from it.
func (t *Tracker) Cut() {
	tx := t.open
	if tx == nil || tx.ended || tx.added == 0 {
		return
	}
	tx.ended = true
	t.mu.Lock()
	tx.upTo = tx.last
	t.mu.Unlock()
	tx.settle()
}

func (tx *Transaction) settle() {
	switch n := tx.pending.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("offsets: more acknowledgements than events")
	}
	t := tx.tracker
	t.mu.Lock()
	defer t.mu.Unlock()
	tx.done = true
	for t.head < len(t.queue) && t.queue[t.head].done {
		oldest := t.queue[t.head]
		t.queue[t.head] = nil
		t.head++
		t.reach(oldest.upTo)
		if oldest.abandoned {
			// Its rest was never read, so that no position behind it is safe,
			// whoever names one.
			t.failed = true
		}
		t.advance(oldest.end)
		t.free = append(t.free, oldest)
	}
	if t.head == len(t.queue) {
		t.queue, t.head = t.queue[:0], 0
		if t.drained != nil {
			close(t.drained)
			t.drained = nil
		}
	}
}

// Idle takes note of a keepalive: everything before end was either sent or was
// of no interest. It counts as an empty transaction, confirmed when everything
// before it is. Inside a transaction it says nothing that the transaction's end
// will not say, and is ignored.
func (t *Tracker) Idle(end pglogrepl.LSN) {
	if t.open != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.head == len(t.queue) {
		t.advance(end)
		return
	}
	// An empty transaction behind the newest one is acknowledged exactly when
	// that one is, so the newest one can carry its position.
	// (One that Drained gave up must not be given a position.)
	if newest := t.queue[len(t.queue)-1]; !newest.abandoned && end > newest.end {
		newest.end = end
	}
}

// Fail stops confirmation for good: after a delivery that failed, no later one
// can make the gap safe. Any goroutine may call it.
func (t *Tracker) Fail() {
	t.mu.Lock()
	t.failed = true
	t.mu.Unlock()
}

// Confirmed returns the newest safe position. Any goroutine may call it.
func (t *Tracker) Confirmed() Confirmed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Confirmed{lsn: t.confirmed, event: t.inside}
}

// Unconfirmed returns the number of transactions that are not confirmed yet, a
// large one counting for more.
func (t *Tracker) Unconfirmed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) - t.head
}

// Drained returns a channel that is closed when every event is acknowledged.
// It is called by the goroutine that opens transactions, after the last one. A
// transaction whose commit was never read is abandoned by this call: its
// acknowledgements still count, but nothing behind it is confirmed any more.
func (t *Tracker) Drained() <-chan struct{} {
	if tx := t.open; tx != nil {
		tx.finish(0, true)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drained == nil {
		t.drained = make(chan struct{})
		if t.head == len(t.queue) {
			closed := t.drained
			t.drained = nil
			close(closed)
			return closed
		}
	}
	return t.drained
}

// advance moves the confirmed position forward to the end of a transaction. The
// caller holds mu.
func (t *Tracker) advance(end pglogrepl.LSN) {
	if end > t.confirmed && !t.failed {
		t.confirmed = end
		if t.inside.CommitLSN < end {
			t.inside = Event{} // of a whole transaction now
		}
	}
}

// reach moves the confirmed position forward inside a transaction. The caller
// holds mu.
func (t *Tracker) reach(ev Event) {
	if ev.After(t.inside) && ev.CommitLSN >= t.confirmed && !t.failed {
		t.inside = ev
	}
}

// push appends to the queue, and first closes the space before head when it has
// grown to half of the queue, so that the queue's length is bounded by the
// number of unconfirmed transactions. The caller holds mu.
func (t *Tracker) push(tx *Transaction) {
	if t.head > 32 && t.head >= len(t.queue)/2 {
		n := copy(t.queue, t.queue[t.head:])
		clear(t.queue[n:])
		t.queue, t.head = t.queue[:n], 0
	}
	t.queue = append(t.queue, tx)
}
