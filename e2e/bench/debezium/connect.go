package debezium

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// startLimit bounds each step of a start whose context has no deadline.
const startLimit = 2 * time.Minute

// closePatience is how long a worker may take to stop its connector and flush
// its offsets.
const closePatience = 20 * time.Second

const logging = `appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
`

// Connect is a running worker with one connector. Its methods may be called
// from any goroutine.
type Connect struct {
	dir     string
	process *process
	rest    rest
	name    string
	config  map[string]string

	closing sync.Once
}

// Start fetches Debezium if need be, starts a Kafka Connect worker and its
// connector, and returns when the connector's task runs. The caller closes it.
func Start(ctx context.Context, o Options) (*Connect, error) {
	c, err := startWorker(ctx, o)
	if err != nil {
		return nil, err
	}
	if err = c.create(ctx); err == nil {
		err = c.waitRunning(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// startWorker starts a worker without a connector and waits until it answers.
func startWorker(ctx context.Context, o Options) (_ *Connect, err error) {
	if err := o.startable(); err != nil {
		return nil, fmt.Errorf("start Debezium: %w", err)
	}
	o, db, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start Debezium: %w", err)
	}
	java, err := exec.LookPath(o.Java)
	if err != nil {
		return nil, fmt.Errorf("start Debezium: %s is missing: apt-get install openjdk-17-jre-headless", o.Java)
	}
	lib, err := libraries(ctx)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("start Debezium: %w", err)
	}
	dir, err := os.MkdirTemp("", "outboxd-debezium-*")
	if err != nil {
		return nil, fmt.Errorf("start Debezium: %w", err)
	}
	c := &Connect{dir: dir, rest: newREST(port), name: o.Name, config: o.connector(db)}
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("start Kafka Connect: %w", err)
		}
	}()
	worker, log4j := filepath.Join(dir, "worker.properties"), filepath.Join(dir, "log4j2.properties")
	if err := errors.Join(
		os.WriteFile(worker, o.worker(port), 0o600),
		os.WriteFile(log4j, []byte(logging), 0o600),
	); err != nil {
		return nil, err
	}
	args := append([]string{"-Xms256m", "-Xmx" + o.Heap}, o.JVM...)
	args = append(args, "-Djava.awt.headless=true", "-Dlog4j2.configurationFile="+log4j,
		"-cp", filepath.Join(lib, "*"), "org.apache.kafka.connect.cli.ConnectDistributed", worker)
	cmd := exec.Command(java, args...)
	cmd.Dir = dir
	if c.process, err = startProcess(cmd, filepath.Join(dir, "worker.log")); err != nil {
		return nil, err
	}
	return c, c.until(ctx, func(ctx context.Context) (bool, error) { return c.rest.ready(ctx), nil })
}

// create posts the connector.
func (c *Connect) create(ctx context.Context) error {
	err := c.until(ctx, func(ctx context.Context) (bool, error) { return c.rest.put(ctx, c.name, c.config) })
	if err != nil {
		return fmt.Errorf("create the connector: %w", err)
	}
	return nil
}

// waitRunning waits until the connector's task runs.
func (c *Connect) waitRunning(ctx context.Context) error {
	err := c.until(ctx, func(ctx context.Context) (bool, error) { return c.rest.running(ctx, c.name) })
	if err != nil {
		return fmt.Errorf("wait for the connector to run: %w", err)
	}
	return nil
}

// check returns an error if the worker has ended or its task has failed.
func (c *Connect) check(ctx context.Context) error {
	if err := c.process.ended(); err != nil {
		return err
	}
	_, err := c.rest.running(ctx, c.name)
	return err
}

// until repeats a step until it is done, fails for good, or the worker ends.
func (c *Connect) until(ctx context.Context, step func(context.Context) (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		done, err := step(ctx)
		if ended := c.process.ended(); ended != nil {
			return ended
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w\n%s", ctx.Err(), c.process.tail())
		}
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-c.process.done:
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Config returns the connector's whole configuration, without the password.
func (c *Connect) Config() map[string]string {
	m := maps.Clone(c.config)
	delete(m, "database.password")
	return m
}

// PID returns the worker's process.
func (c *Connect) PID() int { return c.process.cmd.Process.Pid }

// CPUSeconds returns the processor time that the worker has used since its
// start.
func (c *Connect) CPUSeconds() (float64, error) { return cpuSeconds(c.PID()) }

// PeakRSS returns the most memory, in bytes, that the worker has held.
func (c *Connect) PeakRSS() (int64, error) { return peakRSS(c.PID()) }

// Log returns the worker's output so far. It is gone after Close.
func (c *Connect) Log() ([]byte, error) { return os.ReadFile(filepath.Join(c.dir, "worker.log")) }

// Close stops the worker and waits for its end. The slot stays, and so do its
// topics. Calling it again does nothing.
func (c *Connect) Close() {
	c.closing.Do(func() {
		if c.process != nil {
			c.process.stop(closePatience)
		}
		_ = os.RemoveAll(c.dir)
	})
}

// freePort finds a port below those that the kernel hands out by itself, so
// that no outgoing connection takes it before the worker does.
func freePort() (int, error) {
	for range 1000 {
		port := 10000 + rand.IntN(10000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("find a free TCP port: none in 1000 tries")
}
