package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/republish"
	"outboxd/internal/status"
	"outboxd/internal/table"
)

// rowFlags select rows of the outbox table that are published again.
type rowFlags struct {
	since, until             timeFlag
	ids, aggregateIDs, types []string
	state                    string
	maxRate                  int
}

func (f *rowFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.since, "since", "rows from this `time` on: RFC 3339, or a duration such as 24h before now")
	flags.Var(&f.until, "until", "rows from before this `time`")
	flags.StringArrayVar(&f.ids, "id", nil, "the row with this `id`; may be given more than once")
	flags.StringArrayVar(&f.aggregateIDs, "aggregate-id", nil, "rows of the aggregate with this `id`; may be given more than once")
	flags.StringArrayVar(&f.types, "type", nil, "rows of this `type`; may be given more than once")
	flags.StringVar(&f.state, "state", "", "`file` that keeps how far a replay from the table is; removed when it is done")
	flags.IntVar(&f.maxRate, "max-rate", 0, "publish at most so many rows a second; 0 is no limit")
}

// given reports whether rows are selected.
func (f *rowFlags) given() bool {
	return !f.since.t.IsZero() || !f.until.t.IsZero() || f.ids != nil || f.aggregateIDs != nil || f.types != nil
}

// replay publishes the rows again.
func (f *rowFlags) replay(cmd *cobra.Command, cfg *config.Config, dryRun bool) error {
	if err := window(f.since, f.until); err != nil {
		return err
	}
	if f.ids == nil { // who names rows knows whose they are
		if err := knowsOwnRows(cfg); err != nil {
			return err
		}
	}
	p, err := connectorOptions(cfg, status.New(0), quiet(cfg, cmd.ErrOrStderr()))
	if err != nil {
		return failed(err)
	}
	bar := newStages(cmd.ErrOrStderr())
	o := republishOptions(cfg, p)
	o.Filter = table.Filter{Since: f.since.t, Until: f.until.t, IDs: f.ids, AggregateIDs: f.aggregateIDs, Types: f.types}
	o.DryRun, o.State, o.MaxRate, o.Progress = dryRun, f.state, f.maxRate, bar.show
	done, err := republish.Run(cmd.Context(), o)
	bar.end()
	if err != nil {
		next := ""
		if f.state != "" {
			next = "; start it again to continue"
		}
		return failed(fmt.Errorf("after %s: %w%s", done, err, next))
	}
	verb := "published"
	if dryRun {
		verb = "would publish"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", verb, done)
	if err == nil && !done.Ordered {
		_, err = fmt.Fprintln(cmd.ErrOrStderr(), "their order is that in which they lay in the table: it has neither a time nor a number that was counted up")
	}
	return failed(err)
}
