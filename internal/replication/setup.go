package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"

	"outboxd/offsets"
)

func (c *Conn) tableName() string { return QuoteIdent(c.o.Schema) + "." + QuoteIdent(c.o.Table) }

// checkTable compares the server and the outbox table with what the configuration
// says of them.
func (c *Conn) checkTable(ctx context.Context) (partitioned bool, err error) {
	if c.o.MessagePrefix != "" && c.version < 140000 {
		return false, setupError("update the server, or remove the key",
			"outbox.message_prefix needs PostgreSQL 14, the server is version %s", c.sql.ParameterStatus("server_version"))
	}
	if c.o.Table == "" {
		return false, nil
	}
	rows, err := c.rows(ctx, fmt.Sprintf(`SELECT c.relkind::text, c.relpersistence::text, a.attname,
			(WITH RECURSIVE base AS (
				SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
				UNION ALL SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM pg_type t JOIN base ON base.typtype = 'd' AND t.oid = base.typbasetype)
			 SELECT typname FROM base WHERE typtype <> 'd'),
			a.attgenerated::text,
			coalesce(a.attnotnull, false)::text, coalesce(a.atttypmod, -1)::text, coalesce(a.atthasdef, false)::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE n.nspname = %s AND c.relname = %s ORDER BY a.attnum`, quote(c.o.Schema), quote(c.o.Table)))
	if err != nil {
		return false, fmt.Errorf("read the outbox table's definition: %w", err)
	}
	if len(rows) == 0 {
		return false, setupError("create it (`outboxd init` prints the SQL) or correct outbox.table",
			"table %s does not exist in this database", c.tableName())
	}
	kind, persistence := rows[0][0], rows[0][1]
	if kind != "r" && kind != "p" {
		return false, setupError("outbox.table must be an ordinary or partitioned table", "%s is not a table", c.tableName())
	}
	if persistence != "p" {
		return false, setupError("make it logged: ALTER TABLE "+c.tableName()+" SET LOGGED",
			"table %s is unlogged or temporary, its rows never reach the WAL", c.tableName())
	}
	types, generated, defaults := make(map[string]string), make(map[string]string), make(map[string]bool)
	c.catalog.Attributes = make(map[string]Attribute)
	for _, row := range rows {
		types[row[2]] = row[3]
		generated[row[2]] = row[4]
		defaults[row[2]] = row[7] == "true"
		modifier, err := strconv.ParseInt(row[6], 10, 32)
		if err != nil {
			return false, fmt.Errorf("read the outbox table's definition: %w", err)
		}
		c.catalog.Attributes[row[2]] = Attribute{NotNull: row[5] == "true", Modifier: int32(modifier)}
	}
	for _, column := range c.o.Columns {
		typ, ok := types[column.Name]
		if !ok {
			return false, setupError("correct the name, or set it to \"\" to not read it",
				"%s: table %s has no column %q", column.Key, c.tableName(), column.Name)
		}
		if column.Types != nil && !slices.Contains(column.Types, typ) {
			return false, setupError("it must be "+strings.Join(column.Types, ", "),
				"%s: column %q of %s is of type %s", column.Key, column.Name, c.tableName(), typ)
		}
		if g := generated[column.Name]; g == "v" || g == "s" && c.version < 180000 {
			return false, setupError("read an ordinary column, which a trigger may fill; from PostgreSQL 18 a stored one will do, "+
				"with publish_generated_columns = stored on the publication",
				"%s: column %q of %s is generated, and logical replication leaves it out", column.Key, column.Name, c.tableName())
		}
		if column.NoDefault && defaults[column.Name] {
			return false, setupError("drop it: ALTER TABLE "+c.tableName()+" ALTER "+QuoteIdent(column.Name)+" DROP DEFAULT; or choose another form",
				"%s: column %q of %s has a default, which Debezium's schema would name", column.Key, column.Name, c.tableName())
		}
	}
	return kind == "p", nil
}

