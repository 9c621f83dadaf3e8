package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// Snapshot is the outbox table as it was where a slot begins: what was committed
// before is in it, and what is committed after comes from the slot.
//
// The slot is temporary, and so ends with the connection that made it. Only when
// all rows of the snapshot are delivered is it copied to the slot of the
// configuration, so that a slot that exists says that they are. Nothing else
// remembers how far a backfill is. Whatever ends the process or a connection:
//
//  1. Before the temporary slot is usable, or while rows are read and published:
//     the server drops it with its connection. No slot is left, and the next
//     start begins anew with a snapshot of its own. Rows that were published are
//     published again; a row committed meanwhile is in the new snapshot.
//  2. After the last row is acknowledged and before the copy: the same.
//  3. After the copy: the slot is there. It begins where the snapshot ended and
//     was never confirmed beyond, so that the stream begins there, whether the
//     first position was confirmed or not. Nothing is backfilled again. The copy
//     itself is atomic: the server keeps a slot half made on no disk.
//  4. After the copy and before it is made a failover slot (PostgreSQL 17): the
//     next start does that.
//
// Two processes at once: the temporary slot's name is the lock. Who does not get
// it waits, and who gets it looks for the slot again, which the other may have
// made until then. After a failover to a standby during a backfill there is no
// slot either, for standbys do not have temporary ones.
type Snapshot struct {
	// LSN is where the slot begins: no transaction that comes from it has a
	// commit record before, and all in the snapshot have theirs before.
	LSN pglogrepl.LSN

	c     *Conn
	name  string
	files string // the table's files before the slot was made
}

// snapshotSlot names the temporary slot of a slot.
func snapshotSlot(slot string) string {
	const suffix = "_backfill"
	return slot[:min(len(slot), 63-len(suffix))] + suffix
}

// Snapshot checks table and publication, makes the temporary slot, and exports
// its snapshot. It returns nil when the slot of the configuration is there: then
// there is nothing to backfill. The connection serves the snapshot alone from
// then on.
func (c *Conn) Snapshot(ctx context.Context) (*Snapshot, error) {
	if done, err := c.backfilled(ctx); done || err != nil {
		return nil, err
	}
	_, err := c.checkTable(ctx)
	if err == nil {
		err = c.preparePublication(ctx, nil)
	}
	if err != nil {
		return nil, err
	}
	if c.o.Failover == "on" {
		if _, err := CreateSlotSQL(c.o.Slot, c.o.Failover, c.version); err != nil {
			return nil, err
		}
	}
	s := &Snapshot{c: c}
	if s.files, err = c.tableFiles(ctx); err != nil {
		return nil, err
	}
	if err := c.clearHalfMade(ctx, snapshotSlot(c.o.Slot)); err != nil {
		return nil, err
	}
	c.o.Log.Info().Str("slot", c.o.Slot).Msg("making a snapshot for the backfill; this waits for transactions that are running")
	var made pglogrepl.CreateReplicationSlotResult
	err = c.makeSlot(ctx, c.pg, func(ctx context.Context) (err error) {
		made, err = pglogrepl.CreateReplicationSlot(ctx, c.pg, QuoteIdent(snapshotSlot(c.o.Slot)), "pgoutput",
			pglogrepl.CreateReplicationSlotOptions{Temporary: true, Mode: pglogrepl.LogicalReplication, SnapshotAction: "EXPORT_SNAPSHOT"})
		return err
	})
	switch sqlState(err) {
	case duplicateObject:
		return nil, SlotInUse(fmt.Errorf("another process makes its backfill: %w", err))
	case configurationLimitExceeded:
		return nil, &Error{fmt.Errorf("create the backfill's replication slot: %w", err), freeSlot + "; the backfill needs two"}
	}
	if err != nil {
		return nil, fmt.Errorf("create the backfill's replication slot: %w", err)
	}
	if s.LSN, err = pglogrepl.ParseLSN(made.ConsistentPoint); err != nil {
		return nil, fmt.Errorf("create the backfill's replication slot: %w", err)
	}
	s.name = made.SnapshotName
	// Its former holder may have finished between our first look and our turn.
	if done, err := c.backfilled(ctx); done || err != nil {
		return nil, err
	}
	free, err := c.row(ctx, fmt.Sprintf(`SELECT current_setting('max_replication_slots')::int > count(*) FROM pg_replication_slots
		WHERE NOT (%t AND slot_name = %s)`, c.replaces, quote(c.o.Slot))) // a slot that is replaced makes room
	if err != nil {
		return nil, fmt.Errorf("count replication slots: %w", err)
	}
	if free[0] != "t" {
		return nil, setupError(freeSlot,
			"the backfill needs two replication slots until it is done, and one is free")
	}
	return s, nil
}

// backfilled tells whether the slot is there, and makes it a failover slot if a
// crash came before that.
func (c *Conn) backfilled(ctx context.Context) (bool, error) {
	if c.replaces {
		return false, nil
	}
	slot, err := c.slot(ctx)
	if slot == nil || err != nil {
		return false, err
	}
	if c.version >= 170000 && c.o.Failover != "off" && !slot.Failover && !slot.Active {
		if err := c.makeFailover(ctx); err != nil {
			c.o.Log.Warn().Err(err).Str("slot", c.o.Slot).Msg("the slot could not be made a failover slot")
		}
	}
	return true, nil
}

