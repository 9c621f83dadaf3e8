package connector

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/backfill"
	"outboxd/internal/replication"
)

// fakeSnapshot has some rows, and a connection that breaks before its last one.
type fakeSnapshot struct{ rows []string }

func (s *fakeSnapshot) At() pglogrepl.LSN { return fakeStart }
func (s *fakeSnapshot) Rows(ctx context.Context, t decoder.Table, memory *replication.Memory) (*backfill.Reader, error) {
	of := backfill.Snapshot{Schema: t.Schema, Table: t.Name, Slot: fakeStart, Expected: int64(len(s.rows))}
	return backfill.New(ctx, of, &fakeRows{of: s.rows}, memory), nil
}
func (s *fakeSnapshot) Watch(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *fakeSnapshot) MakeSlot(context.Context) error  { return errors.New("not here") }

type fakeRows struct {
	of []string
	n  int
}

func (r *fakeRows) Columns() (all []decoder.RowColumn) {
	for _, name := range fakeColumns {
		all = append(all, decoder.RowColumn{Name: name, Type: 25, Modifier: -1})
	}
	return all
}
func (r *fakeRows) NextRow() bool { r.n++; return r.n < len(r.of) }
func (r *fakeRows) Values() [][]byte {
	return [][]byte{[]byte(r.of[r.n-1]), []byte("t"), []byte("a"), []byte("k"), []byte("{}")}
}
func (r *fakeRows) End() error { return errors.New("the connection broke") }
func (r *fakeRows) Interrupt() {}
func (r *fakeRows) Close()     {}

// A stop while a backfill is to be tried again is not clean: the rows that it has sent
// are published again.
func TestStopBetweenTwoBackfills(t *testing.T) {
	h := newHarness(t)
	h.server.snapshot = &fakeSnapshot{[]string{"1", "2", "3"}}
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
