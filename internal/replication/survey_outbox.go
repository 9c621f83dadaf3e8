package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"outboxd/internal/finding"
	"outboxd/offsets"
)

// table looks at the catalog for this and the next steps.
func (s *Survey) table(ctx context.Context) []finding.Finding {
	const subject = "table"
	l, err := lookOver(ctx, s.c.sql, s.o, s.c.version, 0, true)
	if err != nil {
		return one(fail(subject, err))
	}
	s.look = l
	if err := l.unfitItself(s.o); err != nil {
		f := fail(subject, err)
		if l.table == nil {
			f.SQL = []string{createTableSQL(s.o.tableName(), s.o)}
		}
		return one(f)
	}
	row, err := s.c.row(ctx, fmt.Sprintf(`SELECT current_user, has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
		FROM pg_class c WHERE c.oid = %d`, l.table.oid))
	if err != nil {
		return one(fail(subject, fmt.Errorf("read the rights to the table: %w", err)))
	}
	name := s.o.tableName()
	switch may := row[1] == "t"; {
	case !may && s.o.Backfill:
		return one(fail(subject, withSQL(&Error{fmt.Errorf("%s may not read %s, and outbox.backfill does", row[0], name), "let the owner of the table and of its schema grant it"},
			"GRANT USAGE ON SCHEMA "+QuoteIdent(s.o.Schema)+" TO "+QuoteIdent(row[0]), "GRANT SELECT ON "+name+" TO "+QuoteIdent(row[0]))))
	case !may:
		return one(finding.Ok(subject, name, "; ", row[0], " may not SELECT from it, which streaming does not need (outbox.backfill would)"))
	}
	return one(finding.Ok(subject, name))
}

// seen tells whether there is a table to judge.
func (s *Survey) seen() bool { return s.look != nil && s.look.table != nil }

const noTable = "the table was not found"

func (s *Survey) columns(context.Context) (found []finding.Finding) {
	const subject = "columns"
	if !s.seen() {
		return one(finding.Unchecked(subject, noTable))
	}
	for _, column := range s.o.Columns {
		if err := s.look.unfitColumn(s.o, s.c.version, column); err != nil {
			found = append(found, fail(subject, err))
		}
	}
	if found == nil {
		found = one(finding.Ok(subject, strconv.Itoa(len(s.o.Columns)), " are read, all there and of types that fit"))
	}
	return found
}

// parts looks for what is never decoded, and for rows that come twice.
func (s *Survey) parts(context.Context) (found []finding.Finding) {
	const subject = "partitions"
	if !s.seen() {
		return one(finding.Unchecked(subject, noTable))
	}
	for _, part := range s.look.parts {
		if err := (&look{parts: []lookPart{part}}).unfitParts(s.o); err != nil {
			found = append(found, fail(subject, err))
		}
	}
	for _, k := range s.look.keys {
		if k.mutable() {
			found = append(found, warn(subject, fmt.Sprintf("%s, column %s: %s", k.table, k.column, moves), "partition by a column that never changes"))
		}
	}
	if s.look.table.kind == "p" && s.c.version < 150000 {
		found = append(found, warn(subject, s.o.attached(), ""))
	}
	switch {
	case found != nil:
	case s.look.table.kind == "p":
		found = one(finding.Ok(subject, "all are decoded"))
	default:
		found = one(finding.Ok(subject, "none, and no table inherits from it"))
	}
	return found
}

