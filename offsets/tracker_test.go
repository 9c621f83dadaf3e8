package offsets

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pglogrepl"
)

const testStart = pglogrepl.LSN(1000)

// model is the Tracker as one would explain it: the list of everything that
// happened, searched from its beginning every time.
type model struct {
	start   pglogrepl.LSN
	entries []*modelEntry
	frozen  *Confirmed // what was confirmed when a delivery failed
}

// modelEntry is a transaction, or a keepalive that came between two.
type modelEntry struct {
	commitLSN pglogrepl.LSN
	acked     []bool // by number, from 1 at 0: whether the event is acknowledged
	committed bool
	givenUp   bool
	end       pglogrepl.LSN
}

func (e *modelEntry) event(n int) Event {
	if n == 0 {
		return Event{}
	}
	return Event{CommitLSN: e.commitLSN, Number: uint32(n)}
}

// prefix is how many events are acknowledged without a gap.
func (e *modelEntry) prefix() int {
	for n, acked := range e.acked {
		if !acked {
			return n
		}
	}
	return len(e.acked)
}

// confirmed is the highest end in the longest prefix that is acknowledged in
// full.
func (m *model) confirmed() pglogrepl.LSN {
	if m.frozen != nil {
		return m.frozen.lsn
	}
	at := m.start
	for _, e := range m.entries {
		if !e.whole() {
			break
		}
		at = max(at, e.end)
	}
	return at
}

func (e *modelEntry) whole() bool {
	return e.committed && !e.givenUp && e.prefix() == len(e.acked)
}

// inside is the first transaction that is not whole, nil when there is none: the
// finer position lies in it, and not beyond its first gap.
func (m *model) inside() *modelEntry {
	for _, e := range m.entries {
		if !e.whole() {
			return e
		}
	}
	return nil
}

// drained tells whether nothing is waiting for an acknowledgement or a commit.
func (m *model) drained() bool {
	for _, e := range m.entries {
		if e.prefix() < len(e.acked) || !e.committed && !e.givenUp {
			return false
		}
	}
	return true
}

// script drives a Tracker and its model with the same operations and compares
// them after each.
type script struct {
	t       *testing.T
	tracker *Tracker
	model   model
	log     []string

	now   pglogrepl.LSN
	open  *scriptTx
	inFly []flying
	last  Confirmed
	added bool // the last operation added an event
	// cut is the event that the newest Cut was behind.
	cut Event
}

// scriptTx is an open transaction and the part that counts now.
type scriptTx struct {
	*Transaction
	entry *modelEntry
}

// flying is an event that is not acknowledged.
type flying struct {
	part  *Transaction
	entry *modelEntry
	n     int // its number
}

// testPart is the size of the parts in scripts.
const testPart = 3

func newScript(t *testing.T) *script {
	tracker := NewTracker(testStart)
	tracker.partSize = testPart
	return &script{t: t, tracker: tracker, model: model{start: testStart}, now: testStart, last: tracker.Confirmed()}
}