// tableFiles names the files that the table's rows are in. A truncation or a
// rewrite gives it others; both are seen at once by every snapshot, also by one
// from before.
func (c *Conn) tableFiles(ctx context.Context) (string, error) {
	row, err := c.row(ctx, fmt.Sprintf(`SELECT string_agg(oid || ' ' || coalesce(pg_relation_filenode(oid), 0), ',' ORDER BY oid) FROM (
			SELECT relid::oid AS oid FROM pg_partition_tree(%[1]s::regclass) UNION SELECT %[1]s::regclass::oid) t`, quote(c.tableName())))
	if err != nil {
		return "", fmt.Errorf("read the outbox table's files: %w", err)
	}
	return row[0], nil
}

// Open returns an ordinary connection in a transaction that sees the snapshot,
// prints values as the stream does, and has locked the table against changes of
// its form. The caller closes it.
func (s *Snapshot) Open(ctx context.Context) (_ *pgconn.PgConn, err error) {
	pg, err := s.c.beside(ctx, textOutput)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = pg.Close(context.WithoutCancel(ctx))
		}
	}()
	for _, sql := range []string{
		// A policy that hides rows is an error rather than a gap.
		`SET row_security = off`,
		// Rows without an order come as they lie in the table.
		`SET max_parallel_workers_per_gather = 0`,
		`SET synchronize_seqscans = off`,
		`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`,
		`SET TRANSACTION SNAPSHOT ` + quote(s.name),
		`LOCK TABLE ` + s.c.tableName() + ` IN ACCESS SHARE MODE`,
	} {
		if _, err = query(ctx, pg, sql); err != nil {
			break
		}
	}
	if sqlState(err) == insufficientPrivilege {
		return nil, &Error{fmt.Errorf("%w: read the outbox table: %w", ErrSetup, err),
			"outbox.backfill: existing reads the table: GRANT SELECT ON " + s.c.tableName() + " to the role"}
	}
	if err != nil {
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	files, err := s.c.tableFiles(ctx)
	if err != nil {
		return nil, err
	}
	if files != s.files {
		return nil, errors.New("the outbox table was changed, truncated or rewritten while its snapshot was made")
	}
	return pg, nil
}

// Filter returns the publication's row filter, "" for none: the stream passes
// over what is outside it.
func (s *Snapshot) Filter(ctx context.Context) (string, error) {
	if s.c.version < 150000 {
		return "", nil
	}
	rows, err := s.c.rows(ctx, fmt.Sprintf(`SELECT rowfilter FROM pg_publication_tables WHERE pubname = %s AND schemaname = %s AND tablename = %s`,
		quote(s.c.o.Publication), quote(s.c.o.Schema), quote(s.c.o.Table)))
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0][0], nil
}

// watchEvery is how often a snapshot's connections are looked after.
const watchEvery = 5 * time.Second

// Watch looks after the temporary slot until ctx ends (nil) or the slot does. It
// keeps both connections from looking idle, and ends no command in the middle:
// that would end the connection, and the slot with it.
func (s *Snapshot) Watch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		status, err := s.walStatus(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("look after the backfill's slot: %w", err)
		case status == "":
			return errors.New("look after the backfill's slot: it is gone")
		case status == "unreserved" || status == "lost":
			// Beginning anew would come to the same end, and publish all again.
			return setupError("raise it, or give the disk room and set it to -1 for the time of the backfill",
				"the WAL since the backfill's snapshot was made is more than max_slot_wal_keep_size keeps")
		}
	}
}

func (s *Snapshot) walStatus(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), silentAfter)
	defer cancel()
	// Any command would do. It ends the export; the snapshot is in use by now.
	if _, err := identifySystem(ctx, s.c.pg); err != nil {
		return "", err
	}
	rows, err := s.c.rows(ctx, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = "+quote(snapshotSlot(s.c.o.Slot)))
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0][0], nil
}

// MakeSlot makes the slot of the configuration, beginning where the snapshot
// ended. Watch must have ended.
func (s *Snapshot) MakeSlot(ctx context.Context) error {
	c := s.c
	if err := c.dropReplaced(ctx); err != nil {
		return err
	}
	for {
		_, err := c.rows(ctx, fmt.Sprintf("SELECT pg_copy_logical_replication_slot(%s, %s, false)", quote(snapshotSlot(c.o.Slot)), quote(c.o.Slot)))
		if err == nil {
			break
		}
		err = fmt.Errorf("create replication slot %q: %w", c.o.Slot, err)
		switch sqlState(err) {
		case duplicateObject:
			return setupError("let nobody else make it, drop it, and start again",
				"replication slot %q was made by another during the backfill, and begins behind its snapshot", c.o.Slot)
		case configurationLimitExceeded:
			// Not worth publishing everything again.
			c.o.Log.Warn().Err(err).Msg("the backfill is done, and waits for a free replication slot: " + freeSlot)
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(watchEvery):
		}
	}
	c.o.Log.Info().Str("slot", c.o.Slot).Stringer("lsn", s.LSN).Msg("replication slot created")
	if c.version >= 170000 && c.o.Failover != "off" {
		return c.makeFailover(ctx)
	}
	return nil
}
