package replication

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Statement is a step of a set-up.
type Statement struct {
	Comment string
	SQL     string // without the final semicolon
}

// Script returns the SQL that prepares a database: each statement leaves alone
// what is already there. role "" leaves roles alone.
func Script(o Options, role string) []Statement {
	table := QuoteIdent(o.Schema) + "." + QuoteIdent(o.Table)
	var script []Statement
	if o.Table != "" {
		script = append(script,
			Statement{"the outbox table: write a row beside the business data, in the same transaction", createTableSQL(table, o)})
	}
	if role != "" {
		script = append(script,
			Statement{"the role that outboxd logs in with; give it a password or a certificate", guarded(
				"SELECT FROM pg_roles WHERE rolname = "+quote(role),
				"CREATE ROLE "+QuoteIdent(role)+" LOGIN REPLICATION")})
	}
	if role != "" && o.Table != "" {
		script = append(script,
			Statement{"the role may read the table, to check it and to publish events again",
				"GRANT USAGE ON SCHEMA " + QuoteIdent(o.Schema) + " TO " + QuoteIdent(role) + ";\nGRANT SELECT ON " + table + " TO " + QuoteIdent(role)},
		)
	}
	publication := "the publication: inserts into the outbox and nothing else"
	if o.Table == "" {
		publication = "the publication: a stream has to name one; messages need no table in it"
	}
	script = append(script, Statement{publication, guarded(
		"SELECT FROM pg_publication WHERE pubname = "+quote(o.Publication),
		CreatePublicationSQL(o.Publication, o.Schema, o.Table))})
	if o.Backfill {
		return script // `outboxd run` makes the slot, together with a snapshot of the rows that are there
	}
	return append(script,
		Statement{"the slot: PostgreSQL keeps WAL from here on until outboxd has confirmed it", createSlotScript(o)},
	)
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
			definition = "timestamptz"
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

// Apply runs the script over a connection of its own, and reports each
// statement that has run. It stops at the first error.
func Apply(ctx context.Context, dsn string, script []Statement, ran func(Statement)) error {
	cfg, err := parseDSN(dsn)
	if err != nil {
		return err
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", connectHint(err))
	}
	defer pg.Close(context.WithoutCancel(ctx))
	for _, s := range script {
		if _, err := query(ctx, pg, s.SQL); err != nil {
			err = fmt.Errorf("apply %q: %w", s.Comment, err)
			switch sqlState(err) {
			case insufficientPrivilege:
				return &Error{err, "let a superuser or the table's owner run what `outboxd init` prints"}
			case "55000":
				return &Error{err, "set wal_level = logical and restart the server"}
			}
			return err
		}
		ran(s)
	}
	return nil
}
