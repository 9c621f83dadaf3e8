package guarantee

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/leak"
	"outboxd/offsets"
	"outboxd/sink"
)

func TestMain(m *testing.M) { leak.Main(m, "outboxd/internal/guarantee.") }

// memory is a store that fails as often as it is told to.
type memory struct {
	saved []offsets.Position
	fails int
	err   error
}

func (m *memory) Load(context.Context) (*offsets.Position, error) { return nil, nil }
func (m *memory) Save(_ context.Context, p offsets.Position) error {
	if m.fails > 0 {
		m.fails--
		return m.err
	}
	m.saved = append(m.saved, p)
	return nil
}

// claimed is a store that wants claims.
type claimed struct {
	memory
	yes bool
}

func (c *claimed) Claimed() bool { return c.yes }

// session is a Session over a tracker that starts at 0x100.
func session(store offsets.Store) (s Session, tracker *offsets.Tracker) {
	tracker = offsets.NewTracker(0x100)
	at := offsets.Position{SystemID: "7301", Timeline: 1, Slot: "a", LSN: 0x100}
	c := offsets.NewCommitter(tracker, store, at, func(offsets.Confirmed) {})
	return Session{Tracker: tracker, Commit: c.Commit, At: at, Every: time.Second, Stop: context.Background(), Due: func() {},
		Confirmed: func(pglogrepl.LSN, bool) {}}, tracker
}

func TestAtLeastOnceWhoMayWrite(t *testing.T) {
	for name, test := range map[string]struct {
		store             offsets.Store
		shared, unclaimed bool
	}{"the slot": {nil, false, false}, "a file": {&memory{}, false, false}, "a topic": {&claimed{}, true, true}, "a topic, claimed": {&claimed{yes: true}, true, false}} {
		g := NewAtLeastOnce(test.store)
		if g.SharedStore() != test.shared || g.Unclaimed() != test.unclaimed || g.Transactional() {
			t.Errorf("%s: shared %t, unclaimed %t", name, g.SharedStore(), g.Unclaimed())
		}
	}
	var o sink.Options
	NewAtLeastOnce(nil).Configure(&o, 20*time.Second)
	if o.PauseLimit != 15*time.Second {
		t.Errorf("a process that was suspended gives up after %s", o.PauseLimit)
	}
}

// Positions are stored every so often, and an error of the store ends the session.
func TestAtLeastOnceRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, tracker := session(m)
		due := 0
		s.Due = func() { due++ }
		var said []string
		s.Confirmed = func(lsn pglogrepl.LSN, all bool) { said = append(said, fmt.Sprint(lsn, all)) }
		k := NewAtLeastOnce(m).Begin(s)
		if k.Gate() != nil {
			t.Error("it has a gate")
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		tx := tracker.Begin()
		tx = tx.Add(offsets.Event{CommitLSN: 0x110, Number: 1})
		tx.Commit(0x140)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if len(m.saved) != 0 || said[0] != "0/100 false" {
			t.Errorf("stored %v, said %v before it is acknowledged", m.saved, said)
		}
		tx.Acknowledge()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(m.saved) != 1 || m.saved[0].LSN != 0x140 || due != 2 || said[1] != "0/140 true" {
			t.Errorf("stored %v, due %d times, said %v", m.saved, due, said)
		}
		m.fails, m.err = 1, io.EOF
		tracker.Idle(0x150)
		var fault *StoreError
		if err := <-ended; !errors.As(err, &fault) || !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	})
}

// The last position of a session is tried again, unless that does not help.
func TestAtLeastOnceFinal(t *testing.T) {
	for name, test := range map[string]struct {
		err    error
		fails  int
		stored bool
		within time.Duration
	}{
		"a short fault":  {io.EOF, 5, true, time.Second},
		"a long fault":   {io.EOF, 1000, false, storeTimeout + time.Second},
		"taken":          {offsets.ErrStoreTaken, 1, false, 0},
		"cannot be used": {fmt.Errorf("x: %w", offsets.ErrUnusable), 1, false, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := &memory{fails: test.fails, err: test.err}
			s, tracker := session(m)
			tracker.Idle(0x140)
			begin := time.Now()
			at, err := NewAtLeastOnce(m).Begin(s).Final(t.Context(), false)
			if (err == nil) != test.stored || (at.LSN == 0x140) != test.stored || time.Since(begin) > test.within {
				t.Errorf("%s: at %s after %s, %v", name, at, time.Since(begin), err)
			}
			if doubt := (*Doubt)(nil); errors.As(err, &doubt) {
				t.Errorf("%s: a store is not in doubt: %v", name, err)
			}
		})
	}
}

// broker is a sink with transactions.
type broker struct {
	mu       sync.Mutex
	begun    chan struct{}
	events   int
	inFlight int64
	since    time.Time
	newest   decoder.Position
	sealed   bool
	oneByOne bool
	flushing func()
	commits  []string
	fail     error // of a commit
	failed   error
}