// surveySlot reads the slot. It is before the publication, whose absence means
// something else when there is a slot.
func (s *Survey) surveySlot(ctx context.Context) []finding.Finding {
	const subject = "slot"
	c := s.c
	var err error
	if s.slot, s.halfMade, err = c.readSlot(ctx); err != nil {
		return one(fail(subject, err))
	}
	s.slotKnown = true
	switch {
	case s.halfMade:
		return one(warn(subject, fmt.Sprintf("%q is being made by another connection, or was left half made", c.o.Slot),
			"wait until the transactions that are running have ended; `outboxd run` ends what an outboxd that was killed has left"))
	case s.slot == nil:
		return one(s.missingSlot())
	}
	if err := offsets.Usable(s.slot); err != nil {
		refused := new(offsets.RefusedError)
		errors.As(err, &refused)
		return one(finding.Finding{Level: finding.Fail, Subject: subject, Text: refused.Detail, Fix: refused.Hint,
			SQL: []string{"SELECT pg_drop_replication_slot(" + quote(c.o.Slot) + ")"}})
	}
	if c.lacksFailover(s.slot) {
		return one(warn(subject, fmt.Sprintf("%q is not a failover slot: it is lost when a standby is promoted", c.o.Slot),
			"postgres.failover: on makes it one at the next start; off says that this is meant"))
	}
	text := fmt.Sprintf("%q, pgoutput, confirmed up to %s, WAL %s", c.o.Slot, s.slot.ConfirmedFlush, s.slot.WALStatus)
	if s.slot.Failover {
		text += ", a failover slot"
	}
	if !s.slot.Active {
		return one(finding.Ok(subject, text, ", in use by nobody"))
	}
	rows, err := c.rows(ctx, `SELECT s.active_pid, coalesce(a.application_name, ''), coalesce(a.usename, ''), coalesce(host(a.client_addr), 'this host')
		FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.active_pid IS NOT NULL AND s.slot_name = `+quote(c.o.Slot))
	if err != nil {
		return one(fail(subject, fmt.Errorf("look who uses the slot: %w", err)))
	}
	if len(rows) == 0 {
		return one(finding.Ok(subject, text, ", in use until just now"))
	}
	who := fmt.Sprintf("in use by server process %s (application %s, user %s, from %s)", rows[0][0], rows[0][1], rows[0][2], rows[0][3])
	if rows[0][1] != c.application && rows[0][1] != "" {
		return one(warn(subject, text+", "+who, "if that is not outboxd, name another slot in postgres.slot; until it ends, `outboxd run` waits for the slot"))
	}
	return one(finding.Ok(subject, text, ", ", who, "; another `outboxd run` stands by"))
}

func (s *Survey) missingSlot() finding.Finding {
	const subject = "slot"
	sql, err := s.c.missingSlot()
	if err != nil {
		return fail(subject, err)
	}
	if s.look != nil && s.look.publication != nil && !s.c.standby {
		return warn(subject, fmt.Sprintf("%q does not exist, and `outboxd run` makes it: %s", s.o.Slot, slotVanished),
			"where this is the first start, nothing is wrong; the SQL makes the slot now, from when on no event is lost", sql)
	}
	return finding.Ok(subject, fmt.Sprintf("%q does not exist; `outboxd run` makes it at its first start", s.o.Slot))
}

func (s *Survey) publication(ctx context.Context) (found []finding.Finding) {
	const subject = "publication"
	l, c := s.look, s.c
	switch {
	case !s.slotKnown:
		return one(finding.Unchecked(subject, "the slot could not be read"))
	case l == nil && s.o.Table != "":
		return one(finding.Unchecked(subject, noTable))
	case l == nil:
		var err error
		if l, err = lookOver(ctx, c.sql, s.o, c.version, 0, true); err != nil {
			return one(fail(subject, err))
		}
	}
	if l.publication == nil {
		if s.o.Table != "" && l.table == nil {
			return one(finding.Unchecked(subject, noTable))
		}
		return one(s.missingPublication(ctx, l))
	}
	if s.o.Table == "" {
		return one(finding.Ok(subject, QuoteIdent(s.o.Publication), "; messages do not depend on what it publishes"))
	}
	if l.table == nil {
		return one(finding.Unchecked(subject, noTable))
	}
	if err := l.unfitPublication(s.o); err != nil {
		s.unfit = true
		return one(fail(subject, s.since(err)))
	}
	for _, column := range s.o.Columns {
		if err := l.unlisted(s.o, column); err != nil {
			s.unfit = true
			found = append(found, fail(subject, err))
		}
	}
	filter, err := c.rowFilter(ctx, l)
	switch {
	case err != nil:
		found = append(found, fail(subject, err))
	case filter != "":
		found = append(found, warn(subject, fmt.Sprintf("%s: WHERE %s", filtered, filter), "publish the table without a row filter, unless this is meant",
			"ALTER PUBLICATION "+QuoteIdent(s.o.Publication)+" DROP TABLE "+s.o.tableName(), "ALTER PUBLICATION "+QuoteIdent(s.o.Publication)+" ADD TABLE "+s.o.tableName()))
	}
	if found == nil {
		found = one(finding.Ok(subject, QuoteIdent(s.o.Publication), " publishes every insert into ", s.o.tableName()))
	}
	return found
}