// do runs the operation that op selects; arg decides about its details. An
// operation that is not allowed now is left out, so that any bytes are a script.
func (s *script) do(op, arg byte) {
	defer func() { s.added = op%10 == 2 || op%10 == 3 }()
	switch op % 10 {
	case 0, 1:
		if s.open != nil {
			return
		}
		s.note("begin")
		s.open = &scriptTx{s.tracker.Begin(), &modelEntry{commitLSN: s.tick(arg)}}
		s.model.entries = append(s.model.entries, s.open.entry)
	case 2, 3:
		if s.open == nil {
			op = 0
			return
		}
		e := s.open.entry
		s.note("add %d", len(e.acked)+1)
		e.acked = append(e.acked, false)
		s.open.Transaction = s.open.Add(e.event(len(e.acked)))
		s.inFly = append(s.inFly, flying{s.open.Transaction, e, len(e.acked)})
	case 4:
		if s.open == nil {
			return
		}
		end := s.tick(arg)
		s.note("commit %d", end)
		s.open.entry.committed, s.open.entry.end = true, end
		s.open.Commit(end)
		s.open = nil
	case 5, 6:
		if len(s.inFly) == 0 {
			return
		}
		s.acknowledge(int(arg) % len(s.inFly))
	case 7:
		// Only the event just added can be withdrawn: it was not handed over.
		if n := len(s.inFly); s.added {
			e := s.open.entry
			s.note("withdraw %d", len(e.acked))
			s.inFly = s.inFly[:n-1]
			e.acked = e.acked[:len(e.acked)-1]
			s.open.Withdraw()
		}
	case 9:
		s.note("cut")
		s.tracker.Cut()
		if s.open != nil && len(s.open.entry.acked) > 0 {
			s.cut = s.open.entry.event(len(s.open.entry.acked))
		}
	case 8:
		// A keepalive may repeat a position that was named before.
		end := s.now
		if arg%4 != 0 {
			end = s.tick(arg)
		}
		if arg%16 == 15 {
			end = testStart - 1
		}
		s.note("idle %d", end)
		s.tracker.Idle(end)
		if s.open == nil {
			s.model.entries = append(s.model.entries, &modelEntry{committed: true, end: end})
		}
	}
	s.check()
}

func (s *script) acknowledge(i int) {
	e := s.inFly[i]
	s.note("acknowledge %v, %d left", e.entry.event(e.n), len(s.inFly)-1)
	s.inFly = append(s.inFly[:i], s.inFly[i+1:]...)
	e.entry.acked[e.n-1] = true
	e.part.Acknowledge()
}

func (s *script) fail() {
	s.note("fail")
	at := s.tracker.Confirmed()
	s.model.frozen = &at
	s.tracker.Fail()
	s.check()
}

// finish drains: what is open is given up, the rest is acknowledged in the order
// that pick chooses.
func (s *script) finish(pick func(n int) int) {
	s.note("drained")
	drained := s.tracker.Drained()
	if s.open != nil {
		s.open.entry.givenUp = true
		s.open = nil
	}
	for {
		s.check()
		if got := isClosed(drained); got != s.model.drained() {
			s.fatalf("drained channel closed: %t, want %t", got, !got)
		}
		s.note("idle after the last transaction")
		end := s.tick(0)
		s.tracker.Idle(end)
		s.model.entries = append(s.model.entries, &modelEntry{committed: true, end: end})
		s.check()
		if len(s.inFly) == 0 {
			break
		}
		s.acknowledge(pick(len(s.inFly)))
	}
	if n := s.tracker.Unconfirmed(); n != 0 {
		s.fatalf("%d transactions unconfirmed at the end", n)
	}
	if !isClosed(s.tracker.Drained()) {
		s.fatalf("a tracker with nothing in flight is not drained")
	}
}

func (s *script) tick(arg byte) pglogrepl.LSN {
	s.now += 1 + pglogrepl.LSN(arg)
	return s.now
}

func (s *script) check() {
	got, want := s.tracker.Confirmed(), s.model.confirmed()
	if got.lsn != want {
		s.fatalf("confirmed %d, want %d", got.lsn, want)
	}
	if got.lsn < s.last.lsn || got.lsn == s.last.lsn && s.last.event.After(got.event) {
		s.fatalf("confirmed went back from %v to %v", s.last, got)
	}
	s.last = got
	if s.model.frozen != nil {
		if got != *s.model.frozen {
			s.fatalf("confirmed %v after a failure at %v", got, *s.model.frozen)
		}
		return
	}
	s.checkInside(got)
}

