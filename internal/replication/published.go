package replication

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"outboxd/offsets"
)

func (o Options) tableName() string { return QuoteIdent(o.Schema) + "." + QuoteIdent(o.Table) }

// unfit compares the columns with what the configuration says of them.
func (l *look) unfit(o Options, version int) error {
	for _, want := range o.Columns {
		if err := l.unfitColumn(o, version, want); err != nil {
			return err
		}
	}
	return nil
}

// unfitColumn judges one column.
func (l *look) unfitColumn(o Options, version int, want Column) error {
	at := slices.IndexFunc(l.columns, func(c lookColumn) bool { return c.name == want.Name })
	if at < 0 {
		return setupError("correct the name, or set it to \"\" to not read it",
			"%s: table %s has no column %q", want.Key, o.tableName(), want.Name)
	}
	c := l.columns[at]
	if want.Types != nil && !slices.Contains(want.Types, c.typ) {
		return setupError("it must be "+strings.Join(want.Types, ", "),
			"%s: column %q of %s is of type %s", want.Key, want.Name, o.tableName(), c.typ)
	}
	if c.generated == "v" || c.generated == "s" && version < 180000 {
		return setupError("read an ordinary column, which a trigger may fill; from PostgreSQL 18 a stored one will do, "+
			"with publish_generated_columns = stored on the publication",
			"%s: column %q of %s is generated, and logical replication leaves it out", want.Key, want.Name, o.tableName())
	}
	if want.NoDefault && c.hasDefault {
		sql := "ALTER TABLE " + o.tableName() + " ALTER " + QuoteIdent(want.Name) + " DROP DEFAULT"
		return withSQL(setupError("drop it: "+sql+"; or choose another form",
			"%s: column %q of %s has a default, which Debezium's schema would name", want.Key, want.Name, o.tableName()), sql)
	}
	return nil
}

// unfitTable judges the table and its parts without its publication.
func (l *look) unfitTable(o Options) error {
	if err := l.unfitItself(o); err != nil {
		return err
	}
	return l.unfitParts(o)
}

// unfitItself judges the table without its parts.
func (l *look) unfitItself(o Options) error {
	name := o.tableName()
	if l.table == nil {
		return &Unpublished{What: "table " + name + " does not exist in this database", Accept: true,
			Fix: "create it (`outboxd init` prints the SQL) or correct outbox.table"}
	}
	if l.table.kind != "r" && l.table.kind != "p" {
		return &Unpublished{What: name + " is not a table", Accept: true,
			Fix: "outbox.table must be an ordinary or partitioned table"}
	}
	if l.table.persistence != "p" {
		return &Unpublished{What: "table " + name + " is unlogged or temporary, its rows never reach the WAL",
			Fix: "make it logged: ALTER TABLE " + name + " SET LOGGED", SQL: []string{"ALTER TABLE " + name + " SET LOGGED"}}
	}
	return nil
}

// unfitParts judges the parts of the table that are never decoded under its name.
func (l *look) unfitParts(o Options) error {
	if len(l.parts) == 0 {
		return nil
	}
	p, name := l.parts[0], o.tableName()
	e := &Unpublished{}
	switch {
	case p.inherits:
		e.What = fmt.Sprintf("table %s inherits from %s, and its rows are not decoded as rows of %[2]s", p.name, name)
		e.SQL = []string{fmt.Sprintf("ALTER TABLE %s NO INHERIT %s", p.name, name)}
		e.Fix = e.SQL[0] + ", or make " + name + " a partitioned table"
	case p.kind == "f":
		e.What = fmt.Sprintf("partition %s of %s is a foreign table, whose rows never reach the WAL of this server", p.name, name)
		e.Fix = fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", name, p.name)
		e.SQL = []string{e.Fix}
	default:
		e.What = fmt.Sprintf("partition %s of %s is unlogged, its rows never reach the WAL", p.name, name)
		e.Fix = fmt.Sprintf("ALTER TABLE %s SET LOGGED", p.name)
		e.SQL = []string{e.Fix}
	}
	e.Rows = "insert the rows of " + p.name + " that Kafka lacks into " + name + " again"
	if n := len(l.parts) - 1; n > 0 {
		e.What += fmt.Sprintf(" (and there are more like it: %s)", l.parts[1].name)
	}
	return e
}

