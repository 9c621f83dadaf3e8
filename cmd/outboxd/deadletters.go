package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/deadletter"
	"outboxd/internal/poison"
	"outboxd/internal/status"
)

// letterFlags are the flags of dead-letters and the commands below it.
type letterFlags struct {
	kinds, topics, types, aggregateIDs, ids []string
	since, until                            timeFlag
	all, dryRun, asJSON                     bool
}

func deadLettersCommand(load loader) *cobra.Command {
	var f letterFlags
	list := func(cmd *cobra.Command, args []string) error {
		return f.with(cmd, load, args, func(ctx context.Context, d *desk) error { return d.list(ctx) })
	}
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "lists, publishes again or discards events that were set aside",
		Long: "dead-letters shows the events in errors.dead_letter_topic that are not resolved, takes them back to their\n" +
			"topics, or gives them up. It works beside a connector that runs, without a consumer group, and sees the events\n" +
			"of its own slot. Without a command it lists. outboxd never retries by itself.\n\n" +
			"The flags select; more than one value of a flag means any of them, more than one flag all of them.",
		Example: "  outboxd dead-letters\n  outboxd dead-letters --kind too_large --since 24h --json\n" +
			"  outboxd dead-letters show 0000000001507C60-00000001\n  outboxd dead-letters retry --kind null_key --dry-run\n" +
			"  outboxd dead-letters discard --id 13",
		Args: cobra.NoArgs,
		RunE: list,
	}
	p := cmd.PersistentFlags()
	p.StringSliceVar(&f.kinds, "kind", nil, "select by the `KIND` of error: "+strings.Join(kindNames(), ", "))
	p.StringSliceVar(&f.topics, "topic", nil, "select by the `TOPIC` that the event would have gone to")
	p.StringSliceVar(&f.types, "type", nil, "select by the event's `TYPE`")
	p.StringSliceVar(&f.aggregateIDs, "aggregate-id", nil, "select by the event's aggregate `ID`")
	p.StringSliceVar(&f.ids, "id", nil, "select by the event's `ID`")
	p.Var(&f.since, "since", "select what was set aside at that `TIME` or later: RFC 3339, a date, or a duration before now such as 24h")
	p.Var(&f.until, "until", "select what was set aside before that `TIME`")
	p.BoolVar(&f.all, "all", false, "select all that are not resolved; retry and discard do nothing without a selection")
	p.BoolVar(&f.dryRun, "dry-run", false, "of retry and discard: say what would be done, and change nothing")
	p.BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "lists the events that are not resolved (the default)", Args: cobra.NoArgs, RunE: list,
		Long:    "list prints a line for each event that was set aside and is neither retried nor discarded, in the order of the events.",
		Example: "  outboxd dead-letters list --topic outbox.event.OrderPaid",
	}, showCommand(load, &f), f.resolveCommand(load, deadletter.Retried), f.resolveCommand(load, deadletter.Discarded))
	return cmd
}

func showCommand(load loader, f *letterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show POSITION", Short: "shows one event that was set aside, with its row", Args: cobra.ExactArgs(1),
		Long:    "show prints all of one dead letter: why and when it was set aside, its row, and its headers; also one that is resolved.",
		Example: "  outboxd dead-letters show 0000000001507C60-00000001",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd, load, args, func(ctx context.Context, d *desk) error { return d.show(ctx) })
		},
	}
}

// resolveCommand is retry or discard.
func (f *letterFlags) resolveCommand(load loader, what string) *cobra.Command {
	cmd := &cobra.Command{
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !f.selects() && len(args) == 0 {
				return errors.New("nothing is selected: name positions, select with --kind, --topic, --type, --aggregate-id, --id, --since or --until, or take --all")
			}
			if f.all && (f.selects() && len(args) > 0) {
				return errors.New("--all and positions contradict each other")
			}
			return f.with(cmd, load, args, func(ctx context.Context, d *desk) error { return d.resolve(ctx, what) })
		},
	}
	switch what {
	case deadletter.Retried:
		cmd.Use, cmd.Short = "retry [POSITION...]", "publishes events again by today's configuration"
		cmd.Long = "retry makes each selected event again from its dead letter, by the configuration of now, and publishes it with the\n" +
			"header dead_letter_retry: true. When Kafka has acknowledged it, a record with error.resolved: retried is appended\n" +
			"to the dead-letter topic, and the event is no longer listed. An event that still cannot be delivered stays, and the\n" +
			"exit code is 1. Killed between the two, a retry repeats at most that one event; with exactly_once none."
		cmd.Example = "  outboxd dead-letters retry --kind too_large --dry-run\n  outboxd dead-letters retry 0000000001507C60-00000001"
	default:
		cmd.Use, cmd.Short = "discard [POSITION...]", "gives events up"
		cmd.Long = "discard appends a record with error.resolved: discarded to the dead-letter topic for each selected event, which is no\n" +
			"longer listed. The dead letters themselves stay."
		cmd.Example = "  outboxd dead-letters discard --id 13"
	}
	return cmd
}

