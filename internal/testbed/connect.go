package testbed

import (
	"bytes"
	"cmp"
	"context"
	_ "embed" // connectProperties are embedded
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ConnectOptions describe a Kafka Connect worker with Debezium on it.
type ConnectOptions struct {
	Brokers []string
	// Group is the worker's group and the stem of its internal topics. A worker
	// of the same group resumes the connectors and offsets of an earlier one.
	Group string
	// Heap is the largest heap, such as 512m. Defaults to 512m.
	Heap string
	// JVM are Java's options beside the heap. Default to what starts fastest.
	JVM []string
	// Java is the program to run. Defaults to java on the PATH.
	Java string
}

// Connect is a running worker. Its methods may be called from any goroutine.
type Connect struct {
	base    string
	port    *port
	process *process
	rest    rest

	closing sync.Once
}

// connectProperties are the worker's options, but for addresses and names.
//
//go:embed connect.properties
var connectProperties []byte

const connectLogging = `appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
`

// connectPatience is how long a worker may take to stop its connectors and flush
// their offsets.
const connectPatience = 20 * time.Second

// StartConnect fetches Debezium if need be, starts a worker without connectors,
// and returns when it answers. The caller closes it.
func StartConnect(ctx context.Context, o ConnectOptions) (_ *Connect, err error) {
	c := &Connect{}
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("start Kafka Connect: %w", err)
		}
	}()
	if len(o.Brokers) == 0 {
		return nil, errors.New("no Kafka brokers are given")
	}
	if o.Java == "" {
		if o.Java, err = javaPath(); err != nil {
			return nil, err
		}
	}
	if o.JVM == nil {
		o.JVM = QuickJVM
	}
	lib, err := debeziumLib(ctx)
	if err != nil {
		return nil, err
	}
	if c.base, _, err = serverDir("", "connect"); err != nil {
		return nil, err
	}
	if c.port, err = takePort(); err != nil {
		return nil, err
	}
	c.rest = newREST(c.port.number)
	worker, log4j := filepath.Join(c.base, "worker.properties"), filepath.Join(c.base, "log4j2.properties")
	if err := errors.Join(
		os.WriteFile(worker, o.properties(c.port), 0o600),
		os.WriteFile(log4j, []byte(connectLogging), 0o600),
	); err != nil {
		return nil, err
	}
	args := append([]string{"-Xms256m", "-Xmx" + cmp.Or(o.Heap, "512m")}, o.JVM...)
	args = append(args, "-Djava.awt.headless=true", "-Dlog4j2.configurationFile="+log4j,
		"-cp", filepath.Join(lib, "*"), "org.apache.kafka.connect.cli.ConnectDistributed", worker)
	cmd := exec.Command(o.Java, args...)
	cmd.Dir = c.base
	if c.process, err = startProcess(cmd, c.logFile(), syscall.SIGKILL); err != nil {
		return nil, err
	}
	return c, waitReady(ctx, "worker", c.process, c.logFile(), c.rest.ready)
}

// properties returns the whole file that the worker is started with.
func (o ConnectOptions) properties(p *port) []byte {
	b := bytes.Clone(connectProperties)
	for _, s := range [][2]string{
		{"bootstrap.servers", strings.Join(o.Brokers, ",")},
		{"group.id", o.Group},
		{"config.storage.topic", o.Group + "-config"},
		{"offset.storage.topic", o.Group + "-offsets"},
		{"status.storage.topic", o.Group + "-status"},
		{"listeners", "http://" + p.addr()},
	} {
		b = fmt.Appendf(b, "%s=%s\n", s[0], s[1])
	}
	return b
}

func (c *Connect) logFile() string { return filepath.Join(c.base, "worker.log") }

// Create posts a connector, or changes it.
func (c *Connect) Create(ctx context.Context, name string, config map[string]string) error {
	err := c.until(ctx, func(ctx context.Context) (bool, error) { return c.rest.put(ctx, name, config) })
	if err != nil {
		return fmt.Errorf("create connector %s: %w", name, err)
	}
	return nil
}

// WaitRunning waits until a connector's task runs.
func (c *Connect) WaitRunning(ctx context.Context, name string) error {
	err := c.until(ctx, func(ctx context.Context) (bool, error) { return c.rest.running(ctx, name) })
	if err != nil {
		return fmt.Errorf("wait for connector %s to run: %w", name, err)
	}
	return nil
}

// Check returns an error if the worker has ended or a connector's task has
// failed.
func (c *Connect) Check(ctx context.Context, name string) error {
	if !c.process.running() {
		return fmt.Errorf("the worker ended (%v)\n%s", c.process.err, tail(c.logFile()))
	}
	_, err := c.rest.running(ctx, name)
	return err
}

// Delete stops a connector and removes it.
func (c *Connect) Delete(ctx context.Context, name string) error {
	if err := c.rest.delete(ctx, name); err != nil {
		return fmt.Errorf("delete connector %s: %w", name, err)
	}
	return nil
}

// until repeats a step until it is done, fails for good, or the worker ends.
func (c *Connect) until(ctx context.Context, step func(context.Context) (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		done, err := step(ctx)
		switch {
		case !c.process.running():
			return fmt.Errorf("the worker ended (%v)\n%s", c.process.err, tail(c.logFile()))
		case ctx.Err() != nil:
			return fmt.Errorf("%w\n%s", ctx.Err(), tail(c.logFile()))
		case done || err != nil:
			return err
		}
		select {
		case <-ctx.Done():
		case <-c.process.done:
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// PID returns the worker's process.
func (c *Connect) PID() int { return c.process.cmd.Process.Pid }

// Log returns the worker's output so far. It is gone after Close.
func (c *Connect) Log() ([]byte, error) { return os.ReadFile(c.logFile()) }

// LogTail returns the end of the worker's output, for an error message.
func (c *Connect) LogTail() string { return tail(c.logFile()) }

// Close stops the worker and waits for its end. Slots stay, and so do its topics.
// Calling it again does nothing.
func (c *Connect) Close() {
	c.closing.Do(func() {
		if c.process != nil {
			_ = c.process.signal(syscall.SIGTERM)
			ctx, cancel := context.WithTimeout(context.Background(), connectPatience)
			if c.process.wait(ctx) != nil {
				_ = c.process.kill()
			}
			cancel()
		}
		c.port.release()
		if c.base != "" {
			_ = os.RemoveAll(c.base)
		}
	})
}
