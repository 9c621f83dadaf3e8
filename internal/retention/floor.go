package retention

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"outboxd/internal/replication"
)

// Rows that were in the table before the slot was made are in no stream, unless
// outbox.backfill publishes them, and a confirmed position says nothing of them. So where
// a start finds no slot and a table with rows, it remembers a floor: the first transaction
// of which is known that it began when the slot was there. Rows of earlier ones are never
// removed.
//
// The floor outlives the process as the comment of a large object, the one place in a
// database where every role may write: it needs no right, no table of ours, and goes with
// the database to its standbys. It is written before the slot is made, as floorPending, so
// that no kill -9 forgets it, and gets its number in the first run of a session. Once a
// look at the whole table finds no row from before it, the object is removed. (A setting
// of the role was tried: only a superuser may make one that the server does not know.)

// floorPending is the floor of a slot that is about to be made.
const floorPending = "pending"

// floorLimit is how many transactions a floor outlives: beyond, an xmin of 32 bits may
// look younger than it is.
const floorLimit = 1 << 31

// floor is what is remembered.
type floor struct {
	object string // the large object's OID, "" if there is none
	value  string // floorPending, or a transaction
}

// floorComment is the comment of the large object, up to the value.
func (r *Retention) floorComment(p *plan) string {
	return fmt.Sprintf("outboxd retention of table %s by slot %s: rows of transactions before this one were there before the slot: ", p.root.oid, r.o.Source.Slot)
}

// readFloor returns the floor.
func (r *Retention) readFloor(ctx context.Context, p *plan) (f floor, err error) {
	begin := replication.Literal(r.floorComment(p))
	rows, err := r.conn.Rows(ctx, `SELECT objoid, substr(description, length(`+begin+`) + 1) FROM pg_description
		WHERE classoid = 'pg_largeobject'::regclass AND starts_with(description, `+begin+`) ORDER BY objoid LIMIT 1`)
	if err != nil {
		return f, fmt.Errorf("read which rows are from before the slot: %w", err)
	}
	if len(rows) > 0 {
		f = floor{rows[0][0], rows[0][1]}
	}
	return f, nil
}

// writeFloor writes a new value.
func (r *Retention) writeFloor(ctx context.Context, p *plan, f *floor, value string) error {
	steps := []string{"BEGIN", "", "COMMIT"}
	if f.object == "" {
		rows, err := r.conn.Rows(ctx, "BEGIN; SELECT lo_create(0)")
		if err != nil {
			return fmt.Errorf("remember which rows are from before the slot: %w", err)
		}
		f.object, steps = rows[0][0], steps[1:]
	}
	f.value = value
	steps[len(steps)-2] = "COMMENT ON LARGE OBJECT " + f.object + " IS " + replication.Literal(r.floorComment(p)+value)
	if _, err := r.conn.Rows(ctx, strings.Join(steps, "; ")); err != nil {
		if r.conn.Open() {
			_, _ = r.conn.Rows(ctx, "ROLLBACK")
		}
		return fmt.Errorf("remember which rows are from before the slot: %w", err)
	}
	return nil
}

// beforeSlot remembers that rows are there before the slot, if it is about to be made.
func (r *Retention) beforeSlot(ctx context.Context, p *plan) error {
	if r.o.Source.Backfill {
		return nil // which publishes them
	}
	rows, err := r.conn.Rows(ctx, "SELECT FROM pg_replication_slots WHERE slot_name = "+replication.Literal(r.o.Source.Slot))
	if err != nil || len(rows) > 0 {
		return err
	}
	// Without an answer there may be rows.
	if rows, err = r.conn.Rows(ctx, "SELECT EXISTS (SELECT FROM "+p.root.name+")"); err == nil && rows[0][0] == "f" {
		return nil
	}
	if err != nil && replication.SQLState(err) == "" {
		return err
	}
	f, err := r.readFloor(ctx, p)
	if err != nil {
		return err
	}
	return r.writeFloor(ctx, p, &f, floorPending)
}

// setFloor reads the floor for a run.
func (r *Retention) setFloor(ctx context.Context, p *plan) error {
	f, err := r.readFloor(ctx, p)
	if err != nil || f.object == "" {
		return err
	}
	rows, err := r.conn.Rows(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())")
	if err != nil {
		return err
	}
	if f.value == floorPending {
		// Everything that was there before the slot has a smaller transaction.
		if err := r.writeFloor(ctx, p, &f, rows[0][0]); err != nil {
			return err
		}
		r.log.Warn().Str("table", p.root.name).
			Msg("rows that were in the outbox table before the slot was made are not published, and stay; publish them with outbox.backfill: existing before a first start, or delete them by hand")
	}
	next, err := strconv.ParseInt(rows[0][0], 10, 64)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseInt(f.value, 10, 64); err != nil || next-n > floorLimit {
		return fmt.Errorf("nobody can tell any more which rows were in %s before the slot was made; move those that are to stay to another table, and then run SELECT lo_unlink(%s)", p.root.name, f.object)
	}
	p.floor = f
	return nil
}

// fresh is an SQL condition: a row t is not from before the floor.
func (p *plan) fresh() string {
	if p.floor.object == "" {
		return "true"
	}
	return "(" + notBefore(p.floor.value) + ")"
}

// takeBack removes the floor once all of the table was read and nothing is below it.
func (r *Retention) takeBack(ctx context.Context, p *plan) error {
	if p.floor.object == "" {
		return nil
	}
	for _, l := range r.leaves {
		for _, c := range l.chunks {
			if !c.looked || c.below {
				return nil
			}
		}
	}
	_, err := r.conn.Rows(ctx, "SELECT lo_unlink("+p.floor.object+")")
	return err
}
