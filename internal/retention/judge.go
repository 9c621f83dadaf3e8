package retention

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"outboxd/internal/replication"
)

// plan is how rows are removed from the table as it is now.
type plan struct {
	root relation
	// at is an SQL expression of a row t: the time from which it is kept. NULL keeps it.
	at     string
	leaves []relation
	// columns are those that are archived, quoted, and archive the table that they go to.
	columns []string
	archive string
	scheme  scheme // of DropPartitions
	floor   floor
	// segment and block are the sizes of the server's WAL segments and pages.
	segment, block int64
}

// relation is a table that has rows, or the partitioned one above it.
type relation struct {
	oid  string
	name string // quoted, with its schema
	kind string // pg_class.relkind
	file string // pg_relation_filenode: another after the table was rewritten
	may  bool   // read and delete its rows
	size int64  // bytes
}

// problem is what is wrong with a set-up.
type problem struct {
	what, fix string
	sql       []string
	// passes says that it may pass without a restart: a right can be granted at any time,
	// a standby is promoted. A start waits for that, and fails for other problems.
	passes bool
	// harmless says that rows are removed all the same.
	harmless bool
}

// rank is in which order problems are told.
func (p problem) rank() int {
	switch {
	case p.harmless:
		return 2
	case p.passes:
		return 1
	}
	return 0
}

// err is the error of a problem.
func (p problem) err() error {
	if p.passes {
		return &replication.Error{Err: fmt.Errorf("retention: %s", p.what), Hint: p.fix}
	}
	return replication.SetupError("retention: "+p.what, p.fix, p.sql...)
}

// facts are what judge asks of server and table first.
type facts struct {
	standby, tracked bool
	now, user        string
	segment, block   int64
}

