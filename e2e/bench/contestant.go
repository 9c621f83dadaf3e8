package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contestant is a program that takes an outbox to Kafka.
type contestant struct {
	name string
	run  func(context.Context, *bench, target) (result, error)
	// start is for measuring latency: it starts the contestant, which runs
	// until it is stopped. Nil: it has no such mode.
	start func(context.Context, *bench, target) (runner, error)
}

// runner is a contestant that runs.
type runner interface {
	// CPU returns the time used up to now.
	CPU() time.Duration
	Stop() error
}

// contestants returns outboxd first.
func (b *bench) contestants() []contestant {
	all := b.binaries()
	if b.over == "tcp" { // else these cannot tell how full the socket is
		all = append(all, []contestant{
			{"bare reader, socket left full", runBare("-deliver"), nil},
			{"the same with outboxd's headers", runBare("-deliver", "-headers"), nil},
		}...)
	}
	all = append(all, []contestant{
		{"bare reader, eager", runBare("-deliver", "-eager"), startBare},
		{"bare eager reader, no Kafka", runBare("-eager"), nil},
	}...)
	if b.debezium {
		all = append(all, debeziumContestants()...)
	}
	return b.kept(all)
}

// binaries returns this program, and those that are to be measured beside it.
func (b *bench) binaries() []contestant { return b.binariesWith("", "") }

// binariesWith returns the same with a further name and configuration.
func (b *bench) binariesWith(name, extra string, env ...string) []contestant {
	all := []contestant{b.outboxd("outboxd"+name, b.binary, extra, env...)}
	for _, binary := range b.others() {
		all = append(all, b.outboxd("outboxd, "+filepath.Base(binary)+name, binary, extra, env...))
	}
	return all
}

// readers returns readers that throw everything away, with different receive
// buffers and rests: how much must arrive during a rest for the server to find
// the socket full?
func (b *bench) readers() []contestant {
	all := []contestant{{"eager", runBare("-eager"), nil}}
	for _, buffer := range []int{64, 256, 1024} {
		for _, rest := range []string{"1ms", "3ms", "10ms", "30ms"} {
			all = append(all, contestant{fmt.Sprintf("buffer %d KiB, rest %s", buffer, rest),
				runBare("-buffer", strconv.Itoa(buffer<<10), "-rest", rest), nil})
		}
	}
	return b.kept(all)
}

// formats returns outboxd with each form of value.
func (b *bench) formats() []contestant {
	return b.kept([]contestant{
		b.outboxd("raw", b.binary, ""),
		b.outboxd("json", b.binary, "value: {format: json}"),
		b.outboxd("cloudevents", b.binary, "value: {format: cloudevents}"),
		b.outboxd("avro", b.binary, "value: {format: avro, avro: {registry: \""+b.registry.URL()+"\"}}"),
	})
}

// guarantees returns outboxd with each guarantee, and the programs beside it with that
// which costs something.
func (b *bench) guarantees() []contestant {
	const exactlyOnce = "delivery: {guarantee: exactly_once}"
	all := []contestant{
		b.outboxd("at least once", b.binary, ""),
		b.outboxd("at least once, store kafka", b.binary, "delivery: {store: kafka}"),
		b.outboxd("exactly once", b.binary, exactlyOnce),
	}
	for _, binary := range b.others() {
		all = append(all, b.outboxd("exactly once, "+filepath.Base(binary), binary, exactlyOnce))
	}
	return b.kept(all)
}

// others are the binaries of -against.
func (b *bench) others() []string {
	return strings.FieldsFunc(b.against, func(r rune) bool { return r == ',' })
}

func (b *bench) kept(all []contestant) []contestant {
	skip := strings.Split(b.skip, ";")
	return slices.DeleteFunc(all, func(c contestant) bool { return slices.Contains(skip, c.name) })
}

