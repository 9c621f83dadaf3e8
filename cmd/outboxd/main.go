// Command outboxd takes a PostgreSQL outbox table to Kafka.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"outboxd/internal/config"
	"outboxd/internal/connector"
	"outboxd/internal/debezium"
	"outboxd/offsets"
)

// Exit codes, as the README promises them.
const (
	exitFailed  = 1 // an operator must look
	exitUsage   = 2 // bad command line or configuration
	exitRefused = 3 // the position cannot be trusted
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command and returns its exit code. A panic ends it with exit code
// 1; Go itself would take 2, which means a bad configuration.
func run(args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			code = report(failed(connector.PanicError(r, debug.Stack())), stderr)
		}
	}()
	ctx, hurry, stop := signals()
	defer stop()
	root := rootCommand(hurry)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return report(named(root.ExecuteContext(ctx), configFile(root)), stderr)
}

// report returns the exit code of a command that ended with err. The last line on
// stderr says what is wrong and what to do.
func report(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	var (
		refused *offsets.RefusedError
		failed  *failedError
		bad     *config.LoadError
		foreign *debezium.Error
	)
	switch {
	case errors.As(err, &bad):
		for _, p := range bad.Problems() {
			fmt.Fprintln(stderr, p)
		}
		fmt.Fprintf(stderr, "outboxd: the configuration has %s; correct it and start again\n", count(len(bad.Problems()), "problem"))
		return exitUsage
	case errors.As(err, &foreign):
		for _, p := range foreign.Problems {
			fmt.Fprintln(stderr, p)
		}
		fmt.Fprintf(stderr, "outboxd: the connector's file has %s; correct it and import it again\n", count(len(foreign.Problems), "problem"))
		return exitUsage
	case errors.As(err, &refused):
		fmt.Fprintln(stderr, "outboxd:", oneLine(err))
		return exitRefused
	case errors.Is(err, connector.ErrConfiguration):
		fmt.Fprintln(stderr, "outboxd:", oneLine(err))
		return exitUsage
	case errors.As(err, &failed):
		fmt.Fprintln(stderr, "outboxd:", oneLine(err))
		return exitFailed
	}
	fmt.Fprintf(stderr, "outboxd: %s; see `outboxd --help`\n", oneLine(err))
	return exitUsage
}

// failedError marks an error of a command's work, as opposed to one of its
// command line.
type failedError struct{ error }

func (e *failedError) Unwrap() error { return e.error }

// failed marks err, nil stays nil.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failedError{err}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// sameStop is how long after the first signal another belongs to the same stop:
// wrappers such as timeout(1) signal the process and its group.
const sameStop = time.Second

// signals returns a context that ends with the first SIGINT or SIGTERM, and one
// that ends with the second.
func signals() (ctx, hurry context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	hurry, cancelHurry := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	go stopBy(c, cancel, cancelHurry)
	return ctx, hurry, func() {
		signal.Stop(c)
		close(c) // nothing is sent any more
		cancel()
		cancelHurry()
	}
}

// stopBy calls stop at the first signal, and hurry at one that comes later than
// sameStop. It ends then, or when c is closed.
func stopBy(c <-chan os.Signal, stop, hurry func()) {
	var first time.Time
	for range c {
		switch {
		case first.IsZero():
			first = time.Now()
			stop()
		case time.Since(first) >= sameStop:
			hurry()
			return
		}
	}
}

func rootCommand(hurry context.Context) *cobra.Command {
	root := &cobra.Command{
		Use:   "outboxd",
		Short: "delivers a PostgreSQL outbox table to Kafka, and loses nothing",
		Long: "outboxd reads the inserts into a PostgreSQL outbox table from the WAL and delivers them to Kafka.\n" +
			"It lets PostgreSQL discard WAL only once Kafka has acknowledged every event in it.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().String("config", "", "configuration file (default $OUTBOXD_CONFIG, else "+config.DefaultPath+")")
	load := loader(func(without ...string) (*config.Config, error) {
		return load(configFile(root), os.Environ(), without...)
	})
	root.AddCommand(runCommand(load, hurry), replayCommand(load), reconcileCommand(load), recoverCommand(load), deadLettersCommand(load), checkCommand(load), initCommand(load), configCommand(load), statusCommand(load), importCommand(), versionCommand())
	for _, command := range extra {
		root.AddCommand(command())
	}
	return root
}

// extra are commands that only a build with some tag has.
var extra []func() *cobra.Command
