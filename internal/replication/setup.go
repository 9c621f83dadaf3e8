package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pglogrepl"

	"outboxd/offsets"
)

func (c *Conn) tableName() string { return c.o.tableName() }

// checkTable compares the server and the outbox table with what the configuration
// says of them.
func (c *Conn) checkTable(ctx context.Context) (partitioned bool, err error) {
	if err := cmp.Or(c.unfitMessages(), c.unfitOrigin()); err != nil {
		return false, err
	}
	if c.o.Table == "" {
		return false, nil
	}
	if c.found, err = lookOver(ctx, c.sql, c.o, c.version, 0, true); err != nil {
		return false, err
	}
	if err := c.found.unfitTable(c.o); err != nil {
		return false, err
	}
	c.catalog.Attributes = make(map[string]Attribute)
	for _, column := range c.found.columns {
		c.catalog.Attributes[column.name] = column.attribute
	}
	return c.found.table.kind == "p", c.found.unfit(c.o, c.version)
}

// unfitMessages judges whether the server decodes messages, if they are wanted.
func (c *Conn) unfitMessages() error {
	if c.o.MessagePrefix != "" && c.version < 140000 {
		return setupError("update the server, or remove the key",
			"outbox.message_prefix needs PostgreSQL 14, the server is version %s", c.sql.ParameterStatus("server_version"))
	}
	return nil
}

// unfitOrigin judges whether the server can tell what was written here, if that is
// wanted.
func (c *Conn) unfitOrigin() error {
	if c.o.Origin == originNone && c.version < 160000 {
		return setupError("update the server; or set it to any, and let a row filter of the publication select the rows (PostgreSQL 15)",
			"postgres.origin: none needs PostgreSQL 16, the server is version %s", c.sql.ParameterStatus("server_version"))
	}
	return nil
}

// preparePublication makes the publication when it is missing, and checks that it
// lets every insert into the outbox through, also when it was made just now.
func (c *Conn) preparePublication(ctx context.Context, slot *offsets.Slot) error {
	l, err := lookOver(ctx, c.sql, c.o, c.version, 0, true)
	if err != nil {
		return err
	}
	if l.publication == nil {
		if err := c.createPublication(ctx, l, slot); err != nil {
			return err
		}
		if l, err = lookOver(ctx, c.sql, c.o, c.version, 0, true); err != nil {
			return err
		}
		if l.publication == nil {
			return fmt.Errorf("create publication %s: it vanished at once", QuoteIdent(c.o.Publication))
		}
	}
	c.published = !c.o.Shared.ownPublication()
	if c.o.Table == "" {
		return nil // messages do not depend on what it publishes
	}
	if err := l.unfitTable(c.o); err != nil {
		return err
	}
	if err := l.unfitPublication(c.o); err != nil {
		return err
	}
	c.found = l
	if err := l.unfitList(c.o); err != nil {
		return err
	}
	return c.warnFilter(ctx)
}

// createPublication makes the publication that l has looked for, or finds that another
// has made it since.
func (c *Conn) createPublication(ctx context.Context, l *look, slot *offsets.Slot) error {
	sql, err := c.missingPublication(l, slot)
	if err != nil {
		return err
	}
	name := QuoteIdent(c.o.Publication)
	_, err = c.rows(ctx, sql)
	switch sqlState(err) {
	case "":
	case duplicateObject:
		return nil
	case insufficientPrivilege:
		return &Error{fmt.Errorf("create publication %s: %w", name, err), publicationRights}
	}
	if err != nil {
		return fmt.Errorf("create publication %s: %w", name, err)
	}
	c.o.Shared.madePublication()
	c.o.Log.Info().Str("publication", c.o.Publication).Msg("publication created")
	return nil
}

const publicationRights = "let the table's owner run the SQL that `outboxd init` prints, or grant the role CREATE on the database and ownership of the table"

// missingPublication returns the SQL that makes the publication, which l has not
// found, or why outboxd does not make it.
func (c *Conn) missingPublication(l *look, slot *offsets.Slot) (string, error) {
	name := QuoteIdent(c.o.Publication)
	sql := CreatePublicationSQL(c.o.Publication, c.o.Schema, c.o.Table,
		slices.ContainsFunc(c.o.Columns, func(column Column) bool { return l.generated(column.Name) }))
	switch {
	case slot != nil:
		return "", publicationMissed(c.o, errors.New("it does not exist"))
	case !c.o.Create:
		return "", withSQL(setupError("create it (`outboxd init` prints the SQL) or set postgres.create: true",
			"publication %s does not exist", name), sql)
	case c.standby:
		return "", withSQL(setupError("create it on the primary (`outboxd init` prints the SQL)", "publication %s does not exist, and this is a standby", name), sql)
	}
	return sql, nil
}

