package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/internal/check"
	"outboxd/internal/config"
	"outboxd/internal/positions"
	"outboxd/internal/status"
)

func checkCommand(load loader) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "proves a set-up without changing it",
		Long: "check asks PostgreSQL, Kafka and the schema registry for all that run will need, and changes nothing: it\n" +
			"creates no slot, publication or topic, and acquires neither the slot nor the transactional id, so that it can\n" +
			"be run beside a connector. It prints a line for each check (ok, warn or FAIL) with what fixes it, and then what\n" +
			"this set-up can promise. What could not be looked at is a warning, never ok.\n\n" +
			"Exit codes: 0 no FAIL, 1 a FAIL, 2 bad configuration.",
		Example: "  outboxd check --config outboxd.yaml\n  outboxd check --json | jq '.groups[].checks[] | select(.level != \"ok\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load.usable()
			if err != nil {
				return err
			}
			o, err := checkOptions(cfg)
			if err != nil {
				return failed(err)
			}
			if o.Positions != nil {
				defer o.Positions.Close()
			}
			report := check.Run(cmd.Context(), o)
			nameInReport(report, configFile(cmd))
			out := cmd.OutOrStdout()
			if asJSON {
				encoder := json.NewEncoder(out)
				encoder.SetEscapeHTML(false)
				encoder.SetIndent("", "  ")
				err = encoder.Encode(report)
			} else {
				f, ok := out.(*os.File)
				err = report.Text(out, ok && isatty.IsTerminal(f.Fd()))
			}
			if err == nil && report.Failed() {
				err = errors.New("the set-up does not work as it is; fix what is marked FAIL and check again")
			}
			return failed(err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

// nameInReport has the commands in what was found name the configuration file.
func nameInReport(report check.Report, file string) {
	for _, group := range report.Groups {
		for i := range group.Findings {
			f := &group.Findings[i]
			f.Text, f.Fix = nameConfig(f.Text, file), nameConfig(f.Fix, file)
		}
	}
	for i := range report.Promises {
		p := &report.Promises[i]
		p.Text, p.Change = nameConfig(p.Text, file), nameConfig(p.Change, file)
	}
}

// checkOptions are what run would be given, without its log.
func checkOptions(cfg *config.Config) (check.Options, error) {
	p, err := connectorOptions(cfg, status.New(0), zerolog.Nop())
	if err != nil {
		return check.Options{}, err
	}
	o := check.Options{
		Source:    p.Source,
		Kafka:     p.Sink,
		User:      cfg.Kafka.SASL.Username,
		Elsewhere: p.Elsewhere,
	}
	o.Registry, _ = p.Format.Format.(check.Registry)
	if t := newTracer(cfg, zerolog.Nop()); t != nil {
		o.Traces = t.Check
	}
	if p.Source.Table != "" {
		r := retentionOptions(cfg, p.Source, zerolog.Nop())
		o.Retention = &r
	}
	o.Topics, o.Templates = topicsOf(cfg)
	o.Groups = cfg.Monitor.ConsumerGroups
	if r := cfg.Delivery.Rewind; r.Age != 0 || r.Bytes != 0 {
		o.Rewind = r.Age.String()
		if r.Bytes != 0 {
			o.Rewind = fmt.Sprintf("%d bytes of WAL", int64(r.Bytes))
		}
	}
	switch {
	case cfg.Delivery.Guarantee == "exactly_once":
		o.ExactlyOnce, o.TransactionalID = true, p.Sink.TransactionalID
		o.Positions = p.Positions
	case cfg.Delivery.Store == "kafka":
		o.Positions = p.Store.(*positions.Store)
	case cfg.Delivery.Store == "file":
		o.File = cfg.Delivery.File
	}
	o.PositionsTopic = cfg.Delivery.Topic
	if cfg.Errors.Poison == "dead_letter" {
		o.DeadLetterTopic = cfg.Errors.DeadLetterTopic
	}
	return o, nil
}
