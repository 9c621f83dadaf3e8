package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// reconcileQuiet is how long the writers are measured without a comparison.
const reconcileQuiet = 30 * time.Second

// reconcile measures what a comparison takes, of the program and of PostgreSQL, and what
// a writer feels beside it; then the memory of `run` with reconcile.every.
func reconcile(ctx context.Context, b *bench, s scenario) error {
	b.printf("\n## %s\n\n", s.title)
	database, conn, err := b.outbox(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	t := target{database: database, slot: database, topic: database + ".placed"}
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", t.slot); err != nil {
		return err
	}
	defer dropSlots(context.WithoutCancel(ctx), conn, []string{t.slot})
	if err := b.createTopic(ctx, t.topic); err != nil {
		return err
	}
	if t.events, err = s.fill(ctx, conn, b.events); err != nil {
		return err
	}
	if _, err := b.outboxd("", b.binary, "").run(ctx, b, t); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "VACUUM ANALYZE outbox"); err != nil {
		return err
	}
	b.printf("%d rows\n\n| | seconds | p50 of an insert | p99 | max | CPU, s | memory, MiB | CPU of PostgreSQL for it, s | blocks read, and found in shared buffers | temporary bytes of PostgreSQL |\n|---|---|---|---|---|---|---|---|---|---|\n", t.events)
	line := func(name string, took time.Duration, delays []time.Duration, c cost) {
		feels := "| | | "
		if len(delays) > 0 {
			feels = fmt.Sprintf("| %.2f ms | %.2f ms | %.1f ms ", ms(percentile(delays, 50)), ms(percentile(delays, 99)), ms(delays[len(delays)-1]))
		}
		b.printf("| %s | %.0f %s| %.1f | %d | %.1f | %d, %d | %d |\n", name, took.Seconds(), feels, c.cpu.Seconds(), c.memory>>20, c.backends.Seconds(), c.read, c.hit, c.temp)
	}

	r, err := b.startRun(t, "")
	if err != nil {
		return err
	}
	defer func() { _ = r.cmd.Process.Kill() }()
	// Nobody writes: the load on PostgreSQL is that of the comparison.
	c, took, err := b.compare(ctx, conn, t, func(until func(context.Context) (bool, error)) error {
		for done := false; !done && err == nil; time.Sleep(200 * time.Millisecond) {
			done, err = until(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	line("`outboxd reconcile`, nobody writes", took, nil, c)
	for range b.runs {
		end := time.Now().Add(reconcileQuiet)
		delays, took, err := b.besideWriters(ctx, database, func(context.Context) (bool, error) { return time.Now().After(end), nil })
		if err != nil {
			return err
		}
		line("`run` alone", took, delays, cost{memory: peakMemory(r.cmd.Process.Pid)})
		c, took, err := b.compare(ctx, conn, t, func(until func(context.Context) (bool, error)) (err error) {
			delays, _, err = b.besideWriters(ctx, database, until)
			return err
		})
		if err != nil {
			return err
		}
		line("`outboxd reconcile` beside it", took, delays, c)
	}
	if err := r.Stop(); err != nil {
		return err
	}

	// The first round begins after a second, and the process is asked until it has ended.
	if r, err = b.startRun(t, "reconcile: {every: 1s}"); err != nil {
		return err
	}
	defer func() { _ = r.cmd.Process.Kill() }()
	var verdict string
	delays, took, err := b.besideWriters(ctx, database, func(ctx context.Context) (bool, error) {
		verdict, err = r.verdict(ctx)
		return verdict != "none yet", err
	})
	if err != nil || verdict != "agree" {
		return errors.Join(err, fmt.Errorf("inside run: %q", verdict))
	}
	line("`run` with `reconcile.every`", took, delays, cost{cpu: r.CPU(), memory: peakMemory(r.cmd.Process.Pid)})
	b.printf("\nload %s\n", loadAverage())
	return r.Stop()
}

// cost is what a comparison takes: of its process, and of PostgreSQL.
type cost struct {
	cpu             time.Duration
	memory          int64
	backends        time.Duration
	read, hit, temp int64 // of the database, others' included
}

// compare runs outboxd reconcile. while is called with what says that it has ended.
func (b *bench) compare(ctx context.Context, conn *pgx.Conn, t target, while func(until func(context.Context) (bool, error)) error) (c cost, took time.Duration, err error) {
	run, err := b.outboxdCommand(b.binary, "", t)
	if err != nil {
		return c, 0, err
	}
	var out bytes.Buffer
	cmd := exec.Command(run.Path, "reconcile", "--json", "--config", run.Args[len(run.Args)-1])
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &out, &out, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	counters := func(n *[3]int64) error {
		// Statistics of a session that has ended are there at once, others a second later.
		time.Sleep(1500 * time.Millisecond)
		return conn.QueryRow(ctx, "SELECT blks_read, blks_hit, temp_bytes FROM pg_stat_database WHERE datname = current_database()").Scan(&n[0], &n[1], &n[2])
	}
	var before, after [3]int64
	if err := counters(&before); err != nil {
		return c, 0, err
	}
	first, last := make(map[int]time.Duration), make(map[int]time.Duration)
	sample := func(ctx context.Context, began bool) error {
		rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'outboxd%' AND backend_type = 'client backend'")
		if err != nil {
			return err
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		for _, pid := range pids {
			used := processCPU(strconv.Itoa(pid))
			if !began {
				first[pid] = used
			}
			last[pid] = max(used, last[pid])
		}
		return err
	}
	if err := sample(ctx, false); err != nil {
		return c, 0, err
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return c, 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var failed error
	err = while(func(ctx context.Context) (bool, error) {
		select {
		case failed = <-ended:
			took = time.Since(started)
			return true, nil
		default:
			return false, sample(ctx, true)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return c, took, fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	if err := counters(&after); err != nil {
		return c, took, err
	}
	for pid, used := range last {
		c.backends += used - first[pid]
	}
	var used result
	used.usage(cmd.ProcessState)
	c.cpu, c.memory, c.read, c.hit, c.temp = used.cpu, used.rss, after[0]-before[0], after[1]-before[1], after[2]-before[2]
	return c, took, nil
}

// running is outboxd run, with its page.
type running struct {
	process
	address string
}

func (b *bench) startRun(t target, extra string) (r running, err error) {
	if r.cmd, err = b.outboxdCommand(b.binary, extra, t); err != nil {
		return r, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return r, err
	}
	r.address = l.Addr().String()
	l.Close()
	r.cmd.Env = append(os.Environ(), "OUTBOXD_HTTP_LISTEN="+r.address)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return r, r.cmd.Start()
}

// verdict is that of its last comparison; "none yet" while it starts.
func (r running) verdict(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address+"/status", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "none yet", nil // it starts, or the next Stop says why it ended
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	var status struct {
		Reconcile struct{ Verdict, Error string }
	}
	if err := json.Unmarshal(body, &status); err != nil {
		return "", err
	}
	expected := func(part string) bool { return strings.Contains(status.Reconcile.Error, part) }
	if status.Reconcile.Error != "" && !expected("takes longer than reconcile.every") && !expected("this process does not stream") {
		return "", errors.New(status.Reconcile.Error)
	}
	return status.Reconcile.Verdict, nil
}

// peakMemory is the most resident memory that a process had, in bytes.
func peakMemory(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseInt(string(fields[0]), 10, 64)
	return kb << 10
}
