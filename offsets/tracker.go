package offsets

import (
	"sync"
	"sync/atomic"

	"github.com/jackc/pglogrepl"
)

// Confirmed is a position up to which everything was acknowledged by Kafka, so
// that PostgreSQL may forget the WAL before it. Its zero value means "nothing";
// only this package can make another.
type Confirmed struct {
	lsn pglogrepl.LSN
}

// LSN returns the position; 0 means nothing is confirmed.
func (c Confirmed) LSN() pglogrepl.LSN { return c.lsn }

// Tracker finds the newest position before which everything is acknowledged.
//
// It counts by transaction, because the end of a transaction is the only legal
// place to resume. Transactions are opened and ended by one goroutine, in commit
// order; their events are acknowledged from any goroutine, in any order.
type Tracker struct {
	// open is the transaction whose commit has not been read yet. It belongs
	// to the goroutine that opens and ends transactions.
	open *Transaction

	mu        sync.Mutex
	confirmed pglogrepl.LSN
	failed    bool
	// queue holds the transactions from the oldest unconfirmed one on, in
	// commit order; queue[head:] is in use.
	queue []*Transaction
	head  int
	free  []*Transaction
	// drained is non-nil while someone waits for an empty queue.
	drained chan struct{}
}

// Transaction is the acknowledgement count of one transaction.
// Add and Commit belong to the goroutine that called Tracker.Begin.
type Transaction struct {
	tracker *Tracker
	// pending counts events not yet acknowledged, and one more for the commit
	// not yet read, so that it cannot reach zero before the transaction ends.
	pending atomic.Int64

	// Guarded by tracker.mu.
	end  pglogrepl.LSN
	done bool
}

// NewTracker starts at a position that is known to be confirmed: the one the
// run resumes from.
func NewTracker(start pglogrepl.LSN) *Tracker {
	return &Tracker{confirmed: start}
}

// Begin opens the next transaction in commit order. The one before it must have
// been committed.
func (t *Tracker) Begin() *Transaction {
	if t.open != nil {
		panic("offsets: transaction opened inside another")
	}
	t.mu.Lock()
	var tx *Transaction
	if n := len(t.free); n > 0 {
		tx, t.free = t.free[n-1], t.free[:n-1]
	} else {
		tx = &Transaction{tracker: t}
	}
	tx.end, tx.done = 0, false
	tx.pending.Store(1)
	t.push(tx)
	t.mu.Unlock()
	t.open = tx
	return tx
}

// Add announces one more event. It must be called before the event is handed to
// whoever acknowledges it.
func (tx *Transaction) Add() { tx.pending.Add(1) }

// Acknowledge says that Kafka has acknowledged one event. Any goroutine may call
// it, once for each Add.
func (tx *Transaction) Acknowledge() { tx.settle() }

// Withdraw takes back an Add whose event was not handed over after all.
func (tx *Transaction) Withdraw() { tx.settle() }

// Commit ends the transaction. end is the position just after its commit
// record, Commit.TransactionEndLSN in pgoutput.
func (tx *Transaction) Commit(end pglogrepl.LSN) {
	t := tx.tracker
	t.open = nil
	t.mu.Lock()
	tx.end = end
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
		if oldest.end == 0 {
			// Drained gave it up: its rest was never read, so that no position
			// behind it is safe, whoever names one.
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
	if newest := t.queue[len(t.queue)-1]; newest.end != 0 && end > newest.end {
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
	return Confirmed{lsn: t.confirmed}
}

// Unconfirmed returns the number of transactions that are not confirmed yet.
func (t *Tracker) Unconfirmed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) - t.head
}

// Drained returns a channel that is closed when every event is acknowledged.
// It is called by the goroutine that opens transactions, after the last one. A
// transaction whose commit was never read is given up by this call: its
// acknowledgements still count, but nothing behind it is confirmed any more.
func (t *Tracker) Drained() <-chan struct{} {
	if tx := t.open; tx != nil {
		tx.Commit(0)
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

// advance moves the confirmed position forward. The caller holds mu.
func (t *Tracker) advance(end pglogrepl.LSN) {
	if end > t.confirmed && !t.failed {
		t.confirmed = end
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
