package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/connector"
	"outboxd/internal/reconcile"
	"outboxd/internal/republish"
	"outboxd/internal/status"
	"outboxd/internal/table"
	"outboxd/offsets"
)

func reconcileCommand(load loader) *cobra.Command {
	var since, until timeFlag
	var topic string
	var shadow reconcile.Shadow
	var repair, asJSON bool
	var maxRate int
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "compares outbox rows with what Kafka holds",
		Long: "reconcile compares the rows of the outbox, those of the archive included, with the records in Kafka, by the\n" +
			"event's id: what is missing, duplicate, unexpected, out of order within a key, different, or late. It can run\n" +
			"beside a connector, of which it needs nothing, and leaves no trace in Kafka. What cannot be compared (rows that\n" +
			"are not confirmed yet, records that retention or compaction removed, rows that were removed) is told apart.\n\n" +
			"With --shadow-topic it compares what an older publisher wrote to that topic with what the outbox gives: values by\n" +
			"what their JSON means, without the paths of --ignore. Events younger than reconcile.late are left out.\n\n" +
			"It keeps about 200 bytes an event in temporary files (TMPDIR) and needs the right to read the table, a free\n" +
			"replication slot, and the right to read the topics.\n\n" +
			"Exit codes: 0 no mismatch, 1 a mismatch or a failure, 2 bad configuration.",
		Example: "  outboxd reconcile --config outboxd.yaml\n  outboxd reconcile --since 24h --json\n  outboxd reconcile --since 2026-11-28T00:00:00Z --topic orders --repair\n" +
			"  outboxd reconcile --shadow-topic orders --shadow-id '$.meta.event_id' --ignore '$.meta'",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load.usable()
			if err != nil {
				return err
			}
			if err := cmp.Or(knowsOwnRows(cfg), window(since, until)); err != nil {
				return err
			}
			if shadow.Topic == "" && (shadow.Ignore != nil || cmd.Flags().Changed("shadow-id") || cmd.Flags().Changed("shadow-key")) {
				return errors.New("--shadow-id, --shadow-key and --ignore need --shadow-topic")
			}
			if shadow.Topic != "" && (repair || topic != "") {
				return errors.New("--shadow-topic compares another publisher's topic: it goes with neither --repair nor --topic")
			}
			log := quiet(cfg, cmd.ErrOrStderr())
			p, err := connectorOptions(cfg, status.New(0), log)
			if err != nil {
				return failed(err)
			}
			o := reconcileOptions(cfg, p)
			o.Since, o.Until, o.Topic, o.MaxRate = since.t, until.t, topic, maxRate
			if shadow.Topic != "" {
				o.Shadow = &shadow
			}
			bar := newStages(cmd.ErrOrStderr())
			o.Progress = bar.show
			result, err := reconcile.Run(cmd.Context(), o)
			if err == nil && repair {
				err = repairMissing(cmd.Context(), cfg, p, o, result, bar)
			}
			bar.end()
			if err != nil {
				return failed(err)
			}
			for i, note := range result.Notes {
				result.Notes[i] = nameConfig(note, configFile(cmd))
			}
			return failed(printResult(cmd.OutOrStdout(), result, asJSON, shadow.Topic))
		},
	}
	cmd.Flags().Var(&since, "since", "compare rows from this `time` on: RFC 3339, or a duration such as 24h before now")
	cmd.Flags().Var(&until, "until", "compare rows from before this `time`")
	cmd.Flags().StringVar(&topic, "topic", "", "compare this `topic` only")
	cmd.Flags().StringVar(&shadow.Topic, "shadow-topic", "", "compare with what another publisher wrote to this `topic`")
	cmd.Flags().StringVar(&shadow.ID, "shadow-id", "header:id", "`place` of the event's id in its records: key, header:NAME or $.path in a JSON value")
	cmd.Flags().StringVar(&shadow.Key, "shadow-key", "key", "`place` of the key in its records")
	cmd.Flags().StringArrayVar(&shadow.Ignore, "ignore", nil, "`path` in JSON values that is not compared, such as $.meta.sent_at; may be given more than once")
	cmd.Flags().BoolVar(&repair, "repair", false, "publish what is missing, in order, with the header replayed: true")
	cmd.Flags().IntVar(&maxRate, "max-rate", 0, "read and publish at most so many rows and records a second; 0 is no limit")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printResult prints a result. Its error says that there are mismatches.
func printResult(out io.Writer, result *reconcile.Result, asJSON bool, shadow string) (err error) {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(result)
	} else {
		err = result.Print(out)
	}
	switch {
	case err != nil || !result.Differ():
		return err
	case shadow != "":
		return fmt.Errorf("the outbox and topic %q differ", shadow)
	case result.Repaired > 0:
		return errors.New("outbox and Kafka differed; what was missing is published, and the rest cannot be repaired by publishing: compare again")
	}
	if result.Mismatches[reconcile.Missing] == 0 {
		return errors.New("outbox and Kafka differ; nothing is missing, so there is nothing that --repair could publish: see docs/reconcile.md for each kind")
	}
	return errors.New("outbox and Kafka differ; `outboxd reconcile --repair` publishes what is missing")
}

