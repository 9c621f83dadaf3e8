package connector

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/decoder"
	"outboxd/internal/backfill"
	"outboxd/internal/replication"
)

// fakeSnapshot has some rows, and a connection that breaks before its last one if it is to.
type fakeSnapshot struct {
	rows   []string
	breaks bool
}

func (s *fakeSnapshot) At() pglogrepl.LSN { return fakeStart }
func (s *fakeSnapshot) Rows(ctx context.Context, t decoder.Table, memory *replication.Memory) (*backfill.Reader, error) {
	of := backfill.Snapshot{Schema: t.Schema, Table: t.Name, Slot: fakeStart, Expected: int64(len(s.rows))}
	return backfill.New(ctx, of, &fakeRows{of: s.rows, breaks: s.breaks}, memory), nil
}
func (s *fakeSnapshot) Watch(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *fakeSnapshot) MakeSlot(context.Context) error  { return nil }

type fakeRows struct {
	of     []string
	breaks bool
	n      int
}

func (r *fakeRows) Columns() (all []decoder.RowColumn) {
	for _, name := range fakeColumns {
		all = append(all, decoder.RowColumn{Name: name, Type: 25, Modifier: -1})
	}
	return all
}
func (r *fakeRows) NextRow() bool {
	r.n++
	return r.n < len(r.of) || r.n == len(r.of) && !r.breaks
}
func (r *fakeRows) Values() [][]byte {
	return [][]byte{[]byte(r.of[r.n-1]), []byte("t"), []byte("a"), []byte("k"), []byte("{}")}
}
func (r *fakeRows) End() error {
	if r.breaks {
		return errors.New("the connection broke")
	}
	return nil
}
func (r *fakeRows) Interrupt() {}
func (r *fakeRows) Close()     {}

// A stop while a backfill is to be tried again is not clean: the rows that it has sent
// are published again.
func TestStopBetweenTwoBackfills(t *testing.T) {
	h := newHarness(t)
	h.server.snapshot = &fakeSnapshot{[]string{"1", "2", "3"}, true}
	h.o.Source.Backfill, h.o.RetryMin, h.o.RetryMax = true, time.Hour, time.Hour
	h.run()
	h.logged("not streaming")
	h.stop()
	if err := h.end(); !errors.Is(err, ErrUnclean) {
		t.Errorf("the stop: %v", err)
	}
}

// One before anything was sent is clean.
func TestStopBeforeABackfill(t *testing.T) {
	h := newHarness(t)
	h.server.refuse = errors.New("the server is down")
	h.o.Source.Backfill, h.o.RetryMin, h.o.RetryMax = true, time.Hour, time.Hour
	h.run()
	h.logged("not streaming")
	h.stop()
	if err := h.end(); err != nil {
		t.Errorf("the stop: %v", err)
	}
}

// The snapshot of a standby may be of a later timeline than the connection is: what the
// backfill leaves to the stream says which, or it would be refused.
func TestPromotedBeforeABackfill(t *testing.T) {
	h := newHarness(t)
	h.server.snapshot, h.server.timeline = &fakeSnapshot{[]string{"1", "2"}, false}, timelineAt(2)
	h.o.Source.Backfill = true
	p := New(h.o)
	p.open = h.server.open
	defer p.closeSink()
	if err := p.backfill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.known == nil || p.known.LSN != fakeStart || p.known.Timeline != 2 || p.backfilled != 0 {
		t.Errorf("known is %v, and %d rows are owed", p.known, p.backfilled)
	}
}

// A stop is not kept by rows that wait, with exactly_once, for others of a refused batch,
// which go one by one: Kafka may have stopped answering.
func TestStopWhileRowsOfABackfillWait(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	var rows []string
	for n := range 200 {
		rows = append(rows, fmt.Sprint(n))
	}
	h.server.snapshot = &fakeSnapshot{rows, false}
	h.o.Source.Backfill, h.o.BackfillTimeout, h.o.DrainTimeout = true, time.Minute, time.Second
	h.exactlyOnce()
	h.setsAside(nil)
	held := make(chan struct{})
	refused := false
	h.kafka.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		h.kafka.KeepControl()
		switch topic := h.kafka.TopicInfo("t"); {
		case topic == nil || r.(*kmsg.ProduceRequest).Topics[0].TopicID != topic.TopicID:
			return nil, nil, false // positions
		case !refused:
			refused = true
			h.kafka.SleepControl(func() { time.Sleep(100 * time.Millisecond) }) // not alone
			return refuse(h, r.(*kmsg.ProduceRequest), "", letterTopic)
		}
		select {
		case <-held:
		default:
			close(held)
		}
		h.kafka.SleepControl(func() { <-h.ended })
		return nil, nil, false
	})
	h.run()
	select {
	case <-held:
	case <-t.Context().Done():
	}
	time.Sleep(100 * time.Millisecond) // the rest is read, and waits
	h.stop()
	if err := h.end(); err != nil { // nothing of it counts
		t.Errorf("the stop: %v", err)
	}
}
