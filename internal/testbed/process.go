package testbed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a child that ends with us.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and is reaped
	err  error         // how it ended; read after done
}

// startProcess starts cmd with its output appended to logFile. If this process
// dies, the child gets onDeath.
//
// The kernel sends that signal when the thread that started the child ends,
// and Go ends threads when it likes to. So one goroutine keeps its thread for
// as long as the child lives.
func startProcess(cmd *exec.Cmd, logFile string, onDeath syscall.Signal) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	endWithParent(cmd.SysProcAttr, onDeath)
	// Its own group: Ctrl-C in a terminal reaches us alone, and we stop it.
	cmd.SysProcAttr.Setpgid = true

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends sig; to a process that has ended it is no error.
func (p *process) signal(sig syscall.Signal) error {
	if !p.running() {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && p.running() {
		return fmt.Errorf("send %v to process %d: %w", sig, p.cmd.Process.Pid, err)
	}
	return nil
}

// wait waits until the process has ended.
func (p *process) wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d to end: %w", p.cmd.Process.Pid, ctx.Err())
	}
}

// kill ends the process at once, also a stopped one, and waits for it.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return p.wait(ctx)
}

// startLimit bounds a start: a JVM has taken more than two minutes to its first word
// on a machine whose processors were given to others.
const startLimit = 4 * time.Minute

// waitReady calls probe until it succeeds, the process ends, or ctx does.
func waitReady(ctx context.Context, name string, p *process, logFile string, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, done := context.WithTimeout(ctx, 5*time.Second)
		err := probe(attempt)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("start %s: it ended (%v) before it was ready\n%s", name, p.err, tail(logFile))
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready: %w (%w)\n%s", name, ctx.Err(), err, tail(logFile))
		case <-tick.C:
		}
	}
}

// tail returns the end of a log file, for an error message.
func tail(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	defer f.Close()
	const most = 4096
	if fi, err := f.Stat(); err == nil && fi.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return fmt.Sprintf("--- end of %s\n%s", file, bytes.TrimSpace(b))
}

// run runs a short command to its end; its output is in the error.
func run(ctx context.Context, cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	endWithParent(cmd.SysProcAttr, syscall.SIGKILL)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, ctx.Err())
	}
	if err != nil {
		if len(out) > 4096 {
			out = out[len(out)-4096:]
		}
		return fmt.Errorf("run %v: %w\n%s", cmd.Args, err, bytes.TrimSpace(out))
	}
	return nil
}