// checkInside checks the position inside a transaction: never beyond the first
// gap, and not further behind it than a part, nor behind a cut.
func (s *script) checkInside(got Confirmed) {
	e := s.model.inside()
	if e == nil || e.commitLSN < got.lsn {
		if got.event != (Event{}) {
			s.fatalf("confirmed %v, with no transaction half delivered", got)
		}
		return
	}
	prefix := e.prefix()
	if got.event.After(e.event(prefix)) {
		s.fatalf("confirmed %v, the first gap is after event %d", got, prefix)
	}
	if got.event != (Event{}) && got.event.CommitLSN != e.commitLSN {
		s.fatalf("confirmed %v, the transaction at %d is half delivered", got, e.commitLSN)
	}
	if behind := prefix - int(got.event.Number); behind > testPart {
		s.fatalf("confirmed %v, %d events before the first gap", got, behind)
	}
	if s.cut.CommitLSN == e.commitLSN && int(s.cut.Number) <= prefix && s.cut.After(got.event) {
		s.fatalf("confirmed %v, everything up to the cut at %v is acknowledged", got, s.cut)
	}
	if e.givenUp && prefix == len(e.acked) && got.event != e.event(prefix) {
		s.fatalf("confirmed %v, all %d events of what was given up are acknowledged", got, prefix)
	}
}

func (s *script) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *script) fatalf(format string, args ...any) {
	s.t.Helper()
	for i, line := range s.log {
		s.t.Logf("%4d %s", i+1, line)
	}
	s.t.Fatalf(format, args...)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestTrackerAgainstModel(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		s := newScript(t)
		s.note("seed %d", seed)
		steps := rnd.IntN(300)
		failAt := -1
		if seed%4 == 0 {
			failAt = rnd.IntN(steps + 1)
		}
		// Some runs acknowledge rarely, so that much is in flight.
		lazy := seed%3 == 0
		for i := range steps {
			if i == failAt {
				s.fail()
			}
			op := byte(rnd.IntN(10))
			if lazy && (op == 5 || op == 6) && rnd.IntN(5) > 0 {
				continue
			}
			s.do(op, byte(rnd.Uint32()))
		}
		s.finish(rnd.IntN)
	}
}

// Much stays in flight while the oldest is acknowledged again and again, nearly
// in order: the queue moves on without ever being empty.
func TestTrackerAgainstModelUnderBacklog(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := newScript(t)
		s.note("seed %d", seed)
		for range 3000 {
			op := byte(rnd.IntN(10))
			if op == 5 || op == 6 {
				op = 0
			}
			s.do(op, byte(rnd.Uint32()))
			for len(s.inFly) > 100 {
				s.acknowledge(rnd.IntN(3))
				s.check()
			}
		}
		s.finish(rnd.IntN)
	}
}

func FuzzTracker(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 2, 4, 9, 0, 2, 4, 9, 5, 1, 5, 0, 8, 1})
	f.Add([]byte{0, 0, 2, 0, 2, 0, 4, 7, 8, 3, 5, 1, 0, 0, 2, 0, 7, 0, 5, 0, 8, 3})
	f.Add([]byte{0, 0, 2, 0, 9, 0, 5, 0, 4, 0})
	f.Add([]byte{0, 0, 2, 0, 2, 0, 9, 0, 2, 0, 5, 1, 5, 0, 9, 0, 7, 0, 4, 0})
	f.Add([]byte{0, 0, 2, 0, 2, 0, 2, 0, 2, 0, 5, 0, 5, 0, 5, 0, 2, 0, 2, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		s := newScript(t)
		for ; len(ops) >= 2; ops = ops[2:] {
			if ops[0] == 0xFF {
				s.fail()
				continue
			}
			s.do(ops[0], ops[1])
		}
		s.finish(func(n int) int { return n - 1 })
	})
}

func confirmed(t *testing.T, tr *Tracker, want pglogrepl.LSN) {
	t.Helper()
	if got := tr.Confirmed().LSN(); got != want {
		t.Errorf("confirmed %d, want %d", got, want)
	}
}

func TestTrackerStartsAtWhatIsConfirmed(t *testing.T) {
	tr := NewTracker(testStart)
	confirmed(t, tr, testStart)
	if n := tr.Unconfirmed(); n != 0 {
		t.Errorf("%d transactions unconfirmed", n)
	}
}

