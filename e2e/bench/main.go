// Command bench measures outboxd beside others on the same machine in the same
// run: the servers are started here, each contestant drains the same rows from a
// slot of its own, and the runs of all contestants take turns.
//
//	go -C e2e run ./bench                     outboxd and the bare readers
//	go -C e2e run ./bench -debezium           also Debezium on Kafka Connect
//	go -C e2e run ./bench -only hundred -runs 5
//	go -C e2e run ./bench -only distance      PostgreSQL 1 and 10 ms away; as root, on Linux
//	go -C e2e run ./bench -only partitions    where it is hard: see docs/benchmarks.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"outboxd/e2e/bench/distance"
	"outboxd/internal/testbed"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		exit(bare(os.Args[2:]))
	}
	var b bench
	flag.BoolVar(&b.debezium, "debezium", false, "also run Debezium on Kafka Connect")
	flag.IntVar(&b.runs, "runs", 3, "runs of each contestant")
	flag.IntVar(&b.events, "events", 1_000_000, "events of a catch-up")
	only := flag.String("only", "", "comma-separated scenarios: "+strings.Join(scenarioNames(), ", "))
	flag.StringVar(&b.version, "postgres", "15", "PostgreSQL major version")
	flag.StringVar(&b.binary, "outboxd", "", "binary to measure; built here if empty")
	flag.StringVar(&b.against, "against", "", "other binaries of outboxd to measure beside it, separated by commas")
	flag.StringVar(&b.out, "out", "", "folder for results.md and a plot of each scenario")
	flag.StringVar(&b.skip, "skip", "", "contestants to leave out, separated by ;")
	flag.StringVar(&b.over, "over", "tcp", "how PostgreSQL is reached: tcp, tls, unix")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(b.run(ctx, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is a run of the command.
type bench struct {
	debezium          bool
	runs, events      int
	version, over     string
	binary, out, skip string
	against           string

	printed  strings.Builder
	dir      string
	postgres *testbed.Postgres
	kafka    *testbed.Kafka
	registry *testbed.Registry // for the scenario with formats
	line     *distance.Line    // for the scenarios with distances
	counter  int
	warm     bool // the broker has taken a catch-up before
}

// kafkaJVM are the options that Kafka's own start script gives a broker.
var kafkaJVM = []string{"-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"}

func kafkaOptions() testbed.KafkaOptions {
	return testbed.KafkaOptions{JVM: kafkaJVM, Settings: map[string]string{"log.retention.check.interval.ms": "3600000"}}
}

func (b *bench) run(ctx context.Context, only string) error {
	chosen, err := chooseScenarios(only)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"tcp", "tls", "unix"}, b.over) {
		return fmt.Errorf("no way %q to PostgreSQL; there are tcp, tls, unix", b.over)
	}
	if b.over != "tcp" {
		if b.debezium {
			return errors.New("with -debezium, PostgreSQL is reached over TCP alone")
		}
		aboutTCP := func(s scenario) bool { return s.name == "distance" || s.name == "zone" || s.name == "reading" }
		if only != "" && slices.ContainsFunc(chosen, aboutTCP) {
			return errors.New("the scenarios distance, zone and reading are about TCP")
		}
		chosen = slices.DeleteFunc(chosen, aboutTCP)
	}
	if b.dir, err = os.MkdirTemp("", "outboxd-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.binary == "" {
		b.binary = filepath.Join(b.dir, "outboxd")
		if err := testbed.BuildOutboxd(ctx, b.binary, "-trimpath", "-ldflags", "-s -w"); err != nil {
			return err
		}
	}
	settings := map[string]string{
		"max_replication_slots": "200", // one for each run of each contestant
		"max_wal_size":          "16GB", "shared_buffers": "256MB", "checkpoint_timeout": "1h", "autovacuum": "off", "track_commit_timestamp": "on",
	}
	isDistance := func(s scenario) bool { return s.name == "distance" || s.name == "zone" }
	if slices.ContainsFunc(chosen, isDistance) {
		// Before PostgreSQL, which listens on it.
		b.line, err = distance.Open()
		if err != nil && only != "" {
			return err
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: without distances:", err)
			chosen = slices.DeleteFunc(chosen, isDistance)
		}
	}
	if b.line != nil {
		defer b.line.Close()
		settings["listen_addresses"] = "127.0.0.1," + distance.Near
	}
	if b.postgres, err = testbed.StartPostgres(ctx, testbed.PostgresOptions{Version: b.version, Settings: settings, TLS: b.over == "tls"}); err != nil {
		return err
	}
	defer b.postgres.Close()
	if b.kafka, err = testbed.StartKafka(ctx, kafkaOptions()); err != nil {
		return err
	}
	defer b.kafka.Close()
	if b.line != nil {
		if err := b.connectLine(ctx); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(chosen, func(s scenario) bool { return s.name == "formats" }) {
		if b.registry, err = testbed.StartRegistry(ctx); err != nil {
			return err
		}
		defer b.registry.Close()
	}

	b.printf("%s, PostgreSQL %s over %s, Kafka %s, %d processors, load %s\n",
		time.Now().Format(time.DateOnly), b.version, b.over, testbed.KafkaVersion, runtime.NumCPU(), loadAverage())
	var errs []error
	for _, s := range chosen {
		if err := s.run(ctx, b, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if b.out != "" {
		errs = append(errs, os.WriteFile(filepath.Join(b.out, "results.md"), []byte(b.printed.String()), 0o644))
	}
	return errors.Join(errs...)
}

// printf prints, and keeps for the file in -out.
func (b *bench) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Print(line)
	b.printed.WriteString(line)
}
