package replication

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/offsets"
)

// look is what the catalog says of the outbox table and its publication at one
// moment. A start judges all of it. While a stream runs, what can make rows vanish
// without a word is looked at again and again: PostgreSQL decodes a row only if the
// table was published when the row was written, and says nothing of the others.
type look struct {
	// changing says that a transaction has changed the table's entry in the
	// publication, or the publication, and had not ended when the look began. Its
	// commit record may be in the WAL already, as while it waits for a synchronous
	// standby, although no query can see its work yet.
	changing bool

	table       *lookTable // nil: there is none of that name
	renamed     string     // the remembered table's name of now, "" when it is gone
	publication *lookPublication
	// entries put the table, or a table that it is a partition of, into the
	// publication.
	entries []lookEntry
	// parts are the parts of the table that are never decoded under its name.
	parts []lookPart

	// The rest is read at a start only.
	columns []lookColumn
	keys    []lookKey
}

type lookTable struct {
	oid         uint32
	kind        string // pg_class.relkind
	persistence string
	isPartition bool
}

type lookPublication struct {
	oid, xmin                             uint32
	insert, viaRoot, allTables, generated bool
}

type lookEntry struct {
	oid    uint32
	own    bool // of the table itself, or its schema
	schema bool // TABLES IN SCHEMA
	xmin   uint32
	filter bool
	// columns is the column list; nil: all.
	columns []string
}

type lookPart struct {
	name              string // quoted
	kind, persistence string
	inherits          bool // INHERITS, and not a partition
}

type lookColumn struct {
	name, typ, generated string
	hasDefault           bool
	attribute            Attribute
}

// lookKey is a column that decides which partition a row is in.
type lookKey struct{ table, column, typ, kind string }