// oneEvent commits a transaction of one event.
func oneEvent(tr *Tracker, end pglogrepl.LSN) *Transaction {
	tx := tr.Begin()
	tx.Add(Event{})
	tx.Commit(end)
	return tx
}

func TestOnlyAContiguousPrefixIsConfirmed(t *testing.T) {
	tr := NewTracker(testStart)
	var txs []*Transaction
	for i := range 3 {
		txs = append(txs, oneEvent(tr, testStart+10*pglogrepl.LSN(i+1)))
	}
	txs[2].Acknowledge()
	txs[1].Acknowledge()
	confirmed(t, tr, testStart)
	if n := tr.Unconfirmed(); n != 3 {
		t.Errorf("%d transactions unconfirmed, want 3", n)
	}
	txs[0].Acknowledge()
	confirmed(t, tr, testStart+30)
	if n := tr.Unconfirmed(); n != 0 {
		t.Errorf("%d transactions unconfirmed, want 0", n)
	}
}

func TestEveryEventOfATransactionCounts(t *testing.T) {
	tr := NewTracker(testStart)
	tx := tr.Begin()
	tx.Add(Event{})
	tx.Acknowledge() // faster than the next row is read
	confirmed(t, tr, testStart)
	tx.Add(Event{})
	tx.Add(Event{})
	tx.Commit(testStart + 10)
	confirmed(t, tr, testStart)
	tx.Acknowledge()
	confirmed(t, tr, testStart)
	tx.Acknowledge()
	confirmed(t, tr, testStart+10)
}

func TestTransactionWithoutEvents(t *testing.T) {
	tr := NewTracker(testStart)
	tr.Begin().Commit(testStart + 10)
	confirmed(t, tr, testStart+10)
}

func TestWithdrawnEventDoesNotCount(t *testing.T) {
	tr := NewTracker(testStart)
	tx := tr.Begin()
	tx.Add(Event{})
	tx.Withdraw()
	tx.Commit(testStart + 10)
	confirmed(t, tr, testStart+10)
}

func TestIdle(t *testing.T) {
	t.Run("nothing in flight", func(t *testing.T) {
		tr := NewTracker(testStart)
		tr.Idle(testStart + 50)
		confirmed(t, tr, testStart+50)
		tr.Idle(testStart + 40)
		confirmed(t, tr, testStart+50)
	})
	t.Run("behind events in flight", func(t *testing.T) {
		tr := NewTracker(testStart)
		first, second := oneEvent(tr, testStart+10), oneEvent(tr, testStart+20)
		tr.Idle(testStart + 50)
		confirmed(t, tr, testStart)
		second.Acknowledge()
		confirmed(t, tr, testStart)
		first.Acknowledge()
		confirmed(t, tr, testStart+50)
	})
	t.Run("between two transactions", func(t *testing.T) {
		tr := NewTracker(testStart)
		first := oneEvent(tr, testStart+10)
		tr.Idle(testStart + 15)
		second := oneEvent(tr, testStart+20)
		first.Acknowledge()
		confirmed(t, tr, testStart+15)
		second.Acknowledge()
		confirmed(t, tr, testStart+20)
	})
	t.Run("behind a transaction acknowledged out of order", func(t *testing.T) {
		tr := NewTracker(testStart)
		first, second := oneEvent(tr, testStart+10), oneEvent(tr, testStart+20)
		second.Acknowledge()
		tr.Idle(testStart + 30)
		confirmed(t, tr, testStart)
		first.Acknowledge()
		confirmed(t, tr, testStart+30)
	})
	t.Run("inside a transaction", func(t *testing.T) {
		tr := NewTracker(testStart)
		tx := tr.Begin()
		tr.Idle(testStart + 50)
		confirmed(t, tr, testStart)
		tx.Add(Event{})
		tx.Acknowledge()
		tr.Idle(testStart + 50)
		confirmed(t, tr, testStart)
		tx.Commit(testStart + 10)
		confirmed(t, tr, testStart+10)
	})
}