// repairMissing publishes what a comparison has missed.
func repairMissing(ctx context.Context, cfg *config.Config, p connector.Options, o reconcile.Options, result *reconcile.Result, bar *stages) error {
	if n := result.Mismatches[reconcile.Duplicate]; n > 0 {
		result.Note("duplicates cannot be repaired: consumers drop them by the event's id")
	}
	if n := result.Mismatches[reconcile.OutOfOrder]; n > 0 {
		result.Note("the order cannot be repaired: records in Kafka do not move")
	}
	if n := result.Mismatches[reconcile.Different]; n > 0 {
		result.Note("records that differ are not published again: `outboxd replay --id` does that for those that you want")
	}
	if len(result.Missing()) == 0 {
		return nil
	}
	r := republishOptions(cfg, p)
	r.Filter = table.Filter{Since: o.Since, Until: o.Until}
	r.Keep, r.MaxRate, r.Progress = result.IsMissing, o.MaxRate, bar.show
	done, err := republish.Run(ctx, r)
	result.Repaired = done.Events
	if err != nil {
		return fmt.Errorf("repair, after %s: %w; run it again: what was published is not missing any more", done, err)
	}
	return nil
}

// knowsOwnRows refuses what goes by the rows of the table where those of other servers
// are among them.
func knowsOwnRows(cfg *config.Config) error {
	if cfg.Postgres.Origin == "any" {
		return nil
	}
	return errors.New("this goes by the rows of the table, which do not say where they were written, and postgres.origin is " + cfg.Postgres.Origin +
		"; let a row filter of the publication select the rows written here, and set postgres.origin: any (docs/multi-region.md)")
}

// reconcileOptions say what is compared.
func reconcileOptions(cfg *config.Config, p connector.Options) reconcile.Options {
	o := reconcile.Options{
		Source: p.Source, Table: p.Table, Archive: nameOf(cfg.Retention.ArchiveTable), Rules: p.Rules, Format: p.Format,
		Kafka: p.Sink.Connection(),
		Form: reconcile.Form{Headers: cfg.Value.Headers, Format: cfg.Value.Format,
			JSON: cfg.Value.Format == "debezium" && cfg.Value.Headers == "debezium" && cfg.Value.Debezium.Headers != "string"},
		ExactlyOnce: cfg.Delivery.Guarantee == "exactly_once",
		DeadLetters: cfg.Errors.DeadLetterTopic,
		Removes:     cfg.Retention.Mode != "off",
		Keep:        cfg.Retention.Keep,
		Late:        cfg.Reconcile.Late,
		Log:         p.Log,
	}
	for _, m := range cfg.Value.Mask {
		if m.How == "encrypt" {
			o.Form.ValueDiffers = "parts of values are encrypted (value.mask), which differs each time; topic and key are compared"
		}
	}
	if p.Store != nil || p.Positions != nil {
		o.Stored = func(ctx context.Context) (*offsets.Position, error) { return storedPosition(ctx, cfg) }
	}
	return o
}

func nameOf(t config.Table) table.Name { return table.Name{Schema: t.Schema, Table: t.Name} }

// republishOptions say how rows are published again.
func republishOptions(cfg *config.Config, p connector.Options) republish.Options {
	return republish.Options{
		Source: p.Source, Table: p.Table, Archive: nameOf(cfg.Retention.ArchiveTable), Rules: p.Rules, Format: p.Format, Sink: p.Sink,
		MemoryLimit: p.MemoryLimit, Log: p.Log,
	}
}

// quiet is the log of a command that prints its result itself: warnings only.
func quiet(cfg *config.Config, stderr io.Writer) zerolog.Logger {
	return logger(cfg.Log, stderr).Level(zerolog.WarnLevel)
}

// window checks that a window of time is one.
func window(since, until timeFlag) error {
	if !since.t.IsZero() && !until.t.IsZero() && !since.t.Before(until.t) {
		return fmt.Errorf("--since %s does not lie before --until %s", since.t.Format(time.RFC3339), until.t.Format(time.RFC3339))
	}
	return nil
}

// timeFlag is a flag that holds a time.
type timeFlag struct{ t time.Time }

func (f *timeFlag) String() string {
	if f.t.IsZero() {
		return ""
	}
	return f.t.Format(time.RFC3339Nano)
}

// Set takes a time as RFC 3339 has it, or how long ago it was.
func (f *timeFlag) Set(text string) error {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		f.t = time.Now().Add(-ago)
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			f.t = t
			return nil
		}
	}
	return fmt.Errorf("%q is not a time such as 2026-11-28T14:00:00Z, a date, or a duration such as 24h", text)
}

// Type is what --help calls the value.
func (f *timeFlag) Type() string { return "time" }

// stages shows how far a command with several stages is, on a terminal only.
type stages struct {
	*progress
	stage string
	begun time.Time
}

func newStages(stderr io.Writer) *stages { return &stages{progress: newProgress(stderr)} }

func (s *stages) show(stage string, done, total int64) {
	if stage != s.stage {
		s.stage, s.begun = stage, time.Now()
	}
	s.say("%s", progressLine(stage, done, total, time.Since(s.begun)))
}

// progressLine is what is shown: how much is done and how long the rest will take.
func progressLine(stage string, done, total int64, elapsed time.Duration) string {
	if total <= 0 {
		return fmt.Sprintf("%s: %d", stage, done)
	}
	line := fmt.Sprintf("%s: %d%%", stage, min(100, 100*done/total))
	if done > 0 && elapsed > time.Second && done < total {
		rest := time.Duration(float64(elapsed) * float64(total-done) / float64(done))
		line += fmt.Sprintf(", %s left", rest.Round(time.Second))
	}
	return line
}
