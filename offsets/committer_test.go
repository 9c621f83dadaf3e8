package offsets

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pglogrepl"
)

// diary records who heard of which position, in order.
type diary struct {
	entries []entry
	err     error
}

type entry struct {
	who string
	lsn pglogrepl.LSN
}

func (d *diary) Load(context.Context) (*Position, error) { return nil, nil }

func (d *diary) Save(_ context.Context, p Position) error {
	if d.err != nil {
		return d.err
	}
	d.entries = append(d.entries, entry{"store", p.LSN})
	return nil
}

func (d *diary) tell(c Confirmed) { d.entries = append(d.entries, entry{"tell", c.LSN()}) }

func (d *diary) expect(t *testing.T, want ...entry) {
	t.Helper()
	if !slices.Equal(d.entries, want) {
		t.Errorf("the store and PostgreSQL heard %v, want %v", d.entries, want)
	}
	d.entries = nil
}

func commit(t *testing.T, c *Committer, want pglogrepl.LSN) {
	t.Helper()
	got, err := c.Commit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got.LSN != want {
		t.Errorf("committed %d, want %d", got.LSN, want)
	}
}

func TestCommitterStoresBeforeItTells(t *testing.T) {
	tr, d := NewTracker(testStart), &diary{}
	c := NewCommitter(tr, d, Position{LSN: testStart}, d.tell)

	commit(t, c, testStart)
	d.expect(t) // nothing new, nobody is bothered

	tx := tr.Begin()
	tx.Add(Event{})
	tx.Commit(testStart + 10)
	commit(t, c, testStart)
	d.expect(t) // nothing acknowledged

	tx.Acknowledge()
	commit(t, c, testStart+10)
	d.expect(t, entry{"store", testStart + 10}, entry{"tell", testStart + 10})
	commit(t, c, testStart+10)
	d.expect(t)
}

func TestCommitterWithoutStore(t *testing.T) {
	tr, d := NewTracker(testStart), &diary{}
	c := NewCommitter(tr, nil, Position{LSN: testStart}, d.tell)
	tr.Idle(testStart + 10)
	commit(t, c, testStart+10)
	d.expect(t, entry{"tell", testStart + 10})
}

func TestCommitterTellsNothingWhenTheStoreFails(t *testing.T) {
	tr, full := NewTracker(testStart), errors.New("no space left on device")
	d := &diary{err: full}
	c := NewCommitter(tr, d, Position{LSN: testStart}, d.tell)
	tr.Idle(testStart + 10)
	got, err := c.Commit(context.Background())
	if !errors.Is(err, full) || got.LSN != testStart {
		t.Errorf("committed %d, %v; want %d and the store's error", got.LSN, err, testStart)
	}
	d.expect(t)

	// The next round tries again.
	d.err = nil
	commit(t, c, testStart+10)
	d.expect(t, entry{"store", testStart + 10}, entry{"tell", testStart + 10})
}

func TestCommitterKeepsTheRestOfThePosition(t *testing.T) {
	start := Position{SystemID: "7301", Timeline: 3, Slot: "outboxd", LSN: testStart}
	store := &memoryStore{}
	tr := NewTracker(start.LSN)
	c := NewCommitter(tr, store, start, func(Confirmed) {})
	tr.Idle(testStart + 10)
	commit(t, c, testStart+10)
	want := start
	want.LSN = testStart + 10
	if store.p != want {
		t.Errorf("stored %+v, want %+v", store.p, want)
	}
}

type memoryStore struct{ p Position }

func (m *memoryStore) Load(context.Context) (*Position, error)  { return &m.p, nil }
func (m *memoryStore) Save(_ context.Context, p Position) error { m.p = p; return nil }

// A position that was told is never followed by an older one, whatever happens
// to the deliveries.
func TestCommitterNeverGoesBack(t *testing.T) {
	tr, d := NewTracker(testStart), &diary{}
	c := NewCommitter(tr, nil, Position{LSN: testStart + 100}, d.tell)
	tr.Idle(testStart + 50) // behind what was told before
	commit(t, c, testStart+100)
	d.expect(t)
	tr.Idle(testStart + 200)
	tr.Fail()
	commit(t, c, testStart+200)
	tr.Idle(testStart + 300)
	commit(t, c, testStart+200)
	d.expect(t, entry{"tell", testStart + 200})
}

// Inside a transaction the store hears of what is delivered, and PostgreSQL does
// not.
func TestCommitterInsideTransaction(t *testing.T) {
	store, told := &memoryStore{}, 0
	tr := NewTracker(testStart)
	c := NewCommitter(tr, store, Position{LSN: testStart}, func(Confirmed) { told++ })
	tx := tr.Begin()
	tx = tx.Add(Event{CommitLSN: testStart + 50, Number: 1})
	tr.Cut()
	tx.Acknowledge()
	commit(t, c, testStart)
	if want := (Position{LSN: testStart, Inside: Event{CommitLSN: testStart + 50, Number: 1}}); store.p != want || told != 0 {
		t.Errorf("stored %+v, told %d times; want %+v, and nothing told", store.p, told, want)
	}
	tx.Commit(testStart + 60)
	commit(t, c, testStart+60)
	if want := (Position{LSN: testStart + 60}); store.p != want || told != 1 {
		t.Errorf("stored %+v, told %d times; want %+v, told once", store.p, told, want)
	}
}