// unfitPublication judges whether the publication lets every row of the table through.
func (l *look) unfitPublication(o Options) error {
	name, p := QuoteIdent(o.Publication), l.publication
	switch {
	case !p.insert:
		return &Unpublished{What: "publication " + name + " does not publish inserts",
			Fix: "ALTER PUBLICATION " + name + " SET (publish = 'insert')", SQL: []string{"ALTER PUBLICATION " + name + " SET (publish = 'insert')"}}
	case l.table.kind == "p" && !p.viaRoot:
		return &Unpublished{What: fmt.Sprintf("publication %s names the partitions of %s instead of the table itself", name, o.tableName()),
			Fix: "ALTER PUBLICATION " + name + " SET (publish_via_partition_root = true)",
			SQL: []string{"ALTER PUBLICATION " + name + " SET (publish_via_partition_root = true)"}}
	case l.underRoot():
		return &Unpublished{What: fmt.Sprintf("publication %s publishes %s under the name of the table that it is a partition of", name, o.tableName()),
			Fix: "name that table in outbox.table", Accept: true}
	case !p.allTables && len(l.entries) == 0:
		return &Unpublished{What: fmt.Sprintf("publication %s does not contain %s", name, o.tableName()),
			Fix: "ALTER PUBLICATION " + name + " ADD TABLE " + o.tableName(), Accept: true,
			SQL: []string{"ALTER PUBLICATION " + name + " ADD TABLE " + o.tableName()}}
	}
	return nil
}

// unfitList judges the publication's column list, and whether it takes generated
// columns.
func (l *look) unfitList(o Options) error {
	for _, column := range o.Columns {
		if err := l.unlisted(o, column); err != nil {
			return err
		}
	}
	return nil
}

// unlisted judges whether the publication takes one column.
func (l *look) unlisted(o Options, column Column) error {
	name, entry := QuoteIdent(o.Publication), l.entry()
	listed := entry != nil && entry.columns != nil
	if listed && !slices.Contains(entry.columns, column.Name) {
		return withSQL(setupError("publish the table without a column list, or add the column to it",
			"%s: publication %s leaves out column %q", column.Key, name, column.Name),
			"ALTER PUBLICATION "+name+" DROP TABLE "+o.tableName(), "ALTER PUBLICATION "+name+" ADD TABLE "+o.tableName())
	}
	if !listed && !l.publication.generated && l.generated(column.Name) {
		sql := "ALTER PUBLICATION " + name + " SET (publish_generated_columns = stored)"
		return withSQL(setupError(sql+"; "+
			"and if events were written before that, move the slot past them with pg_replication_slot_advance and insert their rows again: "+
			"PostgreSQL decodes them as they were published then",
			"%s: publication %s leaves out column %q, which is generated", column.Key, name, column.Name), sql)
	}
	return nil
}

func (l *look) generated(column string) bool {
	return slices.ContainsFunc(l.columns, func(c lookColumn) bool { return c.name == column && c.generated != "" })
}

// unfitNow judges, in a look while a stream runs, whether rows vanish without a word.
// Columns are the decoder's matter, which stops at the first row that lacks one.
func (l *look) unfitNow(o Options, was offsets.Outbox) error {
	err := l.unfitTable(o)
	switch {
	case err != nil:
	case l.publication == nil:
		err = publicationMissed(o, errors.New("it does not exist"))
	default:
		err = l.unfitPublication(o)
	}
	return l.compared(err, was, o)
}

// mutableNames are those of columns that rows are marked with once they are dealt with.
var mutableNames = []string{"status", "state", "processed", "published", "sent", "done", "handled", "dispatched", "delivered", "completed", "failed", "locked",
	"is_processed", "is_published", "is_sent", "processed_at", "published_at", "sent_at"}

// mutable says whether a column of a partition key looks as if rows are updated in it.
func (k lookKey) mutable() bool {
	return k.typ == "bool" || k.kind == "e" || slices.Contains(mutableNames, strings.ToLower(k.column))
}

// WarnMoves warns of a partition key that looks as if rows are updated in it: to a
// reader of the WAL, a row that moves to another partition is inserted there.
func (c *Conn) WarnMoves() {
	if c.found == nil {
		return
	}
	for _, k := range c.found.keys {
		if k.mutable() {
			c.o.Log.Warn().Str("table", k.table).Str("column", k.column).Msg(moves)
		}
	}
}

// moves is said of a partition key that looks as if rows are updated in it.
const moves = "the outbox is partitioned by a column that looks as if it is updated: " +
	"PostgreSQL moves an updated row to another partition by inserting it there, and that is published as an event again; partition by a column that never changes"
