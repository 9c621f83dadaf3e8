package debezium

import (
	"context"
	"fmt"
	"maps"

	"outboxd/internal/testbed"
)

// Connect is a running worker with one connector. Its methods may be called
// from any goroutine.
type Connect struct {
	worker *testbed.Connect
	name   string
	config map[string]string
}

// Start fetches Debezium if need be, starts a Kafka Connect worker and its
// connector, and returns when the connector's task runs. The caller closes it.
func Start(ctx context.Context, o Options) (*Connect, error) {
	c, err := startWorker(ctx, o)
	if err != nil {
		return nil, err
	}
	if err = c.create(ctx); err == nil {
		err = c.worker.WaitRunning(ctx, c.name)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// startWorker starts a worker without a connector and waits until it answers.
func startWorker(ctx context.Context, o Options) (*Connect, error) {
	if err := o.startable(); err != nil {
		return nil, fmt.Errorf("start Debezium: %w", err)
	}
	o, db, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start Debezium: %w", err)
	}
	worker, err := testbed.StartConnect(ctx, testbed.ConnectOptions{
		Brokers: o.Brokers, Group: o.Name, Heap: o.Heap, JVM: o.JVM, Java: o.Java,
	})
	if err != nil {
		return nil, err
	}
	return &Connect{worker: worker, name: o.Name, config: o.connector(db)}, nil
}

// create posts the connector.
func (c *Connect) create(ctx context.Context) error { return c.worker.Create(ctx, c.name, c.config) }

// check returns an error if the worker has ended or its task has failed.
func (c *Connect) check(ctx context.Context) error { return c.worker.Check(ctx, c.name) }

// Config returns the connector's whole configuration, without the password.
func (c *Connect) Config() map[string]string {
	m := maps.Clone(c.config)
	delete(m, "database.password")
	return m
}

// PID returns the worker's process.
func (c *Connect) PID() int { return c.worker.PID() }

// CPUSeconds returns the processor time that the worker has used since its
// start.
func (c *Connect) CPUSeconds() (float64, error) { return cpuSeconds(c.PID()) }

// PeakRSS returns the most memory, in bytes, that the worker has held.
func (c *Connect) PeakRSS() (int64, error) { return peakRSS(c.PID()) }

// Log returns the worker's output so far. It is gone after Close.
func (c *Connect) Log() ([]byte, error) { return c.worker.Log() }

// Close stops the worker and waits for its end. The slot stays, and so do its
// topics. Calling it again does nothing.
func (c *Connect) Close() { c.worker.Close() }
