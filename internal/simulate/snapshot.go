package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/backfill"
	"outboxd/internal/connector"
	"outboxd/internal/replication"
)

// snapshot is a temporary slot with its snapshot, which the server drops when the
// connection that has made it ends.
type snapshot struct {
	c    *connection
	at   pglogrepl.LSN
	now  time.Time
	rows []*row // that were committed before it, as they lie in the table
}

var errSlotMade = fmt.Errorf("%w: the slot was made by another during the backfill", replication.ErrSetup)

func (c *connection) ReplaceSlot() { c.replaces = true }

// Snapshot returns nil if the slot is there. Like MakeSlot it waits for the transactions
// that are open. Its temporary slot is the lock that keeps others from it.
func (c *connection) Snapshot(ctx context.Context) (connector.Snapshot, error) {
	for {
		var made *snapshot
		var there, taken bool
		var changed <-chan struct{}
		err := c.ask(ctx, func() {
			changed = c.s.changed
			switch s := c.s; {
			case s.slot != nil && !c.replaces:
				there = true
			case s.snapshot != nil:
				taken = true
			case len(s.open) == 0:
				made = c.export()
			}
		})
		switch {
		case err != nil:
			return nil, err
		case there:
			return nil, nil
		case taken:
			return nil, replication.SlotInUse(errors.New("another process makes its backfill"))
		case made != nil:
			return made, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// export makes the snapshot. The caller holds postgres.mu.
func (c *connection) export() *snapshot {
	s := c.s
	made := &snapshot{c: c, at: s.flushed(), now: time.Now().Add(s.ahead)}
	for _, rec := range s.log {
		if tx := rec.tx; tx != nil && rec.end <= made.at {
			made.rows = append(made.rows, tx.rows...)
		}
	}
	s.snapshot = made
	s.w.note("%s: snapshot of %d rows at %s", c.p.name, len(made.rows), made.at)
	s.w.verifier.snapshot(made)
	s.w.servers.Go(func() {
		_, err := io.Copy(io.Discard, c.link.server)
		s.update(func() {
			if s.snapshot == made {
				s.snapshot = nil
				s.w.note("server: the snapshot's slot is dropped with its connection (%v)", err)
			}
		})
	})
	return made
}

func (s *snapshot) At() pglogrepl.LSN { return s.at }

// look runs a command over the snapshot's connection, if its slot is there still.
func (s *snapshot) look(ctx context.Context, run func()) error {
	gone := false
	if err := s.c.ask(ctx, func() {
		if gone = s.c.s.snapshot != s; !gone {
			run()
		}
	}); err != nil {
		return err
	}
	if gone {
		return errors.New("the backfill's slot is gone")
	}
	return nil
}

func (s *snapshot) Watch(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.look(context.WithoutCancel(ctx), func() {}); err != nil {
			return err
		}
	}
}

// MakeSlot copies the temporary slot.
func (s *snapshot) MakeSlot(ctx context.Context) error {
	exists, inUse := false, false
	err := s.look(ctx, func() {
		p := s.c.s
		if exists = p.slot != nil && !s.c.replaces; exists {
			return
		}
		if inUse = p.slot != nil && p.slot.sender != nil; inUse {
			return
		}
		made := &slot{confirmed: s.at, saved: s.at}
		p.w.verifier.backfilled(s.c.p, made, s.at)
		p.slot = made
		p.copied = s.at
		p.w.note("server: slot made at %s, where the snapshot ends", s.at)
	})
	switch {
	case err == nil && inUse:
		err = replication.SlotInUse(errors.New("another process streams from it"))
	case err == nil && exists:
		err = errSlotMade
	}
	return err
}

func (s *snapshot) Rows(ctx context.Context, t decoder.Table, memory *replication.Memory) (*backfill.Reader, error) {
	beside, err := s.c.s.connect(ctx, s.c.p, s.c.host.address)
	if err != nil {
		return nil, err
	}
	if err := s.look(ctx, func() {}); err != nil {
		beside.Close()
		return nil, err
	}
	of := backfill.Snapshot{Schema: t.Schema, Table: t.Name, Slot: s.at, Now: int64(pgMicros(s.now)), Expected: int64(len(s.rows))}
	reading, interrupt := context.WithCancel(context.Background())
	return backfill.New(ctx, of, &tableRows{s: s, c: beside.(*connection), ctx: reading, interrupt: interrupt}, memory), nil
}

// tableRows are the rows of a snapshot, which come in pieces over a connection of their
// own.
type tableRows struct {
	s         *snapshot
	c         *connection
	ctx       context.Context
	interrupt func()
	n         int // rows that were read
	there     int // and that have come
	err       error
	// buffer and values are those of one row, as a driver has them: the next one is in
	// the same memory.
	buffer []byte
	values [][]byte
}

func (t *tableRows) Columns() (all []decoder.RowColumn) {
	for _, name := range columns {
		all = append(all, decoder.RowColumn{Name: name, Type: textOID, Modifier: -1})
	}
	return all
}

func (t *tableRows) NextRow() bool {
	if t.n == t.there && t.err == nil {
		if t.n == len(t.s.rows) {
			return false
		}
		if t.err = t.c.ask(t.ctx, func() {}); t.err == nil {
			t.there = min(t.there+1+rand.IntN(20), len(t.s.rows))
			time.Sleep(t.c.s.w.o.pace)
		}
	}
	if t.err != nil {
		return false
	}
	t.n++
	return true
}

func (t *tableRows) Values() [][]byte {
	r := t.s.rows[t.n-1]
	t.buffer, t.values = t.buffer[:0], t.values[:0]
	for _, v := range [...]string{r.id, r.kind, "aggregate", r.key, r.payload} {
		t.buffer = append(t.buffer, v...)
		t.values = append(t.values, t.buffer[len(t.buffer)-len(v):])
	}
	return t.values
}

func (t *tableRows) End() error { return t.err }
func (t *tableRows) Interrupt() { t.interrupt() }
func (t *tableRows) Close()     { t.interrupt(); t.c.Close() }

// snapshot notes what positions rows have that come from a snapshot.
func (v *verifier) snapshot(s *snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, r := range s.rows {
		seen := v.rows[r.id]
		seen.snapshots = append(seen.snapshots, position(s.at-1, uint32(i+1)))
	}
}

// backfilled holds, when the slot is made of a snapshot, that all of this is in Kafka:
// nothing else remembers that. With exactly_once a position does, which is committed with
// it.
func (v *verifier) backfilled(p *process, made *slot, at pglogrepl.LSN) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made, p.at = min(v.made, at), made
	if v.exactly {
		return
	}
	v.sync()
	v.safe(at, "the backfill ends at %s", at)
}