// warnFilter says that the publication has a row filter.
func (c *Conn) warnFilter(ctx context.Context) error {
	filter, err := c.rowFilter(ctx, c.found)
	if err == nil && filter != "" {
		c.o.Log.Warn().Str("publication", c.o.Publication).Str("row_filter", filter).Msg(filtered)
	}
	return err
}

const filtered = "the publication has a row filter: rows outside it are never published"

// rowFilter returns the publication's row filter of the table, "" if it has none.
func (c *Conn) rowFilter(ctx context.Context, l *look) (string, error) {
	entry := l.entry()
	if entry == nil || !entry.filter {
		return "", nil
	}
	rows, err := c.rows(ctx, fmt.Sprintf(`SELECT pg_get_expr(prqual, prrelid) FROM pg_publication_rel WHERE oid = %d`, entry.oid))
	if err != nil {
		return "", fmt.Errorf("read the publication's row filter: %w", err)
	}
	if len(rows) == 0 {
		return "", nil
	}
	return rows[0][0], nil
}

// CreatePublicationSQL makes the publication: inserts only, and under the name
// of the partitioned table itself, so that attaching a partition changes nothing.
// Without a table it is empty, and only there because a stream has to name one.
// generated publishes stored generated columns, which PostgreSQL 18 can.
func CreatePublicationSQL(publication, schema, table string, generated bool) string {
	if table == "" {
		return fmt.Sprintf("CREATE PUBLICATION %s WITH (publish = 'insert')", QuoteIdent(publication))
	}
	further := ""
	if generated {
		further = ", publish_generated_columns = stored"
	}
	return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s.%s WITH (publish = 'insert', publish_via_partition_root = true%s)",
		QuoteIdent(publication), QuoteIdent(schema), QuoteIdent(table), further)
}

// slot reads the slot, nil when there is none. It ends what an outboxd that was
// killed has left of it half made.
func (c *Conn) slot(ctx context.Context) (*offsets.Slot, error) {
	slot, halfMade, err := c.readSlot(ctx)
	if err == nil && halfMade {
		if err := c.clearHalfMade(ctx, c.o.Slot); err != nil {
			return nil, err
		}
		return c.slot(ctx)
	}
	return slot, err
}

// readSlot reads the slot, nil when there is none, and changes nothing. halfMade says
// that somebody is making it, and there is none yet.
func (c *Conn) readSlot(ctx context.Context) (slot *offsets.Slot, halfMade bool, err error) {
	invalidation, failover, synced := "NULL", "false", "false"
	switch {
	case c.version >= 170000:
		invalidation, failover, synced = "invalidation_reason", "failover", "synced"
	case c.version >= 160000:
		invalidation = "CASE WHEN conflicting THEN 'conflict with recovery' END"
	}
	rows, err := c.rows(ctx, fmt.Sprintf(`SELECT slot_type, plugin, database = current_database(), wal_status, %s,
		coalesce(confirmed_flush_lsn, '0/0'), coalesce(restart_lsn, '0/0'), active, %s, %s, confirmed_flush_lsn IS NULL AND active_pid IS NOT NULL
		FROM pg_replication_slots WHERE slot_name = %s`, invalidation, failover, synced, quote(c.o.Slot)))
	if err != nil {
		return nil, false, fmt.Errorf("read replication slot: %w", err)
	}
	if len(rows) == 0 {
		return nil, false, nil
	}
	r := rows[0]
	switch {
	case r[0] != "logical":
		return nil, false, setupError("name another slot in postgres.slot", "slot %q is a %s slot", c.o.Slot, r[0])
	case r[1] == "decoderbufs":
		return nil, false, setupError("stop the connector, wait until it has published everything, drop the slot and let outboxd make its own; or let Debezium itself change to plugin.name pgoutput first",
			"slot %q decodes with plugin decoderbufs, whose position only that plugin can go on from; outboxd reads pgoutput, and PostgreSQL cannot change a slot's plugin", c.o.Slot)
	case r[1] != "pgoutput":
		return nil, false, setupError("name another slot in postgres.slot, or drop it when its reader is gone",
			"slot %q decodes with plugin %s, outboxd reads pgoutput", c.o.Slot, r[1])
	case r[2] != "t":
		return nil, false, setupError("name another slot in postgres.slot, or correct the database in postgres.dsn",
			"slot %q belongs to another database", c.o.Slot)
	case c.standby && r[9] == "t":
		return nil, false, setupError("name another slot in postgres.slot, which is then made on the standby itself",
			"slot %q is the standby's copy of the primary's slot", c.o.Slot)
	}
	if r[10] == "t" {
		return nil, true, nil
	}
	slot = &offsets.Slot{Name: c.o.Slot, WALStatus: r[3], Invalidation: r[4], Active: r[7] == "t", Failover: r[8] == "t"}
	if slot.ConfirmedFlush, err = pglogrepl.ParseLSN(r[5]); err != nil {
		return nil, false, fmt.Errorf("read replication slot: %w", err)
	}
	if slot.RestartLSN, err = pglogrepl.ParseLSN(r[6]); err != nil {
		return nil, false, fmt.Errorf("read replication slot: %w", err)
	}
	return slot, false, nil
}