// preparePublication makes the publication when it is missing, and otherwise
// checks that it lets every insert into the outbox through.
func (c *Conn) preparePublication(ctx context.Context, partitioned bool, slot *offsets.Slot) error {
	name := QuoteIdent(c.o.Publication)
	rows, err := c.rows(ctx, `SELECT pubinsert, pubviaroot, puballtables FROM pg_publication WHERE pubname = `+quote(c.o.Publication))
	if err != nil {
		return fmt.Errorf("read publication: %w", err)
	}
	if len(rows) == 0 {
		if !c.o.Create {
			return setupError("create it (`outboxd init` prints the SQL) or set postgres.create: true",
				"publication %s does not exist", name)
		}
		if slot != nil {
			return publicationMissed(c.o, errors.New("it does not exist"))
		}
		if c.standby {
			return setupError("create it on the primary (`outboxd init` prints the SQL)", "publication %s does not exist, and this is a standby", name)
		}
		_, err := c.rows(ctx, CreatePublicationSQL(c.o.Publication, c.o.Schema, c.o.Table))
		switch sqlState(err) {
		case "":
		case duplicateObject:
			return c.preparePublication(ctx, partitioned, slot)
		case insufficientPrivilege:
			return &Error{fmt.Errorf("create publication %s: %w", name, err),
				"let the table's owner run the SQL that `outboxd init` prints, or grant the role CREATE on the database and ownership of the table"}
		}
		if err != nil {
			return fmt.Errorf("create publication %s: %w", name, err)
		}
		c.o.Log.Info().Str("publication", c.o.Publication).Msg("publication created")
		return nil
	}
	c.published = true
	if c.o.Table == "" {
		return nil // messages do not depend on what it publishes
	}
	insert, viaRoot := rows[0][0] == "t", rows[0][1] == "t"
	if !insert {
		return setupError("ALTER PUBLICATION "+name+" SET (publish = 'insert')", "publication %s does not publish inserts", name)
	}
	if partitioned && !viaRoot {
		return setupError("ALTER PUBLICATION "+name+" SET (publish_via_partition_root = true)",
			"publication %s names the partitions of %s instead of the table itself", name, c.tableName())
	}
	return c.checkPublished(ctx, name)
}

func (c *Conn) checkPublished(ctx context.Context, name string) error {
	filter, columns := "NULL", "NULL"
	if c.version >= 150000 {
		filter, columns = "rowfilter", "array_to_string(attnames, ',')"
	}
	rows, err := c.rows(ctx, fmt.Sprintf(`SELECT %s, %s FROM pg_publication_tables
		WHERE pubname = %s AND schemaname = %s AND tablename = %s`,
		filter, columns, quote(c.o.Publication), quote(c.o.Schema), quote(c.o.Table)))
	if err != nil {
		return fmt.Errorf("read publication's tables: %w", err)
	}
	if len(rows) == 0 {
		return setupError("ALTER PUBLICATION "+name+" ADD TABLE "+c.tableName(), "publication %s does not contain %s", name, c.tableName())
	}
	if rows[0][0] != "" {
		c.o.Log.Warn().Str("publication", c.o.Publication).Str("row_filter", rows[0][0]).
			Msg("the publication has a row filter: rows outside it are never published")
	}
	if columns == "NULL" {
		return nil
	}
	published := strings.Split(rows[0][1], ",")
	for _, column := range c.o.Columns {
		if !slices.Contains(published, column.Name) {
			return setupError("publish the table without a column list, or add the column to it",
				"%s: publication %s leaves out column %q", column.Key, name, column.Name)
		}
	}
	return nil
}

// CreatePublicationSQL makes the publication: inserts only, and under the name
// of the partitioned table itself, so that attaching a partition changes nothing.
// Without a table it is empty, and only there because a stream has to name one.
func CreatePublicationSQL(publication, schema, table string) string {
	if table == "" {
		return fmt.Sprintf("CREATE PUBLICATION %s WITH (publish = 'insert')", QuoteIdent(publication))
	}
	return fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s.%s WITH (publish = 'insert', publish_via_partition_root = true)",
		QuoteIdent(publication), QuoteIdent(schema), QuoteIdent(table))
}

