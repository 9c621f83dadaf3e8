package replication

import (
	"context"
	"fmt"
	"strings"
)

// Statement is a step of a set-up.
type Statement struct {
	Comment string
	SQL     string // without the final semicolon
	// Rights says who may run it, to whom the server does not let.
	Rights string
	// waits says that it waits for running transactions.
	waits bool
	// there finds a row if there is nothing to do; "": the statement itself knows.
	there string
}

// Script returns the SQL that prepares a database: each statement leaves alone
// what is already there. role "" leaves roles alone.
func Script(o Options, role string) []Statement {
	table := QuoteIdent(o.Schema) + "." + QuoteIdent(o.Table)
	var script []Statement
	if o.Table != "" {
		script = append(script,
			Statement{"the outbox table: write a row beside the business data, in the same transaction", createTableSQL(table, o),
				"let a role with CREATE on schema " + QuoteIdent(o.Schema) + " make the table", false,
				// The server asks for the right before it looks.
				"SELECT FROM pg_class WHERE oid = to_regclass(" + quote(table) + ")"})
	}
	if role != "" {
		script = append(script,
			Statement{"the role that outboxd logs in with; give it a password or a certificate", guarded(
				"SELECT FROM pg_roles WHERE rolname = "+quote(role),
				"CREATE ROLE "+QuoteIdent(role)+" LOGIN"),
				"let a role with CREATEROLE make it", false, ""},
			Statement{"the role may replicate; Amazon RDS has a role for that", replicationSQL(role),
				managedReplication, false, ""})
	}
	if role != "" && o.Table != "" {
		owner := "let the owner of the table and of its schema run it"
		script = append(script,
			Statement{"the role may read the table, to check it and to publish events again",
				"GRANT USAGE ON SCHEMA " + QuoteIdent(o.Schema) + " TO " + QuoteIdent(role) + ";\nGRANT SELECT ON " + table + " TO " + QuoteIdent(role), owner, false, ""},
		)
		if o.Removes {
			script = append(script, Statement{"the role may remove rows (retention.mode)", "GRANT DELETE ON " + table + " TO " + QuoteIdent(role), owner, false, ""})
		}
	}
	publication := "the publication: inserts into the outbox and nothing else"
	if o.Table == "" {
		publication = "the publication: a stream has to name one; messages need no table in it"
	}
	script = append(script, Statement{publication, createPublicationScript(o),
		"let the table's owner run it, with CREATE on the database", false, ""})
	if o.Backfill {
		return script // `outboxd run` makes the slot, together with a snapshot of the rows that are there
	}
	return append(script,
		Statement{"the slot: PostgreSQL keeps WAL from here on until outboxd has confirmed it", createSlotScript(o),
			"whoever runs it needs REPLICATION: " + managedReplication + "; or leave it to `outboxd run`, which makes the slot when its own role may", true, ""},
	)
}

// replicationSQL gives a role the right to replicate, unless it has it.
func replicationSQL(role string) string {
	return fmt.Sprintf(`DO $outboxd$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN
    GRANT rds_replication TO %[1]s;
  ELSIF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %[2]s AND (rolreplication OR rolsuper)) THEN
    ALTER ROLE %[1]s REPLICATION;
  END IF;
END $outboxd$`, QuoteIdent(role), quote(role))
}

