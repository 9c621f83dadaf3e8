package debezium

import (
	"bytes"
	"errors"
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
	log  string        // its output
	done chan struct{} // closed when the process has ended and is reaped
	err  error         // how it ended; read after done
}

// startProcess starts cmd with its output in a file.
//
// The kernel kills the child when the thread that started it ends, and Go ends
// threads when it likes to: so one goroutine keeps its thread for as long as
// the child lives.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("make the log: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttributes()
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// ended returns an error with the end of the log once the process has ended.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("the worker ended (%v)\n%s", p.err, p.tail())
	default:
		return nil
	}
}

// stop ends the process, by force if it takes too long.
func (p *process) stop(patience time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// tail returns the end of the log, for an error message.
func (p *process) tail() string {
	const most = 6 << 10
	f, err := os.Open(p.log)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return fmt.Sprintf("--- end of the worker's log\n%s", bytes.TrimSpace(b))
}

// cpuSeconds returns the processor time that a process has used, all its
// threads together, user and system.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	// The command's name stands in parentheses and may hold any character.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("read processor time: /proc/PID/stat is too short")
	}
	// Fields 14 and 15 of proc(5), in units that are 1/100 s everywhere.
	var user, system float64
	if _, err := fmt.Sscan(string(fields[11])+" "+string(fields[12]), &user, &system); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return (user + system) / 100, nil
}

// peakRSS returns the most memory, in bytes, that a process ever held.
func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	_, rest, ok := bytes.Cut(b, []byte("\nVmHWM:"))
	if !ok {
		return 0, errors.New("read peak memory: /proc/PID/status has no VmHWM")
	}
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		return 0, fmt.Errorf("read peak memory: %w", err)
	}
	return kib << 10, nil
}
