package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/replication"
)

// Keys that init has no use for. It prints SQL for the defaults where nothing is
// configured, and needs no Kafka to run it.
var (
	withoutToApply = []string{"kafka", "value.avro", "delivery", "http"}
	withoutToPrint = append([]string{"postgres.dsn"}, withoutToApply...)
)

func initCommand(load loader) *cobra.Command {
	var apply bool
	var role string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "prints the SQL for table, role, publication and slot",
		Long: "init prints the SQL that prepares a database: the outbox table, the role that outboxd logs in with, its rights, the\n" +
			"publication and the replication slot. Without a configuration file it is the SQL for the defaults; of a file it\n" +
			"needs neither postgres.dsn nor anything of Kafka. What is already there is left as it is, so it is safe to run\n" +
			"more than once.\n\n" +
			"Run it in the outbox's database, as a superuser or as the role that owns the schema and has CREATEROLE and\n" +
			"REPLICATION; not as the role outboxd, which it creates. With --apply init runs it itself, over postgres.dsn, and\n" +
			"needs nothing else: give the DSN of such a user for this once.\n\n" +
			"The new role has no password: set one by \\password outboxd in psql, or by ALTER ROLE outboxd PASSWORD '...', and\n" +
			"let the role in by pg_hba.conf. Services that write events need INSERT on the table and nothing more.\n\n" +
			"From the moment the slot exists PostgreSQL retains all WAL for it until outboxd has confirmed it: start `outboxd run`\n" +
			"soon after, and drop the slot if you do not (SELECT pg_drop_replication_slot('outboxd')). The server needs\n" +
			"wal_level = logical.",
		Example: "  outboxd init | psql -v ON_ERROR_STOP=1 -U postgres shop\n" +
			"  outboxd init --config outboxd.yaml --role connector > setup.sql\n" +
			"  OUTBOXD_POSTGRES_DSN=postgres://postgres@localhost/shop outboxd init --apply",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var cfg *config.Config
			var err error
			if apply {
				cfg, err = load.usable(withoutToApply...)
			} else {
				cfg, err = load(withoutToPrint...)
			}
			if err != nil {
				return err
			}
			_, read := rules(cfg)
			source := sourceOptions(cfg, read, logger(cfg.Log, cmd.ErrOrStderr()))
			script := replication.Script(source, role)
			if !apply {
				return failed(printScript(cmd.OutOrStdout(), script, role))
			}
			return failed(replication.Apply(cmd.Context(), source, script, func(s replication.Statement, err error) {
				if err != nil {
					fmt.Fprintf(cmd.OutOrStdout(), "FAIL  %s\n", oneLine(err))
					return
				}
				fmt.Fprintf(cmd.OutOrStdout(), "ok  %s\n", s.Comment)
			}))
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "run the SQL over postgres.dsn")
	cmd.Flags().StringVar(&role, "role", "outboxd", `role that the connector logs in with; "" leaves roles alone`)
	return cmd
}

// printScript writes the SQL, for people and for psql.
func printScript(w io.Writer, script []replication.Statement, role string) error {
	var b strings.Builder
	rights := "REPLICATION"
	if role != "" {
		rights = "CREATEROLE and REPLICATION"
	}
	fmt.Fprintf(&b, "-- Run this in the outbox's database as a superuser, or as the owner of its schema with %s.\n", rights)
	if role != "" {
		fmt.Fprintf(&b, "-- Then set the password of the role %q (`outboxd init --help` says how) and start `outboxd run`.\n", role)
	}
	b.WriteString("\n")
	for _, s := range script {
		fmt.Fprintf(&b, "-- %s\n%s;\n\n", s.Comment, s.SQL)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
