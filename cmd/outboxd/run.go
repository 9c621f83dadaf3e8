package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/pipeline"
	"outboxd/internal/status"
)

func runCommand(load func() (*config.Config, error), hurry context.Context) *cobra.Command {
	var acceptGap bool
	var from lsnFlag
	cmd := &cobra.Command{
		Use:   "run",
		Short: "streams outbox events to Kafka until it is told to stop",
		Long: "run streams until SIGINT or SIGTERM, then waits for what is in flight, confirms it to PostgreSQL, and exits 0.\n" +
			"A second signal skips the wait; what was not acknowledged is published again at the next start.\n\n" +
			"Faults that pass (a database or broker that is down, a topic or a right that is missing) never end it:\n" +
			"it tries again, and /readyz says why. Exit codes: 1 an operator must look, 2 bad configuration,\n" +
			"3 the stored position cannot be trusted.",
		Example: "  outboxd run --config outboxd.yaml\n  outboxd run --from-lsn 16/B374D848",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			return failed(stream(cmd.Context(), hurry, cfg, func(o *pipeline.Options) {
				o.AcceptGap, o.From = acceptGap, from.lsn
			}, cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().BoolVar(&acceptGap, "accept-gap", false, "go on from the slot's own position when the stored one is refused, and log what is skipped")
	cmd.Flags().Var(&from, "from-lsn", "commit `LSN`, or a record's position, to start at instead of the stored position: what Kafka lost is published\n"+
		"again, as far back as the slot's confirmed position (see delivery.rewind)")
	return cmd
}

// drainTimeout leaves a supervisor's usual 30 seconds some room.
const drainTimeout = 25 * time.Second

// gcPercent lets the heap grow by less than Go's default of 100 before it is
// collected: nearly all of it is reused and little becomes garbage, so a
// collection is rare and its slack would be memory for nothing.
const gcPercent = 40

// memoryLimit is how much memory the Go runtime may take before it collects at once:
// large events leave much garbage, which is all of their size. The rest of
// kafka.max_buffered is for the program's own pages, some 20 MiB, and for what the
// runtime overshoots by. With a smaller max_buffered the program needs what it needs.
func memoryLimit(maxBuffered int64) int64 { return max(maxBuffered, 64<<20) - 26<<20 }

func stream(ctx, hurry context.Context, cfg *config.Config, start func(*pipeline.Options), stderr io.Writer) error {
	log := logger(cfg.Log, stderr)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(int64(cfg.Kafka.MaxBuffered)))
	}
	adaptProcessors(ctx)
	st := status.New(max(30*time.Second, 10*cfg.Delivery.ConfirmInterval))
	o, err := pipelineOptions(cfg, st, log)
	if err != nil {
		return err
	}
	start(&o)
	if cfg.HTTP.Listen != "" {
		l, err := net.Listen("tcp", cfg.HTTP.Listen)
		if err != nil {
			return fmt.Errorf("http.listen: %w; choose another address, or \"\" to turn it off", err)
		}
		log.Info().Stringer("address", l.Addr()).Msg("serving HTTP")
		serving, stop := context.WithCancel(context.Background())
		defer stop()
		go func() {
			if err := st.Serve(serving, l); err != nil {
				log.Error().Err(err).Msg("the status page is gone")
			}
		}()
	}
	log.Info().Str("version", version).Str("database", config.RedactDSN(cfg.Postgres.DSN.Reveal())).
		Strs("brokers", cfg.Kafka.Brokers).Stringer("table", cfg.Outbox.Table).Msg("outboxd starts")
	return pipeline.New(o).Run(ctx, hurry)
}

// logTime is RFC 3339 with milliseconds: seconds are too coarse to see what took
// how long.
const logTime = "2006-01-02T15:04:05.000Z07:00"

func logger(cfg config.Log, w io.Writer) zerolog.Logger {
	zerolog.TimeFieldFormat = logTime
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil {
		level = zerolog.InfoLevel
	}
	console := cfg.Format == "console"
	if f, ok := w.(*os.File); ok && cfg.Format == "auto" {
		console = isatty.IsTerminal(f.Fd())
	}
	if console {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}
