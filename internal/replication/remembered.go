package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"outboxd/offsets"
)

// Outbox returns what the start's look found published, to be remembered. It is
// zero without a table.
func (c *Conn) Outbox(was offsets.Outbox) offsets.Outbox {
	if c.found == nil {
		return offsets.Outbox{}
	}
	return c.found.outbox(was)
}

// compared adds to an *Unpublished that the table is not the remembered one.
func (l *look) compared(err error, was offsets.Outbox, o Options) error {
	var u *Unpublished
	if was.Table == 0 || !errors.As(err, &u) {
		return err
	}
	switch {
	case l.table != nil && l.table.oid != was.Table:
		if another := l.another(was, o); u.What != another {
			u.What = another + ": " + u.What
		}
	case l.table == nil && l.renamed != "":
		u.What += fmt.Sprintf(" (the one that was published%s)", l.whereabouts())
	}
	return err
}

// Compared adds to an *Unpublished of Prepare that the table is not the remembered one.
func (c *Conn) Compared(ctx context.Context, err error, was offsets.Outbox) error {
	if c.found == nil || was.Table == 0 {
		return err
	}
	if l, unknown := lookOver(ctx, c.sql, c.o, c.version, was.Table, false); unknown == nil {
		return l.compared(err, was, c.o)
	}
	return err
}

// changed compares the look, which finds the outbox published, with what is
// remembered: what was removed and came back was not published between. before are the
// entries of the look before, nil when that is not known.
func (l *look) changed(was offsets.Outbox, before []lookEntry, o Options) error {
	now, name, publication := l.outbox(was), o.tableName(), QuoteIdent(o.Publication)
	stayed := slices.ContainsFunc(l.entries, func(e lookEntry) bool {
		return slices.ContainsFunc(before, func(b lookEntry) bool { return b.oid == e.oid })
	})
	switch {
	case was.Publication == 0:
		return nil
	case was.Publication != now.Publication:
		return &Unpublished{Accept: true,
			What: fmt.Sprintf("publication %s was dropped and created again (its OID is %d instead of %d)", publication, now.Publication, was.Publication),
			Fix:  "move the slot to the present with SELECT pg_replication_slot_advance(" + quote(o.Slot) + ", pg_current_wal_lsn())"}
	case was.Entry == now.Entry || stayed:
		// Either way, whatever table has the name is published without a gap: FOR
		// ALL TABLES (0), or TABLES IN SCHEMA; an entry for one table has the table's.
		return nil
	case was.Table != now.Table:
		return &Unpublished{Accept: true, What: l.another(was, o)}
	default:
		return &Unpublished{Accept: true, What: fmt.Sprintf("table %s was taken out of publication %s and added again", name, publication)}
	}
}

// another says that the table is not the remembered one.
func (l *look) another(was offsets.Outbox, o Options) string {
	return fmt.Sprintf("table %s was replaced by another (its OID is %d instead of %d%s)", o.tableName(), l.table.oid, was.Table, l.whereabouts())
}

// whereabouts says what became of the remembered table, if it is not the one of the
// configured name.
func (l *look) whereabouts() string {
	if l.renamed == "" {
		return ", which is gone"
	}
	return ", which is " + l.renamed + " now"
}

// Verify compares what Prepare found published with what is remembered, zero if that
// is nothing; then what the server knows has to do. The error is an *Unpublished since
// the slot's position.
func (c *Conn) Verify(ctx context.Context, was offsets.Outbox, slot *offsets.Slot) error {
	if c.found == nil {
		return nil
	}
	err := c.verify(ctx, was, slot)
	var u *Unpublished
	if errors.As(err, &u) && slot != nil {
		u.Since = slot.ConfirmedFlush
	}
	return err
}

func (c *Conn) verify(ctx context.Context, was offsets.Outbox, slot *offsets.Slot) error {
	switch {
	case was.Publication != 0:
		err := c.found.changed(was, nil, c.o)
		if err == nil && was.Table != c.found.table.oid {
			c.doubt = func() {
				c.o.Log.Warn().Uint32("oid", c.found.table.oid).Uint32("was", was.Table).Stringer("since", was.Seen).Msg(replaced)
			}
		}
		return err
	case slot == nil || c.made || len(c.found.entries) == 0:
		return nil // FOR ALL TABLES it always was
	}
	return c.verifyEntries(ctx, slot)
}

// replaced is said of another table of the same name that is published without a gap.
const replaced = "the outbox table was replaced by another of its name, which the publication contains, too: nothing is missing; " +
	"rows that were copied into it under this name are published again, and rows that it had before it got the name are not published"

// verifyEntries asks whether the table was in the publication already where the slot
// is confirmed, when nothing is remembered: then the slot's position is where the last
// look was, or an older version's.
//
// The server does not say at which LSN a transaction committed. What it says is that
// one before the slot's catalog_xmin ended before the slot's position. A later one may
// have, too: catalog_xmin follows by the WAL's records of running transactions, which
// are written every 15 s. So a table that was added shortly before the slot was made is
// refused wrongly, if a transaction from before that ran meanwhile, and only until
// then. A table that came with the publication is not asked about: a row from before
// the publication is refused by PostgreSQL itself.
func (c *Conn) verifyEntries(ctx context.Context, slot *offsets.Slot) error {
	rows, err := c.rows(ctx, `SELECT coalesce(catalog_xmin::text, '0'), pg_snapshot_xmax(pg_current_snapshot())::text::numeric % 4294967296
		FROM pg_replication_slots WHERE slot_name = `+quote(c.o.Slot))
	if err != nil {
		return fmt.Errorf("read what the slot remembers of the catalog: %w", err)
	}
	if len(rows) == 0 {
		return nil
	}
	var r fields
	horizon, next := r.number([]byte(rows[0][0])), r.number([]byte(rows[0][1]))
	if r.err != nil {
		return fmt.Errorf("read what the slot remembers of the catalog: %w", r.err)
	}
	for _, e := range c.found.entries {
		if !between(e.xmin, horizon, next) || e.xmin == c.found.publication.xmin {
			return nil
		}
	}
	return &Unpublished{Accept: true, Since: slot.ConfirmedFlush,
		What: fmt.Sprintf("table %s was added to publication %s, and that was later than slot %q was confirmed", c.o.tableName(), QuoteIdent(c.o.Publication), c.o.Slot)}
}

// sinceSlot adds to an *Unpublished where the slot is confirmed: whoever confirmed it
// had found the outbox published.
func (c *Conn) sinceSlot(ctx context.Context, err error) error {
	var u *Unpublished
	if !errors.As(err, &u) {
		return err
	}
	slot, unknown := c.slot(ctx)
	if unknown != nil {
		return errors.Join(err, unknown)
	}
	if slot != nil {
		u.Since = slot.ConfirmedFlush
	}
	return err
}

// WarnTable logs what Verify found that is no error. It is called once a stream has
// begun: who waits for the slot looks again and again.
func (c *Conn) WarnTable() {
	if c.doubt != nil {
		c.doubt()
	}
}

// between reports whether x is a transaction from first on, before or at last: ids
// wrap around. One that is not is older than first.
func between(x, first, last uint32) bool { return x-first <= last-first }