// judge looks at the table and what removes its rows, and changes nothing. Problems that no
// retry can repair come first, and harmless ones last; err says that the server did not
// answer.
func (r *Retention) judge(ctx context.Context) (*plan, []problem, error) {
	f, err := r.facts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if f.standby {
		return nil, []problem{{passes: true, what: "the server is a standby, where no row can be removed",
			fix: "stream from the primary, or set retention.mode: off"}}, nil
	}
	if r.since == "" {
		r.since = f.now
	}
	p := &plan{segment: f.segment, block: f.block}
	if err := r.relations(ctx, p); err != nil {
		return nil, nil, err
	}
	columns, err := r.columns(ctx, p.root.oid)
	if err != nil {
		return nil, nil, err
	}
	found, err := r.judgePublication(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	further, err := r.judgePartman(ctx)
	if err != nil {
		return nil, nil, err
	}
	found = append(found, further...)
	further, err = r.judgeMode(ctx, p, f, columns)
	found = append(found, further...)
	slices.SortStableFunc(found, func(a, b problem) int { return a.rank() - b.rank() })
	return p, found, err
}

func (r *Retention) judgeMode(ctx context.Context, p *plan, f facts, columns []column) ([]problem, error) {
	if r.o.Mode == DropPartitions {
		return r.judgePartitions(ctx, p, f)
	}
	found := r.judgeTime(p, f, columns)
	found = append(found, r.judgeRights(p, f)...)
	if r.o.Mode == Archive {
		further, err := r.judgeArchive(ctx, p, f, columns)
		return append(found, further...), err
	}
	return found, nil
}

func (r *Retention) facts(ctx context.Context) (f facts, err error) {
	rows, err := r.conn.Rows(ctx, `SELECT pg_is_in_recovery(), current_setting('track_commit_timestamp'), now()::text, current_user,
		pg_size_bytes(current_setting('wal_segment_size')), current_setting('block_size')`)
	if err != nil {
		return f, fmt.Errorf("read server settings for retention: %w", err)
	}
	row := rows[0]
	f = facts{standby: row[0] == "t", tracked: row[1] == "on", now: row[2], user: replication.QuoteIdent(row[3])}
	if f.segment, err = strconv.ParseInt(row[4], 10, 64); err == nil {
		f.block, err = strconv.ParseInt(row[5], 10, 64)
	}
	return f, err
}

// tree is the outbox table with all of its partitions.
func (r *Retention) tree() string {
	return fmt.Sprintf(`WITH RECURSIVE part AS (
		SELECT c.oid, c.relkind, 0 AS depth FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
		UNION ALL SELECT i.inhrelid, k.relkind, part.depth + 1 FROM part JOIN pg_inherits i ON i.inhparent = part.oid AND part.relkind = 'p' JOIN pg_class k ON k.oid = i.inhrelid)`,
		replication.Literal(r.o.Source.Schema), replication.Literal(r.o.Source.Table))
}

// relations reads the table and its partitions.
func (r *Retention) relations(ctx context.Context, p *plan) error {
	rows, err := r.conn.Rows(ctx, r.tree()+` SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text, coalesce(pg_relation_filenode(c.oid), 0),
			has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE'),
			CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) ELSE 0 END
		FROM part JOIN pg_class c ON c.oid = part.oid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') ORDER BY part.depth, c.oid`)
	if err != nil {
		return fmt.Errorf("read the outbox table's partitions: %w", err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("table %s does not exist", r.table())
	}
	for i, row := range rows {
		l := relation{oid: row[0], name: row[1], kind: row[2], file: row[3], may: row[4] == "t"}
		if l.size, err = strconv.ParseInt(row[5], 10, 64); err != nil {
			return fmt.Errorf("read the size of %s: %w", l.name, err)
		}
		if i == 0 {
			p.root = l
		}
		if l.kind == "r" {
			p.leaves = append(p.leaves, l)
		}
	}
	return nil
}

func (r *Retention) table() string {
	return replication.QuoteIdent(r.o.Source.Schema) + "." + replication.QuoteIdent(r.o.Source.Table)
}

// column is one of a table.
type column struct {
	name, typ string
	base      string // pg_type.typname of the type, of a domain its base type's
	generated bool
	notNull   bool
	filled    bool // by a default, or as an identity
}

func (r *Retention) columns(ctx context.Context, oid string) (columns []column, err error) {
	rows, err := r.conn.Rows(ctx, `SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', a.attnotnull, a.atthasdef OR a.attidentity <> '',
			(WITH RECURSIVE base AS (
				SELECT t.typname, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
				UNION ALL SELECT t.typname, t.typtype, t.typbasetype FROM pg_type t JOIN base ON base.typtype = 'd' AND t.oid = base.typbasetype)
			 SELECT typname FROM base WHERE typtype <> 'd')
		FROM pg_attribute a WHERE a.attrelid = `+oid+` AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`)
	if err != nil {
		return nil, fmt.Errorf("read the columns of a table: %w", err)
	}
	for _, row := range rows {
		columns = append(columns, column{name: row[0], typ: row[1], base: row[5], generated: row[2] == "t", notNull: row[3] == "t", filled: row[4] == "t"})
	}
	return columns, nil
}

// judgePublication finds rows that are never published, and so never acknowledged, and
// deletes that are.
func (r *Retention) judgePublication(ctx context.Context, p *plan) (found []problem, err error) {
	name := replication.QuoteIdent(r.o.Source.Publication)
	filter := "false"
	if r.conn.Version >= 150000 {
		filter = `EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = ` + p.root.oid + ` AND r.prqual IS NOT NULL)`
	}
	rows, err := r.conn.Rows(ctx, `SELECT `+filter+`, p.pubdelete FROM pg_publication p WHERE p.pubname = `+replication.Literal(r.o.Source.Publication))
	if err != nil {
		return nil, fmt.Errorf("read publication %s: %w", name, err)
	}
	if len(rows) == 0 {
		return nil, nil // the connector's matter
	}
	if rows[0][0] == "t" {
		found = append(found, problem{what: fmt.Sprintf("publication %s has a row filter for %s: Kafka never acknowledges the rows that it leaves out, and nothing tells them from the others", name, r.table()),
			fix: "publish the table without a row filter, or set retention.mode: off",
			sql: []string{"ALTER PUBLICATION " + name + " DROP TABLE " + r.table(), "ALTER PUBLICATION " + name + " ADD TABLE " + r.table()}})
	}
	if rows[0][1] == "t" {
		sql := "ALTER PUBLICATION " + name + " SET (publish = 'insert')"
		found = append(found, problem{harmless: true, what: fmt.Sprintf("publication %s publishes deletes: PostgreSQL sends outboxd every row that retention removes, which passes it over", name), fix: sql, sql: []string{sql}})
	}
	return found, nil
}

// judgeTime decides by which time rows are kept.
func (r *Retention) judgeTime(p *plan, f facts, columns []column) (found []problem) {
	var times []string
	if name := r.o.Timestamp; name != "" {
		typ := ""
		for _, c := range columns {
			if c.name == name {
				typ = c.base
			}
		}
		expression := timeOf("t."+replication.QuoteIdent(name), typ)
		if expression == "" {
			return []problem{{what: fmt.Sprintf("outbox.columns.timestamp: column %q of %s is missing, or is of a type that is no time", name, r.table()),
				fix: "name a column of type timestamptz, timestamp or bigint (milliseconds since 1970)"}}
		}
		times = append(times, expression)
	}
	if f.tracked {
		// What has none was committed before it was tracked, or so long ago that the
		// server has forgotten it: before this process asked first.
		times = append(times, "pg_xact_commit_timestamp(t.xmin)", replication.Literal(r.since)+"::timestamptz")
	}
	switch {
	case times != nil:
		p.at = "coalesce(" + strings.Join(times, ", ") + ")"
	case r.o.Keep == 0:
		p.at = "'-infinity'::timestamptz"
	default:
		found = append(found, problem{what: "retention.keep needs the time of a row, and none can be read: outbox.columns.timestamp names no column, and track_commit_timestamp is off",
			fix: "name the column with the time of the event in outbox.columns.timestamp, or set track_commit_timestamp = on and restart PostgreSQL, or set retention.keep: 0s to remove rows as soon as Kafka has acknowledged them",
			sql: []string{"ALTER SYSTEM SET track_commit_timestamp = on"}})
	}
	return found
}

// timeOf makes a timestamptz of an expression of a type, "" if that is no time. It raises
// no error whatever the value is. A time that Go or RFC 3339 cannot say is none.
func timeOf(expression, typ string) string {
	switch typ {
	case "timestamptz":
		return expression
	case "timestamp":
		return expression + " AT TIME ZONE 'UTC'"
	case "date":
		return expression + "::timestamp AT TIME ZONE 'UTC'"
	case "int8":
		return "CASE WHEN " + expression + " BETWEEN -62135596800000 AND 253402300799999 THEN to_timestamp(" + expression + " / 1000.0) WHEN " + expression + " > 0 THEN 'infinity'::timestamptz END"
	}
	return ""
}

// judgeRights asks whether rows may be deleted: from each partition, or through the table.
func (r *Retention) judgeRights(p *plan, f facts) []problem {
	for _, l := range p.leaves {
		if !l.may && !p.root.may {
			grant := "GRANT SELECT, DELETE ON " + p.root.name + " TO " + f.user
			schema := "GRANT USAGE ON SCHEMA " + replication.QuoteIdent(r.o.Source.Schema) + " TO " + f.user
			return []problem{{passes: true, what: fmt.Sprintf("%s may not read and delete rows of %s", f.user, p.root.name),
				fix: "let the owner of the table run " + grant, sql: []string{schema, grant}}}
		}
	}
	return nil
}

// judgeArchive compares the archive table with the outbox.
func (r *Retention) judgeArchive(ctx context.Context, p *plan, f facts, columns []column) ([]problem, error) {
	p.archive = replication.QuoteIdent(r.o.ArchiveSchema) + "." + replication.QuoteIdent(r.o.ArchiveTable)
	create := fmt.Sprintf("CREATE TABLE %s (LIKE %s)", p.archive, p.root.name)
	rows, err := r.conn.Rows(ctx, r.tree()+fmt.Sprintf(`SELECT c.oid, c.relkind::text, c.relpersistence::text, EXISTS (SELECT FROM part WHERE part.oid = c.oid),
			has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'INSERT')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s`,
		replication.Literal(r.o.ArchiveSchema), replication.Literal(r.o.ArchiveTable)))
	if err != nil {
		return nil, fmt.Errorf("read the archive table: %w", err)
	}
	if len(rows) == 0 {
		return []problem{{what: "retention.archive_table: table " + p.archive + " does not exist", fix: create, sql: []string{create}}}, nil
	}
	row := rows[0]
	switch {
	case row[3] == "t":
		return []problem{{what: "retention.archive_table: " + p.archive + " is the outbox table, or a partition of it", fix: "name another table"}}, nil
	case row[1] != "r" && row[1] != "p":
		return []problem{{what: "retention.archive_table: " + p.archive + " is not a table", fix: "name an ordinary or partitioned table: rows move in one transaction"}}, nil
	case row[2] != "p":
		return []problem{{what: "retention.archive_table: " + p.archive + " is unlogged or temporary, and a crash empties it", fix: "ALTER TABLE " + p.archive + " SET LOGGED",
			sql: []string{"ALTER TABLE " + p.archive + " SET LOGGED"}}}, nil
	}
	there, err := r.columns(ctx, row[0])
	if err != nil {
		return nil, err
	}
	found := p.compare(columns, there)
	if row[4] != "t" {
		grant := "GRANT INSERT ON " + p.archive + " TO " + f.user
		found = append(found, problem{passes: true, what: fmt.Sprintf("%s may not insert into %s", f.user, p.archive), fix: "let the owner of the table run " + grant,
			sql: []string{"GRANT USAGE ON SCHEMA " + replication.QuoteIdent(r.o.ArchiveSchema) + " TO " + f.user, grant}})
	}
	return found, nil
}

// compare finds what keeps the archive from taking every row as it is, and sets the
// columns that are moved.
func (p *plan) compare(outbox, archive []column) (found []problem) {
	alter := func(what, action string) {
		sql := "ALTER TABLE " + p.archive + " " + action
		found = append(found, problem{what: "retention.archive_table: " + what, fix: sql, sql: []string{sql}})
	}
	known := make(map[string]column, len(archive))
	for _, c := range archive {
		known[c.name] = c
	}
	for _, c := range outbox {
		name := replication.QuoteIdent(c.name)
		a, there := known[c.name]
		delete(known, c.name)
		switch {
		case !there:
			alter(fmt.Sprintf("%s has no column %s, which %s has", p.archive, name, p.root.name), "ADD COLUMN "+name+" "+c.typ)
		case a.typ != c.typ:
			alter(fmt.Sprintf("column %s of %s is of type %s, and that of %s of type %s", name, p.archive, a.typ, p.root.name, c.typ), "ALTER COLUMN "+name+" TYPE "+c.typ)
		case a.generated && c.generated:
		case a.generated:
			alter(fmt.Sprintf("column %s of %s is generated, and that of %s is not", name, p.archive, p.root.name), "ALTER COLUMN "+name+" DROP EXPRESSION")
		case a.notNull && !c.notNull:
			alter(fmt.Sprintf("column %s of %s is NOT NULL, and that of %s is not", name, p.archive, p.root.name), "ALTER COLUMN "+name+" DROP NOT NULL")
		default:
			p.columns = append(p.columns, name)
		}
	}
	for _, c := range archive {
		if _, further := known[c.name]; further && c.notNull && !c.filled && !c.generated {
			name := replication.QuoteIdent(c.name)
			alter(fmt.Sprintf("column %s of %s is NOT NULL without a default, and %s has no such column", name, p.archive, p.root.name), "ALTER COLUMN "+name+" DROP NOT NULL")
		}
	}
	return found
}
