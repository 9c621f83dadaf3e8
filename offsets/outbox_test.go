package offsets

import (
	"context"
	"strings"
	"testing"
)

var published = Outbox{Table: 16385, Publication: 16401, Entry: 16402, Seen: 0x1_00000100}

// What was published is stored with a position, and one of an older version has
// nothing of it.
func TestPositionWithOutbox(t *testing.T) {
	p := Position{SystemID: "7301", Timeline: 2, Slot: "outboxd", LSN: lsnStored}
	if data := string(p.Encode()); strings.Contains(data, "outbox\":") {
		t.Errorf("nothing is known, and stored: %s", data)
	}
	for _, o := range []Outbox{{}, published, {Table: 1, Publication: 2, Seen: 3}} {
		p.Outbox = o
		got, err := Decode(p.Encode())
		if err != nil || got != p {
			t.Errorf("%+v, want %+v (%v)", got, p, err)
		}
	}
	for _, wrong := range []Outbox{{Publication: 2, Seen: 3}, {Table: 1, Seen: 3}, {Table: 1, Publication: 2}} {
		p.Outbox = wrong
		if got, err := Decode(p.Encode()); err == nil {
			t.Errorf("%+v was taken", got)
		}
	}
}

// What was seen is stored with the next position, and at once if it is another.
func TestCommitterStoresWhatItSaw(t *testing.T) {
	store := &savedOutbox{}
	tr := NewTracker(testStart)
	c := NewCommitter(tr, store, Position{LSN: testStart, Outbox: published}, func(Confirmed) {})
	saw := func(o Outbox, saves int) {
		t.Helper()
		c.Saw(o)
		if _, err := c.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		if store.saves != saves {
			t.Errorf("%d saves, the last of %+v; want %d", store.saves, store.last, saves)
		}
	}
	again := published
	again.Seen++
	saw(again, 0)
	tr.Idle(testStart + 10)
	saw(again, 1)
	if store.last.Outbox != again {
		t.Errorf("stored %+v, want %+v", store.last.Outbox, again)
	}
	other := again
	other.Table++
	saw(other, 2)
	if store.last.Outbox != other || store.last.LSN != testStart+10 {
		t.Errorf("stored %+v, want %+v", store.last, other)
	}
}

type savedOutbox struct {
	saves int
	last  Position
}

func (s *savedOutbox) Load(context.Context) (*Position, error) { return nil, nil }

func (s *savedOutbox) Save(_ context.Context, p Position) error {
	s.saves, s.last = s.saves+1, p
	return nil
}

func TestSamePosition(t *testing.T) {
	p := Position{LSN: 5, Outbox: published}
	later := p
	later.Outbox.Seen++
	other := p
	other.Outbox.Entry++
	if !p.Same(later) || p.Same(other) || p.Same(Position{LSN: 6, Outbox: published}) {
		t.Error("only when it was seen makes no difference")
	}
}
