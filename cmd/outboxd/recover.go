package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"outboxd/internal/recovery"
	"outboxd/internal/status"
)

func recoverCommand(load loader) *cobra.Command {
	var dryRun bool
	var maxRate int
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "makes a new slot and publishes what was not delivered, after a slot was lost",
		Long: "recover is for when the slot was dropped or invalidated, a standby was promoted without it, or the outbox table\n" +
			"was replaced, and the rows are still there. It makes a new slot together with a snapshot of the rows, those of the\n" +
			"archive included, publishes exactly those of which Kafka has no record, in the order of their commits as far as\n" +
			"that is known, stores the position, and exits 0; run resumes from there. Rows that were deleted cannot be\n" +
			"recovered. It refuses while a connector streams.\n\n" +
			"It can be killed at any moment and started again: nothing is lost, and what may be repeated is what was in flight,\n" +
			"with exactly_once nothing. It keeps about 200 bytes an event in temporary files (TMPDIR).\n\n" +
			"Exit codes: 0 recovered, or nothing to recover, 1 failed, 2 bad configuration.",
		Example: "  outboxd recover --dry-run\n  outboxd recover --config outboxd.yaml && outboxd run --config outboxd.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load.usable()
			if err != nil {
				return err
			}
			if err := knowsOwnRows(cfg); err != nil {
				return err
			}
			log := logger(cfg.Log, cmd.ErrOrStderr())
			p, err := connectorOptions(cfg, status.New(0), log)
			if err != nil {
				return failed(err)
			}
			o := recovery.Options{Compare: reconcileOptions(cfg, p), Publish: republishOptions(cfg, p), Store: p.Store, Positions: p.Positions, DryRun: dryRun, Log: log}
			bar := newStages(cmd.ErrOrStderr())
			o.Compare.Progress, o.Publish.Progress = bar.show, bar.show
			o.Compare.MaxRate, o.Publish.MaxRate = maxRate, maxRate
			result, err := recovery.Run(cmd.Context(), o)
			bar.end()
			if err != nil {
				return failed(err)
			}
			return failed(printRecovered(cmd.OutOrStdout(), cfg.Postgres.Slot, configFile(cmd), result, dryRun))
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say how many rows would be published and why; make no slot, publish nothing")
	cmd.Flags().IntVar(&maxRate, "max-rate", 0, "read and publish at most so many rows and records a second; 0 is no limit")
	return cmd
}

func printRecovered(w io.Writer, slot, file string, r recovery.Result, dryRun bool) (err error) {
	print := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintln(w, nameConfig(fmt.Sprintf(format, args...), file))
		}
	}
	if r.Why == "" {
		print("nothing to recover: slot %q can be streamed from, and the outbox is what was published; start `outboxd run`", slot)
		return err
	}
	print("%s", r.Why)
	verb, n := "published", r.Published
	if dryRun {
		verb, n = "would publish", r.Undelivered
	}
	print("%s %d of %d rows: Kafka has no record of them", verb, n, r.Rows)
	if r.InDoubt > 0 {
		print("%d of them may have been delivered before retention or compaction removed their records", r.InDoubt)
	}
	if r.Different > 0 {
		print("%d of the others differ from the record with their id, and were taken as delivered; `outboxd reconcile` shows them", r.Different)
	}
	if !dryRun {
		print("slot %q begins at %s; start `outboxd run`", slot, r.LSN)
	}
	return err
}
