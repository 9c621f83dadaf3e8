package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/internal/walheld"
	"outboxd/offsets"
)

func statusCommand(load loader) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "says what the connector does, and why WAL is held",
		Long: "status says what the connector does, how far it is, how much WAL PostgreSQL retains for its slot, and in one sentence\n" +
			"why. It asks the process at http.listen, if one answers there, and PostgreSQL and the store of the position itself;\n" +
			"so it also works while no connector runs, or while one of them is down. It changes nothing.\n\n" +
			"It needs the DSN, and Kafka only if the position is stored there. A role that may connect is enough; whose\n" +
			"transaction holds WAL is only shown in full to a role with pg_read_all_stats. What it could not see, it lists.\n" +
			"Exit code 1 if neither the process nor PostgreSQL answered.",
		Example: "  outboxd status --config outboxd.yaml\n  outboxd status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load.usable("kafka", "value.avro")
			if err != nil {
				return err
			}
			r, err := lookAround(cmd.Context(), cfg)
			if err != nil {
				return failed(err)
			}
			r.Reason, r.Why = nameConfig(r.Reason, configFile(cmd)), nameConfig(r.Why, configFile(cmd))
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return failed(enc.Encode(r))
			}
			return failed(printStatus(r, cmd.OutOrStdout()))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// askFor bounds what each side is asked.
const askFor = 15 * time.Second

// measureFor is how long is looked at how much WAL is written, where no process does.
const measureFor = 2 * time.Second

// lookAround asks everybody. It fails if neither the process nor PostgreSQL answers.
func lookAround(ctx context.Context, cfg *config.Config) (*status.Report, error) {
	r := &status.Report{Role: "unknown"}
	var f walheld.Facts
	process, processErr := askProcess(ctx, cfg.HTTP)
	if processErr != nil {
		unseen(r, "the process: %s", processErr)
	} else {
		r = process
		f = factsOf(r, time.Now())
	}
	r.Slot = cfg.Postgres.Slot
	if !cfg.Delivery.Rewind.IsZero() {
		f.Rewind = cfg.Delivery.Rewind.String()
	}
	stored, err := storedPosition(ctx, cfg)
	switch {
	case err != nil:
		unseen(r, "the stored position: %s", err)
	case stored != nil:
		f.Stored, r.StoredLSN = stored.LSN, stored.LSN.String()
	}
	err = lookAtSlot(ctx, cfg, r, f, processErr == nil)
	switch {
	case err != nil && processErr != nil:
		return nil, errors.Join(err, fmt.Errorf("and the process does not answer either: %w", processErr))
	case err != nil:
		unseen(r, "the slot, which the process saw last: %s", err)
		if f.Waits != "" {
			f.Active = true // for all that is known
			r.SetWhy(walheld.Why(f))
		} else {
			r.SetWhy(walheld.Reason{Text: "not known: PostgreSQL does not answer"})
		}
	}
	return r, nil
}

func unseen(r *status.Report, format string, args ...any) {
	r.Unseen = append(r.Unseen, oneLine(fmt.Errorf(format, args...)))
}

// factsOf are what a process that answers knows better than its server.
func factsOf(r *status.Report, now time.Time) (f walheld.Facts) {
	f.Busy = r.WaitsFor
	if r.Ready == nil || !*r.Ready {
		f.Waits = r.Reason
	}
	if r.HeldBy == walheld.CauseKafka {
		f.Unacked, f.Topics = now.Add(-time.Duration(r.OldestUnacked*float64(time.Second))), r.UnackedTopics
	}
	return f
}

// lookAtSlot takes over what PostgreSQL says, which is newer than what the process does.
func lookAtSlot(ctx context.Context, cfg *config.Config, r *status.Report, known walheld.Facts, answered bool) error {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	_, read := rules(cfg)
	observer := replication.NewObserver(sourceOptions(cfg, read, zerolog.Nop()))
	defer observer.Close()
	state, err := observer.State(ctx)
	if err != nil {
		return err
	}
	f := state.Health.Held
	f.Waits, f.Unacked, f.Topics, f.Busy, f.Rewind, f.Stored = known.Waits, known.Unacked, known.Topics, known.Busy, known.Rewind, known.Stored
	if r.SlotExists = &state.Exists; state.Exists {
		r.AddSlot(status.Slot(state.Health))
	}
	r.SetWhy(walheld.Why(f))
	if state.Hidden {
		unseen(r, "whose transactions are open, and for how long: the role of postgres.dsn lacks pg_read_all_stats")
	}
	if answered {
		return nil
	}
	if r.Role = "stopped"; f.Active {
		r.Role = "streaming"
	}
	if state.Exists && state.Health.Safe >= 0 {
		r.LostIn = lostIn(ctx, observer, state.Health)
	}
	return nil
}