// createTableSQL names the configured columns; a column that several fields
// share stands once.
func createTableSQL(table string, o Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (\n", table)
	seen := make(map[string]bool)
	for _, c := range o.Columns {
		if seen[c.Name] {
			continue
		}
		seen[c.Name] = true
		definition := "text"
		switch strings.TrimPrefix(c.Key, "outbox.columns.") {
		case "id":
			definition = "uuid PRIMARY KEY DEFAULT gen_random_uuid()"
		case "type", "aggregate_type", "aggregate_id":
			definition = "text NOT NULL"
		case "payload":
			definition = "jsonb"
		case "version":
			definition = "bigint"
		case "timestamp":
			definition = "timestamptz DEFAULT now()"
		case "outbox.headers_column":
			definition = "jsonb"
		case "route.partition":
			definition = "integer"
		}
		fmt.Fprintf(&b, "  %s %s,\n", QuoteIdent(c.Name), definition)
	}
	if !seen["created_at"] {
		b.WriteString("  created_at timestamptz NOT NULL DEFAULT now()\n)")
		return b.String()
	}
	return strings.TrimSuffix(b.String(), ",\n") + "\n)"
}

// guarded runs a statement only when a query finds nothing.
func guarded(query, statement string) string {
	return fmt.Sprintf("DO $outboxd$ BEGIN\n  IF NOT EXISTS (%s) THEN\n    %s;\n  END IF;\nEND $outboxd$", query, statement)
}

// createPublicationScript leaves it to the server to say whether a column that is
// read is a generated one: the script is printed without asking it.
func createPublicationScript(o Options) string {
	exists := "SELECT FROM pg_publication WHERE pubname = " + quote(o.Publication)
	plain := CreatePublicationSQL(o.Publication, o.Schema, o.Table, false)
	if o.Table == "" {
		return guarded(exists, plain)
	}
	var names []string
	for _, c := range o.Columns {
		names = append(names, quote(c.Name))
	}
	return guarded(exists, fmt.Sprintf(`IF current_setting('server_version_num')::int >= 180000 AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = %s::regclass
        AND attgenerated = 's' AND attname IN (%s)) THEN
      %s;
    ELSE
      %s;
    END IF`, quote(o.tableName()), strings.Join(names, ", "), CreatePublicationSQL(o.Publication, o.Schema, o.Table, true), plain))
}

// createSlotScript leaves it to the server to say whether it has failover slots:
// the script is printed without asking one.
func createSlotScript(o Options) string {
	exists := "SELECT FROM pg_replication_slots WHERE slot_name = " + quote(o.Slot)
	plain := fmt.Sprintf("PERFORM pg_create_logical_replication_slot(%s, 'pgoutput')", quote(o.Slot))
	failover := fmt.Sprintf("PERFORM pg_create_logical_replication_slot(%s, 'pgoutput', false, false, true)", quote(o.Slot))
	switch o.Failover {
	case "off":
		return guarded(exists, plain)
	case "on":
		return guarded(exists, failover)
	}
	return guarded(exists, fmt.Sprintf("IF current_setting('server_version_num')::int >= 170000 THEN\n      %s;\n    ELSE\n      %s;\n    END IF", failover, plain))
}

// Apply runs the script over a connection of its own, and reports each statement:
// with nil when it has run, else with why not. Every step is tried, also after one
// that failed; the error says how many did.
func Apply(ctx context.Context, o Options, script []Statement, ran func(Statement, error)) error {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	pg, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeSoon(pg)
	c := &Conn{sql: pg, o: o, application: cfg.RuntimeParams["application_name"]}
	var failed []error
	for _, s := range script {
		var err error
		if s.waits {
			err = c.makeSlot(ctx, pg, func(ctx context.Context) error {
				_, err := queryUnbounded(ctx, pg, s.SQL)
				return err
			})
		} else if _, err = query(ctx, pg, s.SQL); sqlState(err) == insufficientPrivilege && s.there != "" {
			if rows, looked := query(ctx, pg, s.there); looked == nil && len(rows) > 0 {
				err = nil
			}
		}
		if err != nil {
			err = fmt.Errorf("apply %q: %w", s.Comment, err)
			switch sqlState(err) {
			case insufficientPrivilege:
				err = &Error{err, s.Rights}
			case undefinedObject, "42P01", "3F000":
				err = &Error{err, "an earlier step that failed has to make it first"}
			case objectNotInPrerequisiteState:
				err = &Error{err, "set wal_level = logical and restart the server"}
			}
			failed = append(failed, err)
		}
		ran(s, err)
		if ctx.Err() != nil || pg.IsClosed() {
			break
		}
	}
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return failed[0]
	}
	return fmt.Errorf("%d steps failed; the first: %w", len(failed), failed[0])
}
