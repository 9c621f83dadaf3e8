package main

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pglogrepl"
	"github.com/spf13/cobra"

	"outboxd/internal/connector"
	"outboxd/internal/status"
)

func replayCommand(load loader) *cobra.Command {
	var from, to lsnFlag
	var rows rowFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "publishes again the events of a past window",
		Long: "replay publishes again the events that were committed in a window of the WAL, beside a connector that runs\n" +
			"and without touching its slot or position: it reads from a temporary copy of the slot. PostgreSQL can go\n" +
			"back as far as the slot's confirmed position, which delivery.rewind holds back. Records carry the header\n" +
			"replayed: true, and are otherwise unchanged.\n\n" +
			"With --since, --until, --id, --aggregate-id or --type it reads the rows of the outbox table instead, those of\n" +
			"the archive included, as far back as they are kept. --since and --until need outbox.columns.timestamp, or\n" +
			"track_commit_timestamp = on. The table does not keep a position: these records have none, and the header\n" +
			"replayed: true. With --state a run that was interrupted, also by kill -9, resumes where it was; what it\n" +
			"published in the last second before may come again.",
		Example: "  outboxd replay --from-lsn 16/B374D848 --to-lsn 16/B9000000 --dry-run\n  outboxd replay --from-lsn 16/B374D848\n" +
			"  outboxd replay --since 2026-11-28T00:00:00Z --type OrderPaid --state replay.state\n  outboxd replay --id 8f3a0c1e --id 77b2d9e4",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load.usable()
			if err != nil {
				return err
			}
			if from.lsn != 0 && to.lsn != 0 && from.lsn >= to.lsn {
				return fmt.Errorf("--from-lsn %s does not lie before --to-lsn %s", from.lsn, to.lsn)
			}
			if rows.given() {
				if from.lsn != 0 || to.lsn != 0 {
					return errors.New("--from-lsn and --to-lsn select transactions of the WAL, the other flags rows of the table: give one or the other")
				}
				return rows.replay(cmd, cfg, dryRun)
			}
			if rows.state != "" || rows.maxRate != 0 {
				return errors.New("--state and --max-rate are for a replay from the table: select rows with --since, --until, --id, --aggregate-id or --type")
			}
			o, err := connectorOptions(cfg, status.New(0), logger(cfg.Log, cmd.ErrOrStderr()))
			if err != nil {
				return failed(err)
			}
			done, err := connector.New(o).Replay(cmd.Context(), connector.Replay{From: from.lsn, To: to.lsn, DryRun: dryRun})
			if err != nil && done.Events > 0 {
				err = fmt.Errorf("after %s: %w", count(done.Events, "event"), err)
			}
			if err != nil {
				return failed(err)
			}
			verb := "published"
			if dryRun {
				verb = "would publish"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s of %s committed from %s to %s\n",
				verb, count(done.Events, "event"), count(done.Transactions, "transaction"), done.From, done.To)
			return failed(err)
		},
	}
	cmd.Flags().Var(&from, "from-lsn", "commit `LSN`, or a record's position, to begin at, inclusive (default as far back as the slot goes)")
	cmd.Flags().Var(&to, "to-lsn", "commit `LSN`, or a record's position, to end before (default the end of the WAL)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "count the events, publish none")
	rows.add(cmd)
	return cmd
}

// lsnFlag is a flag that holds an LSN as PostgreSQL prints it.
type lsnFlag struct{ lsn pglogrepl.LSN }

func (f *lsnFlag) String() string {
	if f.lsn == 0 {
		return ""
	}
	return f.lsn.String()
}

// Set takes an LSN as PostgreSQL prints it, or the position header of a record.
func (f *lsnFlag) Set(text string) error {
	hex := text
	if position.MatchString(text) {
		hex = text[:8] + "/" + text[8:16]
	}
	if !lsn.MatchString(hex) {
		return fmt.Errorf("%q is not an LSN such as 16/B374D848, nor a record's position", text)
	}
	parsed, err := pglogrepl.ParseLSN(hex)
	if err != nil {
		return err
	}
	f.lsn = parsed
	return nil
}

var (
	lsn      = regexp.MustCompile(`^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$`)
	position = regexp.MustCompile(`^[0-9A-F]{16}(-[0-9A-F]{8})?$`)
)

// Type is what --help calls the value.
func (f *lsnFlag) Type() string { return "LSN" }