// lookStatements returns the queries of a look, in the order in which lookFrom reads
// their results. was is the table's remembered OID.
//
// A look is one round trip. Every query sees what was committed when it began, and the
// first one, which looks for transactions in progress, comes before those that would
// see their work. Nothing in it takes a lock that the table's DDL holds.
func lookStatements(o Options, version int, was uint32, start bool) []string {
	table := fmt.Sprintf(`(SELECT c.* , c.oid AS id FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s)`,
		quote(o.Schema), quote(o.Table))
	publication := fmt.Sprintf(`(SELECT p.*, p.oid AS id FROM pg_publication p WHERE p.pubname = %s)`, quote(o.Publication))
	generated, filter, columns := "'n'", "false", "NULL::text"
	inSchema, inSchemaXmax := "", ""
	if version >= 150000 {
		filter = "r.prqual IS NOT NULL"
		columns = "(SELECT json_agg(a.attname)::text FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs))"
		inSchema = ` UNION ALL SELECT s.oid, line.own, true, s.xmin, false, NULL
			FROM line JOIN pg_publication_namespace s ON s.pnnspid = line.relnamespace JOIN ` + publication + ` p ON p.id = s.pnpubid`
		inSchemaXmax = ` UNION ALL SELECT s.xmax FROM pg_publication_namespace s JOIN ` + publication + ` p ON p.id = s.pnpubid`
	}
	if version >= 180000 {
		generated = "pubgencols"
	}
	statements := []string{
		// A transaction holds the lock of its id, and of its subtransactions', until
		// everybody can see its work.
		`SELECT count(*) FROM (
			SELECT p.xmax AS x FROM pg_publication p WHERE p.pubname = ` + quote(o.Publication) + `
			UNION ALL SELECT r.xmax FROM pg_publication_rel r JOIN ` + publication + ` p ON p.id = r.prpubid JOIN ` + table + ` c ON c.id = r.prrelid` +
			inSchemaXmax + `) t
		WHERE t.x::text <> '0' AND EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'transactionid' AND l.transactionid = t.x)`,

		`SELECT c.id, c.relkind::text, c.relpersistence::text, c.relispartition FROM ` + table + ` c`,

		fmt.Sprintf(`SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %d`, was),

		`SELECT p.oid, pubinsert, pubviaroot, puballtables, ` + generated + `::text = 's', p.xmin FROM pg_publication p WHERE p.pubname = ` + quote(o.Publication),

		`WITH line AS (
			SELECT c.id, c.relnamespace, true AS own FROM ` + table + ` c
			UNION ALL SELECT a.oid, a.relnamespace, false FROM ` + table + ` c, pg_partition_ancestors(c.id) p, pg_class a WHERE a.oid = p.relid AND a.oid <> c.id)
		SELECT r.oid, line.own, false, r.xmin, ` + filter + `, ` + columns + `
			FROM line JOIN pg_publication_rel r ON r.prrelid = line.id JOIN ` + publication + ` p ON p.id = r.prpubid` + inSchema,

		`WITH RECURSIVE part AS (
			SELECT i.inhrelid AS id, c.relkind AS parent FROM ` + table + ` c JOIN pg_inherits i ON i.inhparent = c.id
			UNION ALL SELECT i.inhrelid, c.relkind FROM part JOIN pg_class c ON c.oid = part.id JOIN pg_inherits i ON i.inhparent = c.oid)
		SELECT n.nspname, c.relname, c.relkind::text, c.relpersistence::text, part.parent <> 'p'
			FROM part JOIN pg_class c ON c.oid = part.id JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE part.parent <> 'p' OR c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p' ORDER BY 1, 2 LIMIT 5`,

		// What was dropped since it was read has no entries any more: it is the reason.
		`SELECT EXISTS (SELECT FROM ` + table + ` c), EXISTS (SELECT FROM ` + publication + ` p)`,
	}
	if !start {
		return statements
	}
	return append(statements,
		`SELECT a.attname, (WITH RECURSIVE base AS (
				SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
				UNION ALL SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM pg_type t JOIN base ON base.typtype = 'd' AND t.oid = base.typbasetype)
			 SELECT typname FROM base WHERE typtype <> 'd'),
			a.attgenerated::text, a.attnotnull, a.atttypmod, a.atthasdef
		FROM `+table+` c JOIN pg_attribute a ON a.attrelid = c.id AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,

		`WITH RECURSIVE part AS (
			SELECT c.id FROM `+table+` c
			UNION ALL SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.id)
		SELECT c.relname, a.attname, t.typname, t.typtype::text FROM part JOIN pg_class c ON c.oid = part.id
			JOIN pg_partitioned_table k ON k.partrelid = part.id JOIN pg_attribute a ON a.attrelid = part.id AND a.attnum = ANY (k.partattrs)
			JOIN pg_type t ON t.oid = a.atttypid ORDER BY 1, 2`)
}

// lookOver looks over an ordinary connection. After an error the connection is of no
// further use.
func lookOver(ctx context.Context, pg *pgconn.PgConn, o Options, version int, was uint32, start bool) (*look, error) {
	statements := lookStatements(o, version, was, start)
	// A role's default_transaction_isolation must not make one snapshot of all.
	sql := "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;" + strings.Join(statements, ";") + ";COMMIT"
	results, err := ask(ctx, pg, func(ctx context.Context) ([]*pgconn.Result, error) { return pg.Exec(ctx, sql).ReadAll() })
	if err == nil && len(results) != len(statements)+2 {
		err = fmt.Errorf("%d results instead of %d", len(results), len(statements)+2)
	}
	var l *look
	if err == nil {
		l, err = lookFrom(results[1:len(results)-1], start)
	}
	if err != nil {
		return nil, fmt.Errorf("read the definition of the outbox table and its publication: %w", err)
	}
	return l, nil
}

// lookFrom reads the results of lookStatements.
func lookFrom(results []*pgconn.Result, start bool) (*look, error) {
	var r fields
	l := &look{}
	for _, row := range results[0].Rows {
		l.changing = string(row[0]) != "0"
	}
	for _, row := range results[1].Rows {
		l.table = &lookTable{r.number(row[0]), string(row[1]), string(row[2]), truth(row[3])}
	}
	for _, row := range results[2].Rows {
		l.renamed = QuoteIdent(string(row[0])) + "." + QuoteIdent(string(row[1]))
	}
	for _, row := range results[3].Rows {
		l.publication = &lookPublication{r.number(row[0]), r.number(row[5]), truth(row[1]), truth(row[2]), truth(row[3]), truth(row[4])}
	}
	for _, row := range results[4].Rows {
		e := lookEntry{oid: r.number(row[0]), own: truth(row[1]), schema: truth(row[2]), xmin: r.number(row[3]), filter: truth(row[4])}
		if row[5] != nil {
			// As JSON: a name may hold any character that would separate it.
			if err := json.Unmarshal(row[5], &e.columns); err != nil {
				return nil, err
			}
		}
		l.entries = append(l.entries, e)
	}
	for _, row := range results[5].Rows {
		l.parts = append(l.parts, lookPart{QuoteIdent(string(row[0])) + "." + QuoteIdent(string(row[1])), string(row[2]), string(row[3]), truth(row[4])})
	}
	for _, row := range results[6].Rows {
		if !truth(row[0]) {
			l.table = nil
		}
		if !truth(row[1]) {
			l.publication = nil
		}
	}
	if start {
		for _, row := range results[7].Rows {
			l.columns = append(l.columns, lookColumn{
				name: string(row[0]), typ: string(row[1]), generated: string(row[2]), hasDefault: truth(row[5]),
				attribute: Attribute{NotNull: truth(row[3]), Modifier: r.signed(row[4]), Type: string(row[1])},
			})
		}
		for _, row := range results[8].Rows {
			l.keys = append(l.keys, lookKey{string(row[0]), string(row[1]), string(row[2]), string(row[3])})
		}
	}
	return l, r.err
}

// fields reads numbers, and keeps the first error.
type fields struct{ err error }

func (f *fields) number(text []byte) uint32 {
	n, err := strconv.ParseUint(string(text), 10, 32)
	if f.err == nil {
		f.err = err
	}
	return uint32(n)
}

func (f *fields) signed(text []byte) int32 {
	n, err := strconv.ParseInt(string(text), 10, 32)
	if f.err == nil {
		f.err = err
	}
	return int32(n)
}

func truth(text []byte) bool { return string(text) == "t" }

// entry returns the one that the publication takes the table's row filter and column
// list from, nil when there is none.
func (l *look) entry() *lookEntry {
	var own *lookEntry
	for i, e := range l.entries {
		switch {
		case e.own && e.schema:
			return nil // which lets everything through
		case e.own:
			own = &l.entries[i]
		}
	}
	if l.publication != nil && l.publication.allTables {
		return nil
	}
	return own
}

// underRoot says that rows of the table, a partition, are published under the name of
// the table that it is a partition of.
func (l *look) underRoot() bool {
	if !l.table.isPartition || !l.publication.viaRoot {
		return false
	}
	return l.publication.allTables || slices.ContainsFunc(l.entries, func(e lookEntry) bool { return !e.own })
}

// outbox is what is to be remembered. was is what is remembered, of whose entry no
// other takes the place while it is there.
func (l *look) outbox(was offsets.Outbox) offsets.Outbox {
	o := offsets.Outbox{Table: l.table.oid, Publication: l.publication.oid}
	for _, e := range l.entries {
		if e.oid == was.Entry {
			o.Entry = e.oid
			break
		}
		if o.Entry == 0 || e.oid < o.Entry {
			o.Entry = e.oid
		}
	}
	return o
}
