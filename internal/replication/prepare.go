package replication

import (
	"context"
	"fmt"

	"outboxd/offsets"
)

// Prepare checks table, publication and slot, makes what is missing if the
// options say so, and returns what is there. A slot is made only if none was
// ever used (first): a slot that vanished is not replaced silently.
func (c *Conn) Prepare(ctx context.Context, first bool) (offsets.Server, error) {
	slot, err := c.check(ctx)
	if err == nil {
		err = c.warnSynchronous(ctx)
	}
	if err != nil {
		return offsets.Server{}, c.sinceSlot(ctx, err)
	}
	switch {
	case slot == nil && first:
		if slot, err = c.MakeSlot(ctx); err != nil {
			return offsets.Server{}, err
		}
		if c.published && !c.standby {
			c.o.Log.Warn().Str("slot", c.o.Slot).Msg(slotVanished)
		}
	case slot != nil:
		if err := c.ensureFailover(ctx, slot); err != nil {
			return offsets.Server{}, err
		}
	}
	return c.server(ctx, slot), nil
}

const slotVanished = "the publication was there and the slot was not; if it was used before " +
	"(and is gone because a standby was promoted, or it was dropped), what was committed meanwhile is only in the outbox table"

// Inspect is Prepare for a command that changes nothing: nothing is made, and the
// slot stays as it is.
func (c *Conn) Inspect(ctx context.Context) (offsets.Server, error) {
	c.o.Create = false
	slot, err := c.check(ctx)
	if err != nil {
		return offsets.Server{}, err
	}
	return c.server(ctx, slot), nil
}

// check checks table, publication and slot, and makes the publication if it is
// missing and the options say so.
func (c *Conn) check(ctx context.Context) (*offsets.Slot, error) {
	partitioned, err := c.checkTable(ctx)
	if err != nil {
		return nil, err
	}
	if partitioned && c.version < 150000 {
		c.o.Log.Warn().Msg(c.o.attached())
	}
	slot, err := c.slot(ctx)
	if err != nil {
		return nil, err
	}
	// The publication is made before the slot: decoding uses the catalog as it
	// was, and a change older than the publication could not be decoded.
	return slot, c.preparePublication(ctx, slot)
}

// attached is said of a partitioned table before PostgreSQL 15: see pgoutput's cache
// of tables, get_rel_sync_entry.
func (o Options) attached() string {
	return "before PostgreSQL 15 a stream does not notice when a table that was written to is attached as a partition, or detached: " +
		"run ALTER PUBLICATION " + QuoteIdent(o.Publication) + " SET (publish = 'insert') in the same transaction"
}

// server is what the server says of itself and of the slot.
func (c *Conn) server(ctx context.Context, slot *offsets.Slot) offsets.Server {
	return offsets.Server{
		SystemID: c.system.SystemID,
		Timeline: c.system.Timeline,
		FlushLSN: c.system.XLogPos,
		Standby:  c.standby,
		Switches: c.switches(ctx),
		SlotName: c.o.Slot,
		Slot:     slot,
	}
}

// EndStale ends the server process of an earlier connection of this process, if
// it still holds the slot: the network may have told us of the end, and not the
// server.
func (c *Conn) EndStale(ctx context.Context, earlier Backend) error {
	if earlier.PID == 0 {
		return nil
	}
	row, err := c.row(ctx, fmt.Sprintf(`SELECT count(pg_terminate_backend(a.pid))
		FROM pg_stat_activity a JOIN pg_replication_slots s ON s.active_pid = a.pid
		WHERE s.slot_name IN (%s, %s) AND a.pid = %d AND a.backend_start = %s`,
		quote(c.o.Slot), quote(snapshotSlot(c.o.Slot)), earlier.PID, quote(earlier.Started)))
	if err != nil {
		return fmt.Errorf("end our earlier connection (pid %d): %w", earlier.PID, err)
	}
	if row[0] != "0" {
		c.o.Log.Info().Uint32("pid", earlier.PID).Msg("ended our own earlier connection, which still held the slot")
	}
	return nil
}