func newBroker() *broker { return &broker{begun: make(chan struct{}, 1)} }

// send puts an event into the transaction.
func (b *broker) send(tx *offsets.Transaction, at decoder.Position) *offsets.Transaction {
	tx = tx.Add(offsets.Event(at))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest = at
	b.inFlight++
	if b.events++; b.events == 1 {
		b.since = time.Now()
		b.begun <- struct{}{}
	}
	return tx
}
func (b *broker) ack(tx *offsets.Transaction) {
	b.mu.Lock()
	b.inFlight--
	b.mu.Unlock()
	tx.Acknowledge()
}
func (b *broker) Fence(context.Context) error { return b.fail }
func (b *broker) Begun() <-chan struct{}      { return b.begun }
func (b *broker) Age() (time.Duration, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.events == 0 {
		return 0, 0
	}
	return time.Since(b.since), b.events
}

func (b *broker) Lateness() time.Duration { return 0 }
func (b *broker) OneByOne() bool          { return b.oneByOne }
func (b *broker) Seal()                   { b.sealed = true }
func (b *broker) Unseal()                 { b.sealed = false }
func (b *broker) Flush(ctx context.Context) error {
	if b.flushing != nil {
		b.flushing()
	}
	for b.InFlight() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}
func (b *broker) Commit(_ context.Context, r *kgo.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.commits = append(b.commits, string(r.Value))
	b.events = 0
	return nil
}
func (b *broker) Newest() decoder.Position { b.mu.Lock(); defer b.mu.Unlock(); return b.newest }
func (b *broker) InFlight() int64          { b.mu.Lock(); defer b.mu.Unlock(); return b.inFlight }
func (b *broker) Fail(err error)           { b.failed = err }

// recorded are positions as text.
type recorded struct{ Positions }

func (recorded) Owner() string                         { return "me" }
func (recorded) Record(p offsets.Position) *kgo.Record { return &kgo.Record{Value: []byte(p.String())} }

func begun(t *testing.T, b *broker) (*ExactlyOnce, *transactions, *offsets.Tracker) {
	t.Helper()
	e := NewExactlyOnce(recorded{}, "a", "outboxd-a")
	if err := e.Acquire(t.Context(), b); err != nil || !e.Unclaimed() {
		t.Fatalf("acquired: %v, unclaimed %t", err, e.Unclaimed())
	}
	s, tracker := session(e)
	return e, e.Begin(s).(*transactions), tracker
}

// A transaction is committed with its position when all that was sent is acknowledged,
// and then the position is ours.
func TestExactlyOnceRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		e, k, tracker := begun(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		tx := tracker.Begin()
		first := b.send(tx, decoder.Position{CommitLSN: 0x110, Number: 1})
		time.Sleep(commitAge / 2)
		synctest.Wait()
		if len(b.commits) != 0 {
			t.Fatalf("committed %v before it is acknowledged", b.commits)
		}
		b.ack(first)
		time.Sleep(2 * commitAge)
		synctest.Wait()
		if want := "0/100 and event 1 of the transaction committed at 0/110"; len(b.commits) != 1 || b.commits[0] != want || e.Unclaimed() {
			t.Errorf("committed %q, want %q", b.commits, want)
		}
		first.Commit(0x140)
		time.Sleep(commitIdle + time.Second)
		synctest.Wait()
		if len(b.commits) != 2 || b.commits[1] != "0/140" {
			t.Errorf("committed %q while idle", b.commits)
		}
		cancel()
		if err := <-ended; err != nil || b.sealed || b.failed != nil {
			t.Errorf("ended with %v, sealed %t, failed %v", err, b.sealed, b.failed)
		}
	})
}