// ensureFailover makes a slot one that standbys keep, if the options demand it,
// and otherwise says that it is none.
func (c *Conn) ensureFailover(ctx context.Context, slot *offsets.Slot) error {
	if !c.lacksFailover(slot) || slot.Active {
		return nil
	}
	if c.o.Failover != "on" || !c.o.Create {
		c.o.Log.Warn().Str("slot", c.o.Slot).Msg(noFailover)
		return nil
	}
	return c.makeFailover(ctx)
}

// lacksFailover reports whether the slot could be a failover slot, and is none.
func (c *Conn) lacksFailover(slot *offsets.Slot) bool {
	return c.version >= 170000 && !c.standby && c.o.Failover != "off" && !slot.Failover && slot.Invalidation == ""
}

const noFailover = "the slot is not a failover slot: it is lost when a standby is promoted; postgres.failover: on makes it one, off says that this is meant"

func (c *Conn) makeFailover(ctx context.Context) error {
	_, err := query(ctx, c.pg, fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER)", QuoteIdent(c.o.Slot)))
	if sqlState(err) == objectInUse {
		return SlotInUse(err)
	}
	if err != nil {
		return fmt.Errorf("make replication slot %q a failover slot: %w", c.o.Slot, err)
	}
	c.o.Log.Info().Str("slot", c.o.Slot).Msg("the slot is a failover slot now")
	return nil
}

// missingSlot returns the SQL that makes the slot, or why outboxd does not make it.
func (c *Conn) missingSlot() (string, error) {
	failover := c.o.Failover
	if c.standby {
		if failover == "on" && c.o.Create {
			return "", setupError("set it to auto or off", "postgres.failover: on: a slot on a standby cannot be a failover slot")
		}
		failover = "off"
	}
	sql, err := CreateSlotSQL(c.o.Slot, failover, c.version)
	if !c.o.Create {
		err = setupError("create it (`outboxd init` prints the SQL) or set postgres.create: true",
			"replication slot %q does not exist", c.o.Slot)
		if sql != "" {
			err = withSQL(err, sql)
		}
	}
	return sql, err
}

// MakeSlot creates the slot. It waits for the transactions that are running.
func (c *Conn) MakeSlot(ctx context.Context) (*offsets.Slot, error) {
	sql, err := c.missingSlot()
	if err != nil {
		return nil, err
	}
	wait := "creating the replication slot; this waits for transactions that are running"
	if c.standby {
		wait = "creating the replication slot; on a standby this waits until the primary logs its running transactions, " +
			"which SELECT pg_log_standby_snapshot() on the primary does at once"
	}
	if err := c.clearHalfMade(ctx, c.o.Slot); err != nil {
		return nil, err
	}
	c.o.Log.Info().Str("slot", c.o.Slot).Msg(wait)
	c.checkClient(ctx)
	err = c.makeSlot(ctx, c.sql, func(ctx context.Context) error {
		_, err := queryUnbounded(ctx, c.sql, sql)
		return err
	})
	switch sqlState(err) {
	case duplicateObject:
		if err := c.clearHalfMade(ctx, c.o.Slot); err != nil {
			return nil, err
		}
	case insufficientPrivilege:
		return nil, &Error{fmt.Errorf("create replication slot %q: %w", c.o.Slot, err), "the role needs REPLICATION: " + managedReplication}
	case configurationLimitExceeded:
		return nil, &Error{fmt.Errorf("create replication slot %q: %w", c.o.Slot, err), freeSlot}
	default:
		if err != nil {
			return nil, fmt.Errorf("create replication slot %q: %w", c.o.Slot, err)
		}
	}
	slot, err := c.slot(ctx)
	if err != nil {
		return nil, err
	}
	if slot == nil {
		return nil, fmt.Errorf("create replication slot %q: it vanished at once", c.o.Slot)
	}
	c.made = true
	// The slot starts after what IDENTIFY_SYSTEM said.
	c.system.XLogPos = max(c.system.XLogPos, slot.ConfirmedFlush)
	c.o.Log.Info().Str("slot", c.o.Slot).Stringer("lsn", slot.ConfirmedFlush).Msg("replication slot created")
	return slot, nil
}

// CreateSlotSQL makes the slot; serverVersion is server_version_num. A failover
// slot, which standbys keep in step, exists since PostgreSQL 17.
func CreateSlotSQL(slot, failover string, serverVersion int) (string, error) {
	switch {
	case serverVersion >= 170000 && failover != "off":
		return fmt.Sprintf("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, false, true)", quote(slot)), nil
	case failover == "on":
		return "", setupError("set it to auto or off", "postgres.failover: on needs PostgreSQL 17, the server has %d", serverVersion/10000)
	}
	return fmt.Sprintf("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", quote(slot)), nil
}
