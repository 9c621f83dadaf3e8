package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/connector"
	"outboxd/internal/status"
)

func runCommand(load loader, hurry context.Context) *cobra.Command {
	var acceptGap bool
	var from lsnFlag
	var only positionFlag
	cmd := &cobra.Command{
		Use:   "run",
		Short: "streams outbox events to Kafka until it is stopped",
		Long: "run streams until SIGINT or SIGTERM, then waits for what is in flight, confirms it to PostgreSQL, and exits 0.\n" +
			"It exits 0 only if everything that Kafka has acknowledged is stored, and confirmed to PostgreSQL.\n" +
			"A second signal, a second or more after the first, skips the wait; what was not acknowledged is published\n" +
			"again at the next start.\n\n" +
			"Transient faults (a database or broker that is down, a topic or a right that is missing) never end it:\n" +
			"it retries, and /readyz says why. SIGHUP reads log.level again. A few seconds after the first event could be\n" +
			"read it logs what `outboxd check` warns of. Exit codes: 1 an operator must look, 2 bad configuration,\n" +
			"3 the stored position cannot be trusted.",
		Example: "  outboxd run --config outboxd.yaml\n  outboxd run --from-lsn 16/B374D848\n  outboxd run --dead-letter 0000000001507C60-00000001",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load.usable()
			if err != nil {
				return err
			}
			reload := func() (*config.Config, error) { return load.usable() }
			return failed(stream(cmd.Context(), hurry, cfg, configFile(cmd), reload, func(o *connector.Options) {
				o.AcceptGap, o.From = acceptGap, from.lsn
			}, only.at, cmd.ErrOrStderr()))
		},
	}
	cmd.Flags().BoolVar(&acceptGap, "accept-gap", false, "resume at the slot's own position when the stored one is refused, and log what is skipped;\n"+
		"also accept the outbox table and the publication as they are now, where they are not those that were\n"+
		"published before, a --from-lsn that skips events, and repeated events after a change of delivery.store")
	cmd.Flags().Var(&from, "from-lsn", "commit `LSN`, or a record's position, to start at instead of the stored position: what Kafka lost is published\n"+
		"again, as far back as the slot's confirmed position (see delivery.rewind)")
	cmd.Flags().Var(&only, "dead-letter", "`POSITION` of one event that cannot be delivered: it goes to errors.dead_letter_topic, whatever errors.poison says,\n"+
		"and the run continues")
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

func stream(ctx, hurry context.Context, cfg *config.Config, file string, reload func() (*config.Config, error), start func(*connector.Options), only decoder.Position, stderr io.Writer) error {
	log := logger(cfg.Log, stderr).Level(zerolog.TraceLevel) // see setLevel
	if err := setLevel(cfg.Log.Level); err != nil {
		return err
	}
	tuneProcess(ctx, cfg)
	st := status.New(max(30*time.Second, 10*cfg.Delivery.ConfirmInterval))
	st.Build(version, revision(), runtime.Version())
	if !cfg.Delivery.Rewind.IsZero() {
		st.UseRewind(cfg.Delivery.Rewind.String())
	}
	o, err := connectorOptions(cfg, st, log)
	if err != nil {
		return err
	}
	start(&o)
	tracer := traceRecords(cfg, &o.Sink, st, log)
	if cfg.Errors.Poison == "dead_letter" || only != (decoder.Position{}) {
		topic, err := deadLetterTopic(cfg, log)
		if err != nil {
			return err
		}
		defer topic.Close()
		o.DeadLetters = deadLetterWriter(cfg, topic, only, st, log)
	}
	if cfg.Reconcile.Every > 0 {
		comparing, stop := context.WithCancel(ctx)
		defer stop()
		if err := reconcileEvery(comparing, cfg, file, st, log); err != nil {
			return err
		}
	}
	if cfg.HTTP.Listen != "" {
		l, err := net.Listen("tcp", cfg.HTTP.Listen)
		if err != nil {
			return fmt.Errorf("http.listen: %w; choose another address, or \"\" to turn it off", err)
		}
		page, err := httpOptions(cfg, log)
		if err != nil {
			return err
		}
		page.Level, page.SetLevel = func() string { return zerolog.GlobalLevel().String() }, setLevel
		log.Info().Stringer("address", l.Addr()).Msg("serving HTTP")
		serving, stop := context.WithCancel(context.Background())
		defer stop()
		go func() {
			if err := st.ServeWith(serving, l, page); err != nil {
				log.Error().Err(err).Msg("the status page is gone")
			}
		}()
	}
	stop, err := (&beside{cfg: cfg, file: file, reload: reload, kafka: o.Sink, tracer: tracer, hurry: hurry, st: st, log: log}).start(ctx)
	if err != nil {
		return err
	}
	defer stop()
	warn(cfg, log)
	log.Info().Str("version", version).Str("database", config.RedactDSN(cfg.Postgres.DSN.Reveal())).
		Strs("brokers", cfg.Kafka.Brokers).Stringer("table", cfg.Outbox.Table).Msg("outboxd starts")
	return guarded(ctx, hurry, drainTimeout+stopMargin, connector.New(o).Run)
}

// stopMargin is what a stop may take beyond drainTimeout before it is taken for one
// that hangs, and hurryMargin what it may take after a second signal.
const (
	stopMargin  = 3 * time.Second
	hurryMargin = time.Second
)

// guarded runs the connector, and returns without it when a stop does not end: a
// system call that hangs, such as of a file on a server that is gone, knows no
// context. A panic becomes an error.
func guarded(ctx, hurry context.Context, limit time.Duration, run func(ctx, hurry context.Context) error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- connector.PanicError(r, debug.Stack())
			}
		}()
		done <- run(ctx, hurry)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	deadline, second := time.After(limit), hurry.Done()
	for {
		select {
		case err := <-done:
			return err
		case <-second:
			deadline, second = time.After(hurryMargin), nil
		case <-deadline:
			return fmt.Errorf("%w: something did not answer in time; what was not confirmed is published again at the next start", connector.ErrUnclean)
		}
	}
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