func (f *letterFlags) selects() bool {
	return f.all || f.kinds != nil || f.topics != nil || f.types != nil || f.aggregateIDs != nil || f.ids != nil || !f.since.t.IsZero() || !f.until.t.IsZero()
}

// selection is what the flags and positions select.
func (f *letterFlags) selection(args []string) (deadletter.Selection, error) {
	s := deadletter.Selection{Kinds: f.kinds, Topics: f.topics, Types: f.types, AggregateIDs: f.aggregateIDs, IDs: f.ids, Since: f.since.t, Until: f.until.t}
	for _, kind := range f.kinds {
		if !isKind(kind) {
			return s, fmt.Errorf("--kind %q is none of %s", kind, strings.Join(kindNames(), ", "))
		}
	}
	for _, arg := range args {
		at, err := deadletter.ParsePosition(arg)
		if err != nil {
			return s, err
		}
		s.Positions = append(s.Positions, at)
	}
	return s, nil
}

func kindNames() (names []string) {
	for _, kind := range poison.Kinds {
		names = append(names, string(kind))
	}
	return names
}

func isKind(name string) bool {
	for _, kind := range poison.Kinds {
		if name == string(kind) {
			return true
		}
	}
	return false
}

// with opens the topic and runs one command.
func (f *letterFlags) with(cmd *cobra.Command, load loader, args []string, run func(context.Context, *desk) error) error {
	selection, err := f.selection(args)
	if err != nil {
		return err
	}
	cfg, err := load.usable()
	if err != nil {
		return err
	}
	log := logger(cfg.Log, cmd.ErrOrStderr())
	topic, err := deadLetterTopic(cfg, log)
	if err != nil {
		return failed(err)
	}
	defer topic.Close()
	d := &desk{flags: f, cfg: cfg, log: log, topic: topic, selection: selection, out: cmd.OutOrStdout(), progress: newProgress(cmd.ErrOrStderr())}
	err = run(cmd.Context(), d)
	d.progress.end()
	return failed(err)
}

func deadLetterTopic(cfg *config.Config, log zerolog.Logger) (*deadletter.Topic, error) {
	kafka := sinkOptions(cfg, log)
	return deadletter.Open(deadletter.TopicOptions{Topic: cfg.Errors.DeadLetterTopic, Slot: cfg.Postgres.Slot, Log: log, Client: kafka.Connection()})
}

// positionFlag is a flag that holds a position as records carry it.
type positionFlag struct{ at decoder.Position }

func (f *positionFlag) String() string {
	if f.at == (decoder.Position{}) {
		return ""
	}
	return f.at.String()
}

// Set takes the position of an error or of a record's header.
func (f *positionFlag) Set(text string) (err error) {
	f.at, err = deadletter.ParsePosition(text)
	return err
}

// Type is what --help calls the value.
func (f *positionFlag) Type() string { return "POSITION" }

// deadLetterWriter sets events aside in the topic: all that cannot be delivered, or only
// that at one position.
func deadLetterWriter(cfg *config.Config, topic *deadletter.Topic, only decoder.Position, st *status.Status, log zerolog.Logger) *deadletter.Writer {
	e := cfg.Errors
	st.UseDeadLetters(kindNames())
	return deadletter.NewWriter(deadletter.Options{
		Topic: e.DeadLetterTopic, Always: e.Poison == "dead_letter", Only: only, Connect: e.DeadLetterHeaders == "connect",
		Count: e.MaxDeadLetters.Count, Within: e.MaxDeadLetters.Within, Log: log, Prepare: topic.Prepare,
		OnLetter: func(kind poison.Kind) { st.DeadLettered(string(kind)) },
	})
}