// outboxd is a contestant from a binary of this program, with further
// configuration, in its file and in its environment.
func (*bench) outboxd(name, binary, extra string, env ...string) contestant {
	return contestant{
		name: name,
		run: func(ctx context.Context, b *bench, t target) (result, error) {
			cmd, err := b.outboxdCommand(binary, extra, t)
			if err != nil {
				return result{}, err
			}
			cmd.Env = append(os.Environ(), env...)
			return b.measure(ctx, t, cmd)
		},
		start: func(_ context.Context, b *bench, t target) (runner, error) {
			cmd, err := b.outboxdCommand(binary, extra, t)
			if err != nil {
				return nil, err
			}
			cmd.Env = append(os.Environ(), env...)
			return startProcess(cmd)
		},
	}
}

func (b *bench) outboxdCommand(binary, extra string, t target) (*exec.Cmd, error) {
	file := filepath.Join(b.dir, t.slot+".yaml")
	config := fmt.Sprintf(`postgres: {dsn: "%s", slot: %s}
kafka: {brokers: [%q]}
route: {topic: "%s{type}"}
http: {listen: ""}
%s
`, b.dsn(t), t.slot, b.brokers(t)[0], t.prefix(), extra)
	return exec.Command(binary, "run", "--config", file), os.WriteFile(file, []byte(config), 0o600)
}

// brokers are what a contestant is pointed at.
func (b *bench) brokers(t target) []string {
	if t.brokers != nil {
		return t.brokers
	}
	return b.kafka.Brokers()
}

func runBare(flags ...string) func(context.Context, *bench, target) (result, error) {
	return func(ctx context.Context, b *bench, t target) (result, error) {
		cmd, err := b.bareCommand(t, flags...)
		if err != nil {
			return result{}, err
		}
		if slices.Contains(flags, "-deliver") {
			return b.measure(ctx, t, cmd)
		}
		return b.measureAlone(ctx, t, cmd)
	}
}

func startBare(_ context.Context, b *bench, t target) (runner, error) {
	cmd, err := b.bareCommand(t, "-deliver", "-eager")
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr // it says only why it ends
	return startProcess(cmd)
}

func (b *bench) bareCommand(t target, flags ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args, topic := append([]string{"bare"}, flags...), t.topic
	if t.types != nil {
		args, topic = append(args, "-bytype"), t.prefix()
	}
	return exec.Command(self, append(args, b.dsn(t), t.slot, b.brokers(t)[0], topic, strconv.Itoa(t.events))...), nil
}

// process is a contestant of ours.
type process struct{ cmd *exec.Cmd }

func startProcess(cmd *exec.Cmd) (runner, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return process{cmd}, cmd.Start()
}

func (p process) CPU() time.Duration { return processCPU(strconv.Itoa(p.cmd.Process.Pid)) }

func (p process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.cmd.Wait()
}

// measure starts a contestant and watches its topic fill up.
func (b *bench) measure(ctx context.Context, t target, cmd *exec.Cmd) (result, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := time.Now()
	if err := b.launch(cmd, t); err != nil {
		return result{}, err
	}
	res, err := b.arrival(ctx, t, started)
	res.walsender = b.walsender(ctx, t.slot)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	exited := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	waited := cmd.Wait()
	exited.Stop()
	if err == nil {
		err = waited
	}
	if err != nil {
		return res, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	res.usage(cmd.ProcessState)
	return res, nil
}

// measureAlone runs a contestant that ends by itself and has no topic.
func (b *bench) measureAlone(ctx context.Context, t target, cmd *exec.Cmd) (res result, err error) {
	started := time.Now()
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := b.launch(cmd, t); err != nil {
		return res, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			res.whole = time.Since(started)
			res.secondHalf = res.whole / 2
			res.usage(cmd.ProcessState)
			if err == nil {
				_, err = fmt.Sscan(stdout.String(), &res.reads, &res.segments)
			}
			return res, err
		case <-time.After(100 * time.Millisecond):
			if used := b.walsender(ctx, t.slot); used > 0 {
				res.walsender = used
			}
		}
	}
}

func (r *result) usage(state *os.ProcessState) {
	r.cpu = state.UserTime() + state.SystemTime()
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		r.rss = usage.Maxrss << 10
	}
}

// ticksPerSecond is what /proc counts CPU time in (USER_HZ).
const ticksPerSecond = 100

func processCPU(pid string) time.Duration {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / ticksPerSecond
}