func TestFailStopsConfirmationForGood(t *testing.T) {
	tr := NewTracker(testStart)
	first, second := oneEvent(tr, testStart+10), oneEvent(tr, testStart+20)
	first.Acknowledge()
	tr.Fail()
	confirmed(t, tr, testStart+10)
	second.Acknowledge()
	tr.Idle(testStart + 30)
	tr.Begin().Commit(testStart + 40)
	tr.Fail()
	confirmed(t, tr, testStart+10)
	// What waits for the end of the acknowledgements is still served.
	if !isClosed(tr.Drained()) {
		t.Error("not drained although all is acknowledged")
	}
}

func TestDrained(t *testing.T) {
	t.Run("nothing in flight", func(t *testing.T) {
		if !isClosed(NewTracker(testStart).Drained()) {
			t.Error("not drained")
		}
	})
	t.Run("with events in flight", func(t *testing.T) {
		tr := NewTracker(testStart)
		tx := oneEvent(tr, testStart+10)
		first, second := tr.Drained(), tr.Drained()
		if isClosed(first) {
			t.Error("drained with an event in flight")
		}
		tx.Acknowledge()
		if !isClosed(first) || !isClosed(second) {
			t.Error("not drained although all is acknowledged")
		}
		confirmed(t, tr, testStart+10)
	})
	t.Run("inside a transaction", func(t *testing.T) {
		tr := NewTracker(testStart)
		before := oneEvent(tr, testStart+10)
		tx := tr.Begin()
		tx.Add(Event{})
		tx.Add(Event{})
		drained := tr.Drained()
		tx.Acknowledge()
		before.Acknowledge()
		tr.Idle(testStart + 50)
		confirmed(t, tr, testStart+10)
		if isClosed(drained) {
			t.Error("drained with an event in flight")
		}
		tx.Acknowledge()
		if !isClosed(drained) {
			t.Error("not drained although all is acknowledged")
		}
		confirmed(t, tr, testStart+10)
		// The rest of that transaction was never read: no position behind it
		// is safe, whoever names one.
		tr.Idle(testStart + 100)
		tr.Begin().Commit(testStart + 200)
		confirmed(t, tr, testStart+10)
	})
	t.Run("inside a transaction without events", func(t *testing.T) {
		tr := NewTracker(testStart)
		tr.Begin()
		if !isClosed(tr.Drained()) {
			t.Error("not drained")
		}
		tr.Idle(testStart + 100)
		confirmed(t, tr, testStart)
	})
}

func TestTrackerRefusesMisuse(t *testing.T) {
	panics := func(name string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s does not panic", name)
			}
		}()
		f()
	}
	panics("a transaction inside another", func() {
		tr := NewTracker(testStart)
		tr.Begin()
		tr.Begin()
	})
	panics("one acknowledgement too many", func() {
		tr := NewTracker(testStart)
		tx := tr.Begin()
		tx.Add(Event{})
		tx.Acknowledge()
		tx.Acknowledge()
		tx.Commit(testStart + 10)
	})
}