// slot reads the slot, nil when there is none.
func (c *Conn) slot(ctx context.Context) (*offsets.Slot, error) {
	invalidation, failover, synced := "NULL", "false", "false"
	switch {
	case c.version >= 170000:
		invalidation, failover, synced = "invalidation_reason", "failover", "synced"
	case c.version >= 160000:
		invalidation = "CASE WHEN conflicting THEN 'conflict with recovery' END"
	}
	rows, err := c.rows(ctx, fmt.Sprintf(`SELECT slot_type, plugin, database = current_database(), wal_status, %s,
		coalesce(confirmed_flush_lsn, '0/0'), coalesce(restart_lsn, '0/0'), active, %s, %s
		FROM pg_replication_slots WHERE slot_name = %s`, invalidation, failover, synced, quote(c.o.Slot)))
	if err != nil {
		return nil, fmt.Errorf("read replication slot: %w", err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	r := rows[0]
	switch {
	case r[0] != "logical":
		return nil, setupError("name another slot in postgres.slot", "slot %q is a %s slot", c.o.Slot, r[0])
	case r[1] == "decoderbufs":
		return nil, setupError("stop the connector, wait until it has published everything, drop the slot and let outboxd make its own; or let Debezium itself change to plugin.name pgoutput first",
			"slot %q decodes with plugin decoderbufs, whose position only that plugin can go on from; outboxd reads pgoutput, and PostgreSQL cannot change a slot's plugin", c.o.Slot)
	case r[1] != "pgoutput":
		return nil, setupError("name another slot in postgres.slot, or drop it when its reader is gone",
			"slot %q decodes with plugin %s, outboxd reads pgoutput", c.o.Slot, r[1])
	case r[2] != "t":
		return nil, setupError("name another slot in postgres.slot, or correct the database in postgres.dsn",
			"slot %q belongs to another database", c.o.Slot)
	case c.standby && r[9] == "t":
		return nil, setupError("name another slot in postgres.slot, which is then made on the standby itself",
			"slot %q is the standby's copy of the primary's slot", c.o.Slot)
	}
	slot := &offsets.Slot{Name: c.o.Slot, WALStatus: r[3], Invalidation: r[4], Active: r[7] == "t", Failover: r[8] == "t"}
	if slot.ConfirmedFlush, err = pglogrepl.ParseLSN(r[5]); err != nil {
		return nil, fmt.Errorf("read replication slot: %w", err)
	}
	if slot.RestartLSN, err = pglogrepl.ParseLSN(r[6]); err != nil {
		return nil, fmt.Errorf("read replication slot: %w", err)
	}
	return slot, nil
}

// ensureFailover makes a slot one that standbys keep, if the options demand it,
// and otherwise says that it is none.
func (c *Conn) ensureFailover(ctx context.Context, slot *offsets.Slot) error {
	if c.version < 170000 || c.standby || c.o.Failover == "off" || slot.Failover || slot.Active || slot.Invalidation != "" {
		return nil
	}
	if c.o.Failover != "on" || !c.o.Create {
		c.o.Log.Warn().Str("slot", c.o.Slot).
			Msg("the slot is not a failover slot: it is lost when a standby is promoted; postgres.failover: on makes it one, off says that this is meant")
		return nil
	}
	return c.makeFailover(ctx)
}

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

// MakeSlot creates the slot. It waits for the transactions that are running.
func (c *Conn) MakeSlot(ctx context.Context) (*offsets.Slot, error) {
	if !c.o.Create {
		return nil, setupError("create it (`outboxd init` prints the SQL) or set postgres.create: true",
			"replication slot %q does not exist", c.o.Slot)
	}
	failover, wait := c.o.Failover, "creating the replication slot; this waits for transactions that are running"
	if c.standby {
		if failover == "on" {
			return nil, setupError("set it to auto or off", "postgres.failover: on: a slot on a standby cannot be a failover slot")
		}
		failover, wait = "off", "creating the replication slot; on a standby this waits until the primary logs its running transactions, "+
			"which SELECT pg_log_standby_snapshot() on the primary does at once"
	}
	sql, err := CreateSlotSQL(c.o.Slot, failover, c.version)
	if err != nil {
		return nil, err
	}
	c.o.Log.Info().Str("slot", c.o.Slot).Msg(wait)
	_, err = c.rows(ctx, sql)
	switch sqlState(err) {
	case duplicateObject:
	case insufficientPrivilege:
		return nil, &Error{fmt.Errorf("create replication slot %q: %w", c.o.Slot, err), "the role needs REPLICATION (see `outboxd init`)"}
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
