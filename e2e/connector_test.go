package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// connector is a running binary.
type connector struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has exited

	mu    sync.Mutex
	lines []string // its stderr
}

// start runs the connector with the scenario's configuration.
func (s *scenario) start(args ...string) *connector {
	s.t.Helper()
	c := &connector{t: s.t, done: make(chan struct{})}
	c.cmd = exec.Command(binary, append([]string{"run", "--config", s.configFile()}, args...)...)
	c.cmd.Env = append(os.Environ(), s.env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			c.mu.Lock()
			c.lines = append(c.lines, lines.Text())
			c.mu.Unlock()
		}
		_ = c.cmd.Wait()
	}()
	s.t.Cleanup(func() {
		c.kill()
		if s.t.Failed() {
			s.t.Logf("connector's stderr:\n%s", c.tail(60))
		}
	})
	return c
}

// configFile writes the scenario's configuration of now to a file of its own.
func (s *scenario) configFile() string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "outboxd.yaml")
	if err := os.WriteFile(file, []byte(s.config()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// startStreaming runs the connector and waits until it streams.
func (s *scenario) startStreaming(args ...string) *connector {
	s.t.Helper()
	c := s.start(args...)
	c.waitLog(`"message":"streaming"`, 30*time.Second)
	return c
}

func (c *connector) tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines[max(0, len(c.lines)-n):], "\n")
}

func (c *connector) logged(text string) bool { return c.count(text) > 0 }

// count says how many lines have the text.
func (c *connector) count(text string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// lastLine is the last line on stderr, which says what is wrong.
func (c *connector) lastLine() string { return c.tail(1) }

func (c *connector) waitLog(text string, within time.Duration) {
	c.t.Helper()
	waitFor(c.t, within, func() (string, bool) {
		if c.logged(text) {
			return "", true
		}
		select {
		case <-c.done:
			c.t.Fatalf("the connector ended before it logged %s:\n%s", text, c.tail(20))
		default:
		}
		return "no line with " + text + " in:\n" + c.tail(20), false
	})
}

func (c *connector) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *connector) signal(sig syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Fatal(err)
	}
}

// kill ends it with SIGKILL and waits.
func (c *connector) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// exit waits for the end and returns the exit code.
func (c *connector) exit(within time.Duration) int {
	c.t.Helper()
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		c.t.Fatalf("still running after %s:\n%s", within, c.tail(20))
		return -1
	}
}

// failsWith demands an end by itself with the exit code, and a last line on
// stderr that says all of the parts.
func (c *connector) failsWith(code int, parts ...string) {
	c.t.Helper()
	if got := c.exit(60 * time.Second); got != code {
		c.t.Errorf("exit code %d, want %d:\n%s", got, code, c.tail(20))
	}
	line := c.lastLine()
	if !strings.HasPrefix(line, "outboxd: ") {
		c.t.Errorf("the last line does not say who speaks: %s", line)
	}
	for _, part := range parts {
		if !strings.Contains(line, part) {
			c.t.Errorf("the last line does not say %q: %s", part, line)
		}
	}
}

// stop asks for a clean stop and demands it.
func (c *connector) stop() {
	c.t.Helper()
	c.signal(syscall.SIGTERM)
	if code := c.exit(40 * time.Second); code != 0 {
		c.t.Fatalf("exit code %d after SIGTERM:\n%s", code, c.tail(20))
	}
}

// secondSignal sends SIGTERM once more. Two within a second are one, as a wrapper
// sends them.
func (c *connector) secondSignal() {
	time.Sleep(1200 * time.Millisecond)
	c.signal(syscall.SIGTERM)
}

// invoke runs a command of the binary to its end.
func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// checkMemory holds the connector, up to now, to what docs/sizing.md says it takes: the
// program's 20 MiB, and kafka.max_buffered.
func (c *connector) checkMemory(with string) {
	c.t.Helper()
	rss := c.peakRSS()
	c.t.Logf("%d MiB in memory with %s", rss>>20, with)
	if rss > 84<<20 && !raceEnabled {
		c.t.Errorf("%d MiB in memory with %s, want at most 84", rss>>20, with)
	}
}

// peakRSS is the most memory it has had, in bytes.
func (c *connector) peakRSS() int64 {
	c.t.Helper()
	rss, err := peakRSS(c.cmd.Process.Pid)
	if err != nil {
		c.t.Fatal(err)
	}
	return rss
}

// peakRSS is the most memory that a running process has had, in bytes. (What wait4 says
// of a process that has ended counts the memory of its parent before exec.)
func peakRSS(pid int) (int64, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kb, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc status")
}