func TestTransactionIsDue(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		age, since, took, lateness time.Duration
		n                          int
		inFlight                   int64
		want                       time.Duration
	}{
		"an event after a long time":                 {0, time.Hour, 4 * ms, 0, 1, 1, gatherEvery},
		"it is acknowledged":                         {1 * ms, time.Hour, 4 * ms, 0, 1, 0, 0},
		"it is not, but little is in flight":         {minPause, time.Hour, 4 * ms, 0, 1, 1, 0},
		"rows of one transaction":                    {1 * ms, time.Hour, 4 * ms, 0, 100, 100, gatherEvery},
		"right after a commit":                       {0, 0, 4 * ms, 0, 1, 1, 4 * ms},
		"right after a quick commit":                 {0, 0, 0, 0, 1, 1, minPause},
		"right after a slow commit":                  {0, 0, time.Second, 0, 1, 1, maxPause},
		"a while after it":                           {3 * ms, 3 * ms, 4 * ms, 0, 3, 1, 1 * ms},
		"as long as it took after it":                {4 * ms, 4 * ms, 4 * ms, 0, 4, 1, 0},
		"the same, and much is in flight":            {4 * ms, 4 * ms, 4 * ms, 0, 40, commitFew + 1, gatherEvery},
		"five times as long":                         {20 * ms, 20 * ms, 4 * ms, 0, 400, commitFew + 1, 0},
		"much is in flight, and a commit takes long": {commitAge - 1, commitAge, time.Second, 0, 400, commitFew + 1, gatherEvery},
		"as old as it may be":                        {commitAge, commitAge, time.Second, 0, 400, 1000, 0},
		"as large as it may be":                      {1 * ms, 1 * ms, 4 * ms, 0, commitEvents, 1000, 0},
		"of a backlog":                               {150 * ms, 150 * ms, 4 * ms, 4 * time.Second, 400, 1000, gatherEvery},
		"of one, for a part of the time":             {250 * ms, 250 * ms, 4 * ms, 4 * time.Second, 400, 1000, 0},
		"of a large one":                             {commitLate - 1, 500 * ms, 4 * ms, time.Hour, 400, 1000, gatherEvery},
		"of one, as old as it may be":                {commitLate, 500 * ms, 4 * ms, time.Hour, 400, 1000, 0},
		"of one, and little is in flight":            {4 * ms, 4 * ms, 4 * ms, time.Hour, 400, commitFew, 0},
	} {
		if got := due(test.age, test.since, test.took, test.lateness, test.n, test.inFlight); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// While a transaction ends, others send for the next one, unless records go one by one:
// what came meanwhile would make that last longer than its time-out.
func TestSendingWhileATransactionEnds(t *testing.T) {
	for _, oneByOne := range []bool{false, true} {
		b := newBroker()
		_, k, tracker := begun(t, b)
		tx := b.send(tracker.Begin(), decoder.Position{CommitLSN: 0x110, Number: 1})
		tx.Commit(0x140)
		b.oneByOne = oneByOne
		free := false
		b.flushing = func() {
			free = !k.gate.held.Load()
			b.ack(tx)
		}
		if err := k.end(t.Context()); err != nil {
			t.Fatal(err)
		}
		if free == oneByOne || len(b.commits) != 1 {
			t.Errorf("one by one %t: events may be sent meanwhile: %t; commits %q", oneByOne, free, b.commits)
		}
		if k.gate.held.Load() {
			t.Errorf("one by one %t: nothing may be sent afterwards", oneByOne)
		}
	}
}

// The end of a session commits only what is acknowledged as a whole; after an error
// nobody knows what is committed.
func TestExactlyOnceFinal(t *testing.T) {
	for _, test := range []struct {
		whole   bool
		fail    error
		commits int
		at      pglogrepl.LSN
	}{{true, nil, 1, 0x140}, {false, nil, 0, 0x100}, {true, io.EOF, 0, 0x100}} {
		b := newBroker()
		e, k, tracker := begun(t, b)
		tx := b.send(tracker.Begin(), decoder.Position{CommitLSN: 0x110, Number: 1})
		tx.Commit(0x140)
		b.ack(tx)
		b.fail = test.fail
		at, err := k.Final(t.Context(), test.whole)
		var doubt *Doubt
		if at.LSN != test.at || len(b.commits) != test.commits || errors.As(err, &doubt) != (test.fail != nil) || (b.failed != nil) != (test.fail != nil) {
			t.Errorf("%+v: at %s, committed %q, %v, failed %v", test, at, b.commits, err, b.failed)
		}
		if e.Unclaimed() != (test.commits == 0) {
			t.Errorf("%+v: unclaimed %t", test, e.Unclaimed())
		}
	}
}

// A position that does not tell of every event in the transaction is never committed.
func TestExactlyOncePositionAndEvents(t *testing.T) {
	b := newBroker()
	e, _, _ := begun(t, b)
	b.newest = decoder.Position{CommitLSN: 0x110, Number: 2}
	at := offsets.Position{LSN: 0x100}
	for inside, ok := range map[offsets.Event]bool{{}: false, {CommitLSN: 0x110, Number: 1}: false, {CommitLSN: 0x110, Number: 2}: true} {
		at.Inside = inside
		err := e.Save(t.Context(), at)
		if (err == nil) != ok {
			t.Errorf("inside %v: %v", inside, err)
		}
	}
	if at = (offsets.Position{LSN: 0x140}); e.Save(t.Context(), at) != nil {
		t.Error("a position behind the whole transaction is refused")
	}
}

// An id that cannot be acquired is a fault of the sink.
func TestExactlyOnceAcquireFails(t *testing.T) {
	b := newBroker()
	b.fail = io.EOF
	var failed *sink.FailedError
	if err := NewExactlyOnce(recorded{}, "a", "outboxd-a").Acquire(t.Context(), b); !errors.As(err, &failed) || !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
