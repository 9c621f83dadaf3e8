package main

import (
	"fmt"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/replication"
)

func initCommand(load func() (*config.Config, error)) *cobra.Command {
	var apply bool
	var role string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "prints the SQL for table, role, publication and slot",
		Long: "init prints the SQL that prepares a database for the configuration. With --apply it runs it, over\n" +
			"postgres.dsn; what is already there is left as it is, so running it twice is harmless.",
		Example: "  outboxd init --config outboxd.yaml | psql shop\n  outboxd init --apply",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			_, read := rules(cfg)
			script := replication.Script(sourceOptions(cfg, read, zerolog.Nop()), role)
			if !apply {
				for _, s := range script {
					fmt.Fprintf(cmd.OutOrStdout(), "-- %s\n%s;\n\n", s.Comment, s.SQL)
				}
				return nil
			}
			return failed(replication.Apply(cmd.Context(), cfg.Postgres.DSN.Reveal(), script, func(s replication.Statement) {
				fmt.Fprintf(cmd.OutOrStdout(), "ok  %s\n", s.Comment)
			}))
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "run the SQL over postgres.dsn")
	cmd.Flags().StringVar(&role, "role", "outboxd", `role that the connector logs in with; "" leaves roles alone`)
	return cmd
}