// lostIn measures when a slot is lost that nobody streams from, or of which the process
// says nothing, nil for not soon.
func lostIn(ctx context.Context, observer *replication.Observer, before replication.Health) *float64 {
	if before.Safe > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(measureFor):
		}
		now, err := observer.Health(ctx)
		if err != nil || now == nil || now.Safe < 0 || now.Safe >= before.Safe {
			return nil
		}
		seconds := float64(now.Safe) * measureFor.Seconds() / float64(before.Safe-now.Safe)
		return &seconds
	}
	return new(float64)
}

// storedPosition reads the position that is stored besides the slot, nil for none.
func storedPosition(ctx context.Context, cfg *config.Config) (*offsets.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	switch {
	case cfg.Delivery.Store == "kafka" || cfg.Delivery.Guarantee == "exactly_once":
		if len(cfg.Kafka.Brokers) == 0 {
			return nil, errors.New("it is in Kafka, and kafka.brokers is not given")
		}
		store, err := positionStore(cfg, sinkOptions(cfg, zerolog.Nop()), zerolog.Nop())
		if err != nil {
			return nil, err
		}
		defer store.Close()
		return store.Peek(ctx)
	case cfg.Delivery.Store == "file":
		return offsets.NewFileStore(cfg.Delivery.File).Load(ctx)
	}
	return nil, nil
}

// printStatus writes the report for people.
func printStatus(r *status.Report, w io.Writer) error {
	line := func(name, format string, args ...any) error {
		_, err := fmt.Fprintf(w, "%-11s %s\n", name, printable(fmt.Sprintf(format, args...)))
		return err
	}
	role := r.Role
	switch {
	case r.Ready != nil && !*r.Ready:
		role += ", not ready: " + r.Reason
	case r.Reason != "":
		role += ": " + r.Reason
	}
	errs := []error{line("role", "%s", role)}
	switch {
	case r.SlotExists != nil && !*r.SlotExists:
		errs = append(errs, line("slot", "%s does not exist", r.Slot))
	case r.SlotLSN != "":
		errs = append(errs, line("slot", "%s, confirmed up to %s, WAL %s", r.Slot, r.SlotLSN, r.WALStatus))
	default:
		errs = append(errs, line("slot", "%s", r.Slot))
	}
	if r.StoredLSN != "" {
		errs = append(errs, line("stored", "%s", r.StoredLSN))
	}
	if r.Process != nil && r.OldestUnacked > 0 {
		errs = append(errs, line("unacked", "Kafka has acknowledged nothing for %.1f s, although something is in flight", r.OldestUnacked))
	}
	if r.Retained != nil {
		safe := "no limit on it (max_slot_wal_keep_size)"
		if r.Safe != nil {
			safe = walheld.Size(*r.Safe) + " more can be written before the slot may lose some"
		}
		errs = append(errs, line("WAL held", "%s; %s", walheld.Size(*r.Retained), safe))
	}
	if r.Before != nil {
		errs = append(errs, line("", "%s before the confirmed position, %s after it", walheld.Size(*r.Before), walheld.Size(*r.After)))
	}
	if r.LostIn != nil {
		in := time.Duration(*r.LostIn * float64(time.Second))
		errs = append(errs, line("lost in", "%s, at the present rate: about %s", in.Round(time.Second), time.Now().Add(in).UTC().Format("2006-01-02 15:04 UTC")))
	}
	errs = append(errs, line("why", "%s", r.Why))
	for _, what := range r.Unseen {
		errs = append(errs, line("not seen", "%s", what))
	}
	return errors.Join(errs...)
}

// printable keeps what servers and rows name from writing to the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