// origin says what becomes of rows that logical replication brings from other servers.
func (s *Survey) origin(ctx context.Context) []finding.Finding {
	const subject = "origin"
	if !s.seen() {
		return one(finding.Unchecked(subject, noTable))
	}
	rows, err := s.c.rows(ctx, fmt.Sprintf(`SELECT DISTINCT subname FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid
		WHERE srrelid = %[1]d OR srrelid IN (SELECT relid FROM pg_partition_tree(%[1]d)) ORDER BY 1`, s.look.table.oid))
	if err != nil {
		return one(fail(subject, fmt.Errorf("look which subscriptions write to the table: %w", err)))
	}
	const none = "none: only rows written here are published"
	var names []string
	for _, row := range rows {
		names = append(names, strconv.Quote(row[0]))
	}
	from := "subscription " + strings.Join(names, ", ")
	switch {
	case s.o.Origin == originNone && names == nil:
		return one(finding.Ok(subject, none, "; no subscription writes to the table"))
	case s.o.Origin == originNone:
		return one(finding.Ok(subject, none, ", not those that ", from, " brings"))
	case names != nil:
		return one(finding.Ok(subject, "any: rows that ", from, " brings are published too; postgres.origin: none leaves them out"))
	}
	return one(finding.Ok(subject, "any, and no subscription writes to the table"))
}

// since adds to an *Unpublished where the slot is confirmed.
func (s *Survey) since(err error) error {
	var u *Unpublished
	if errors.As(err, &u) && s.slot != nil {
		u.Since = s.slot.ConfirmedFlush
	}
	return err
}

// missingPublication judges whether a start can make the publication.
func (s *Survey) missingPublication(ctx context.Context, l *look) finding.Finding {
	const subject = "publication"
	name := QuoteIdent(s.o.Publication)
	sql, err := s.c.missingPublication(l, s.slot)
	if err != nil {
		return fail(subject, s.since(err))
	}
	owner := "true"
	if l.table != nil {
		owner = fmt.Sprintf("(SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = %d)", l.table.oid)
	}
	row, err := s.c.row(ctx, "SELECT current_user, has_database_privilege(current_database(), 'CREATE') AND "+owner)
	if err != nil {
		return fail(subject, fmt.Errorf("read the rights to create publication %s: %w", name, err))
	}
	if row[1] != "t" {
		return fail(subject, withSQL(&Error{fmt.Errorf("publication %s does not exist, and %s may not create it", name, row[0]), publicationRights}, sql))
	}
	return finding.Ok(subject, name, " does not exist; `outboxd run` makes it at its first start")
}

// free counts the slots and server processes that are left.
func (s *Survey) free(ctx context.Context) []finding.Finding {
	const subject = "free slots"
	row, err := s.c.row(ctx, `SELECT current_setting('max_replication_slots'), (SELECT count(*) FROM pg_replication_slots),
		current_setting('max_wal_senders'), (SELECT count(*) FROM pg_stat_replication)`)
	if err != nil {
		return one(fail(subject, fmt.Errorf("count replication slots: %w", err)))
	}
	var n [4]int
	for i := range n {
		if n[i], err = strconv.Atoi(row[i]); err != nil {
			return one(fail(subject, fmt.Errorf("count replication slots: %w", err)))
		}
	}
	if s.replicates {
		n[3]-- // this one
	}
	slots, senders := max(0, n[0]-n[1]), max(0, n[2]-n[3])
	needed := 0
	if s.slot == nil && s.slotKnown {
		needed = 1
		if s.o.Backfill {
			needed = 2 // a temporary one has the snapshot
		}
	}
	text := fmt.Sprintf("%d of %d slots (max_replication_slots) and %d of %d senders (max_wal_senders) are free", slots, n[0], senders, n[2])
	raise := func(setting string, to int) []string {
		return []string{fmt.Sprintf("ALTER SYSTEM SET %s = %d", setting, to)}
	}
	switch {
	case slots < needed:
		return one(finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("%s; a first start makes %d", text, needed),
			Fix: freeSlot + "; the setting needs a restart of the server", SQL: raise("max_replication_slots", n[0]+10)})
	case senders < 1 && (s.slot == nil || !s.slot.Active):
		return one(finding.Finding{Level: finding.Fail, Subject: subject, Text: text + "; a stream needs one",
			Fix: "raise max_wal_senders and restart the server, or end one that nobody needs", SQL: raise("max_wal_senders", n[2]+10)})
	case slots-needed < 1:
		return one(warn(subject, text+"; `outboxd replay` needs a temporary slot", freeSlot+"; the setting needs a restart of the server", raise("max_replication_slots", n[0]+10)...))
	}
	return one(finding.Ok(subject, text))
}
