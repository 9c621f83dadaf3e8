package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/check"
	"outboxd/internal/config"
	"outboxd/internal/finding"
	"outboxd/internal/status"
	"outboxd/internal/systemd"
	"outboxd/internal/trace"
	"outboxd/internal/walheld"
	"outboxd/sink"
)

// beside is what runs beside the connector and touches nothing of it: the check of the
// start, the lag of consumer groups, spans, the service manager, the level of the log.
type beside struct {
	cfg  *config.Config
	file string // the configuration file that the process was started with
	// reload reads the configuration again.
	reload func() (*config.Config, error)
	kafka  sink.Options
	// tracer is nil without monitor.trace.endpoint. hurry ends with the second signal.
	tracer *trace.Tracer
	hurry  context.Context
	st     *status.Status
	log    zerolog.Logger
}

// besideStop bounds how long a stop waits for what runs beside: a file system that hangs
// may hold up a check.
const besideStop = 3 * time.Second

// start starts it all. stopping ends with the first signal; stop ends it, and waits.
func (b *beside) start(stopping context.Context) (stop func(), err error) {
	notifier, err := systemd.New(os.Getenv)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(stopping)
	ended, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	if notifier != nil {
		all.Go(func() {
			notifier.Run(stopping, ended, func() bool { return !b.st.Stuck() }, func() string { return statusLine(b.st.Report()) })
		})
	}
	if len(b.cfg.Monitor.ConsumerGroups) > 0 {
		all.Go(func() { watchGroups(ctx, b.cfg, b.kafka, b.st, b.log) })
	}
	if b.tracer != nil {
		all.Go(func() { b.tracer.Run(ended, b.hurry) })
	}
	all.Go(func() { b.check(ctx) })
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	all.Go(func() { b.reloadLevel(ended, hangups) })
	return func() {
		signal.Stop(hangups)
		cancel()
		end()
		done := make(chan struct{})
		go func() { defer close(done); all.Wait() }()
		select {
		case <-done:
		case <-time.After(besideStop):
		}
	}, nil
}

// statusLine is the report in a line, for `systemctl status`.
func statusLine(r status.Report) string {
	line := r.Role
	switch {
	case r.Ready != nil && !*r.Ready:
		return line + ", not ready: " + r.Reason
	case r.Reason != "":
		return line + ": " + r.Reason
	}
	line += fmt.Sprintf(", %.0f events/s", r.EventsRate)
	if r.Retained != nil {
		line += ", WAL held " + walheld.Size(*r.Retained)
		if r.HeldBy != walheld.CauseNothing {
			line += ": " + r.Why
		}
	}
	return line
}

const (
	// checkAfter is how long after the first event could be read the set-up is checked:
	// a start has more urgent things to ask.
	checkAfter = 3 * time.Second
	checkLimit = time.Minute
)

// check runs all of `outboxd check` once this process streams, and logs what it warns
// of. A process that stands by does not: it would ask for what the other one needs.
// What of PostgreSQL or the stored position is a FAIL has been judged by the start
// itself, by the same queries, and a FAIL now is only that this connector uses the last
// place. What nobody could look at is left out as well, since the stream shows it.
func (b *beside) check(ctx context.Context) {
	for b.st.Role() != status.Streaming {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(checkAfter):
	}
	o, err := checkOptions(b.cfg)
	if err != nil {
		b.log.Warn().Err(err).Msg("the set-up is not checked")
		return
	}
	if o.Positions != nil {
		defer o.Positions.Close()
	}
	limited, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	report := check.Run(limited, o)
	if limited.Err() != nil {
		return // nobody knows, and a broker or server that does not answer is told elsewhere
	}
	nameInReport(report, b.file)
	b.told(report)
}

// told logs what the check warns of.
func (b *beside) told(report check.Report) {
	var warnings []status.Warning
	for _, group := range report.Groups {
		for _, f := range group.Findings {
			started := group.Name == "PostgreSQL" || group.Name == "Position"
			told := strings.HasPrefix(f.Subject, check.GroupSubject) // by who watches them
			if f.Level == finding.OK || f.Level == finding.Fail && started || told || strings.HasPrefix(f.Text, finding.NotChecked) {
				continue
			}
			warnings = append(warnings, status.Warning{Check: f.Subject, Text: oneLine(fmt.Errorf("%s", f.Text)), Fix: f.Fix})
			b.log.Warn().Str("check", f.Subject).Str("warning", f.Text).Str("fix", f.Fix).Strs("sql", f.SQL).Str("command", f.Command).Msg("outboxd check warns")
		}
	}
	b.st.Checked(warnings)
	b.log.Info().Int("warnings", len(warnings)).Msg("the set-up was checked")
}

// setLevel changes what is logged, for the whole process: zerolog asks its global level
// before it makes an event.
func setLevel(level string) error {
	parsed, err := zerolog.ParseLevel(level)
	if err != nil || parsed < zerolog.TraceLevel || parsed > zerolog.ErrorLevel || level == "" {
		return fmt.Errorf("%q is not a level: trace, debug, info, warn or error", level)
	}
	zerolog.SetGlobalLevel(parsed)
	return nil
}

// reloadLevel takes over log.level from the configuration at each SIGHUP. Nothing else
// of the configuration changes before a restart.
func (b *beside) reloadLevel(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		cfg, err := b.reload()
		if err == nil {
			err = setLevel(cfg.Log.Level)
		}
		if err != nil {
			b.log.Error().Err(err).Msg("SIGHUP: the configuration cannot be read again; the level of the log stays as it is")
			continue
		}
		b.log.Log().Str("log_level", cfg.Log.Level).Msg("SIGHUP: log.level was read again; other keys take a restart")
	}
}