// Acknowledgements come from other goroutines, in any order, while transactions
// are still opened; someone else looks at the result all the time.
func TestTrackerConcurrently(t *testing.T) {
	const transactions, acknowledgers = 20_000, 4
	tr := NewTracker(0)
	events := make([]atomic.Int32, transactions+1) // acknowledged, by transaction
	size := func(i int) int { return i % 4 }

	type event struct {
		tx *Transaction
		i  int
	}
	handed := make(chan event, 512)
	var acks sync.WaitGroup
	for w := range acknowledgers {
		acks.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			var held []event
			acknowledge := func(i int) {
				e := held[i]
				held[i] = held[len(held)-1]
				held = held[:len(held)-1]
				events[e.i].Add(1)
				e.tx.Acknowledge()
			}
			for e := range handed {
				held = append(held, e)
				if len(held) > 32 {
					acknowledge(rnd.IntN(len(held)))
				}
			}
			for len(held) > 0 {
				acknowledge(rnd.IntN(len(held)))
			}
		})
	}

	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		checked := 0
		for !isClosed(stop) {
			// The end of transaction i is i, so everything up to the confirmed
			// position must have been acknowledged before it was read.
			at := int(tr.Confirmed().LSN())
			if at < checked {
				t.Errorf("confirmed went back from %d to %d", checked, at)
				return
			}
			for ; checked < at; checked++ {
				if got := int(events[checked+1].Load()); got != size(checked+1) {
					t.Errorf("confirmed %d, but transaction %d has %d of %d events acknowledged", at, checked+1, got, size(checked+1))
					return
				}
			}
			runtime.Gosched()
		}
	}()

	for i := 1; i <= transactions; i++ {
		tx := tr.Begin()
		for range size(i) {
			tx.Add(Event{})
			handed <- event{tx, i}
		}
		tx.Commit(pglogrepl.LSN(i))
		if i%100 == 0 {
			tr.Idle(pglogrepl.LSN(i))
		}
	}
	close(handed)
	drained := tr.Drained()
	acks.Wait()
	<-drained
	close(stop)
	<-watched
	confirmed(t, tr, transactions)
}

// With much in flight the queue is as long as what is in flight, however many
// transactions have passed.
func TestTrackerMemoryIsBounded(t *testing.T) {
	const inFlight = 1000
	tr := NewTracker(0)
	var window []*Transaction
	for i := range 200 * inFlight {
		window = append(window, oneEvent(tr, pglogrepl.LSN(i+1)))
		if len(window) == inFlight {
			window[0].Acknowledge()
			window = append(window[:0], window[1:]...)
			confirmed(t, tr, pglogrepl.LSN(i+1-len(window)))
		}
	}
	if n := tr.Unconfirmed(); n != inFlight-1 {
		t.Errorf("%d transactions unconfirmed, want %d", n, inFlight-1)
	}
	if n := cap(tr.queue); n > 8*inFlight {
		t.Errorf("the queue has grown to %d for %d transactions in flight", n, inFlight)
	}
	if n := len(tr.free) + tr.Unconfirmed(); n > inFlight+1 {
		t.Errorf("%d transactions were made for %d in flight", n, inFlight)
	}
}

// window keeps a number of transactions in flight: each step opens and ends one,
// and acknowledges the oldest.
type window struct {
	tr   *Tracker
	rows int
	ring []*Transaction
	next int
	end  pglogrepl.LSN
}

func newWindow(rows, inFlight int) *window {
	w := &window{tr: NewTracker(0), rows: rows, ring: make([]*Transaction, inFlight)}
	for range 4 * inFlight { // until everything has its final size
		w.step()
	}
	return w
}

func (w *window) step() {
	if oldest := w.ring[w.next]; oldest != nil {
		for range w.rows {
			oldest.Acknowledge()
		}
	}
	tx := w.tr.Begin()
	for range w.rows {
		tx.Add(Event{})
	}
	w.end++
	tx.Commit(w.end)
	w.ring[w.next] = tx
	w.next = (w.next + 1) % len(w.ring)
}

func TestTrackerSteadyStateDoesNotAllocate(t *testing.T) {
	for _, inFlight := range []int{1, 10, 1000} {
		w := newWindow(3, inFlight)
		if n := testing.AllocsPerRun(1000, func() {
			w.step()
			w.tr.Idle(w.end)
			_ = w.tr.Confirmed()
		}); n != 0 {
			t.Errorf("%d in flight: %v allocations a transaction", inFlight, n)
		}
	}
}

func BenchmarkTracker(b *testing.B) {
	for _, rows := range []int{1, 100} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) {
			w := newWindow(rows, 100)
			b.ReportAllocs()
			for b.Loop() {
				w.step()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/event")
		})
	}
}
