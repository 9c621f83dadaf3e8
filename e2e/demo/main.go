// Command demo shows the main job: a real PostgreSQL with an outbox, a service
// that writes to it, outboxd, and a consumer that prints the events as they
// arrive from Kafka. The broker is an in-process one; KAFKA=host:port names
// another.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/mattn/go-isatty"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/testbed"
)

// withoutTerminal is how long the demo runs when nobody can press Ctrl-C.
const withoutTerminal = 20 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "outboxd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	step("building outboxd")
	d := &stage{dir: dir, binary: filepath.Join(dir, "outboxd")}
	if err := testbed.BuildOutboxd(ctx, d.binary); err != nil {
		return err
	}

	step("starting PostgreSQL (the first time it is fetched)")
	postgres, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{})
	if err != nil {
		return err
	}
	defer postgres.Close()
	if err := postgres.Exec(ctx, "postgres", "CREATE DATABASE shop"); err != nil {
		return err
	}
	d.dsn = postgres.DSN("shop")

	if d.broker = os.Getenv("KAFKA"); d.broker == "" {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(3))
		if err != nil {
			return fmt.Errorf("start in-process broker: %w", err)
		}
		defer cluster.Close()
		d.broker = cluster.ListenAddrs()[0]
		step("started an in-process Kafka broker (KAFKA=host:port make demo uses yours)")
	}
	return d.play(ctx)
}

// stage is what the parts of the demo share.
type stage struct {
	dir, binary, config string
	dsn, broker, http   string

	committed, rolledBack atomic.Int64
	mu                    sync.Mutex
	seen                  map[string]bool // event ids
	repeated              int
}

func (d *stage) play(ctx context.Context) error {
	d.seen = make(map[string]bool)
	if err := d.writeConfig(); err != nil {
		return err
	}
	step("outboxd init --apply")
	prepare := exec.CommandContext(ctx, d.binary, "init", "--apply", "--config", d.config)
	prepare.Stdout, prepare.Stderr = indented{os.Stdout}, os.Stderr
	if err := prepare.Run(); err != nil {
		return fmt.Errorf("outboxd init: %w", err)
	}
	step("outboxd run --config " + d.config)
	connector, err := d.startConnector()
	if err != nil {
		return err
	}
	defer func() { connector.stop() }()
	d.explain()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2)
	var work sync.WaitGroup
	work.Go(func() { failed <- d.write(ctx) })
	work.Go(func() { failed <- d.consume(ctx) })
	defer work.Wait()
	defer cancel()

	var end <-chan time.Time
	if !isatty.IsTerminal(os.Stdout.Fd()) {
		end = time.After(withoutTerminal)
	}
	crash := time.After(8 * time.Second)
	for {
		select {
		case <-crash:
			step("kill -9 of outboxd, while the service continues to write")
			connector.kill()
			time.Sleep(time.Second)
			step("outboxd run, again: it resumes at the slot's position")
			if connector, err = d.startConnector(); err != nil {
				return err
			}
		case err := <-failed:
			if ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			d.summary()
			return nil
		case <-end:
			d.summary()
			return nil
		}
	}
}

func (d *stage) writeConfig() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.http = l.Addr().String()
	l.Close()
	d.config = filepath.Join(d.dir, "outboxd.yaml")
	return os.WriteFile(d.config, fmt.Appendf(nil, `postgres:
  dsn: %s
kafka:
  brokers: [%s]
http:
  listen: %s
log:
  level: warn
`, d.dsn, d.broker, d.http), 0o600)
}

func (d *stage) explain() {
	fmt.Printf(`
    Each line below is an event that has come all the way: committed in PostgreSQL
    beside an order, read from the WAL, acknowledged by Kafka, consumed again.
    Each event type has a topic of its own, the default, so an order's events may
    arrive here in another order. In one topic they keep it:
    route.topic: "outbox.event.{aggregate_type}".

    Try, in another terminal:
      psql '%s'
        INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
        VALUES ('order', 'mine', 'OrderPlaced', '{"hello": "world"}');
      curl http://%s/status    curl http://%s/metrics
    and in a browser:
      http://%s/
    Ctrl-C ends the demo.

`, d.dsn, d.http, d.http, d.http)
}

// write is a service: it changes an order and writes the event in the same
// transaction. Now and then a transaction is rolled back.
func (d *stage) write(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `CREATE TABLE orders (id text PRIMARY KEY, status text NOT NULL)`); err != nil {
		return err
	}
	steps := []string{"OrderPlaced", "OrderPaid", "OrderShipped"}
	for n := 0; ; n++ {
		order, event := fmt.Sprintf("order-%d", 1000+n/len(steps)), steps[n%len(steps)]
		rollback := n%10 == 9
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `INSERT INTO orders VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET status = $2`, order, event); err == nil {
			_, err = tx.Exec(ctx, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', $1, $2, $3)`,
				order, event, fmt.Sprintf(`{"order": %q, "step": %d}`, order, n%len(steps)+1))
		}
		if err != nil {
			return err
		}
		if rollback {
			err = tx.Rollback(ctx)
			d.rolledBack.Add(1)
		} else if err = tx.Commit(ctx); err == nil {
			d.committed.Add(1)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// consume prints what arrives.
func (d *stage) consume(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(d.broker), kgo.ConsumeRegex(), kgo.ConsumeTopics(`^outbox\.event\..*`),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(500*time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fetches.EachRecord(d.print)
	}
}

func (d *stage) print(r *kgo.Record) {
	headers := make(map[string]string)
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	d.mu.Lock()
	again := d.seen[headers["id"]]
	d.seen[headers["id"]] = true
	if again {
		d.repeated++
	}
	d.mu.Unlock()
	mark := ""
	if again {
		mark = "   (again, after the crash)"
	}
	fmt.Printf("%s  %-27s %-11s %s  %s%s\n", time.Now().Format("15:04:05.000"), r.Topic, r.Key, headers["position"], r.Value, mark)
}

// summary waits a moment for what is under way.
func (d *stage) summary() {
	var seen, repeated int
	for range 50 {
		d.mu.Lock()
		seen, repeated = len(d.seen), d.repeated
		d.mu.Unlock()
		if int64(seen) >= d.committed.Load() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("\n==> %d events committed, %d arrived, %d of them more than once; %d transactions rolled back, and nothing of them arrived\n",
		d.committed.Load(), seen, repeated, d.rolledBack.Load())
}

// connector is a running outboxd.
type connector struct{ cmd *exec.Cmd }

func (d *stage) startConnector() (*connector, error) {
	cmd := exec.Command(d.binary, "run", "--config", d.config)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// Ctrl-C is for the demo, which then stops the connector.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start outboxd: %w", err)
	}
	return &connector{cmd}, nil
}

func (c *connector) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func (c *connector) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	_ = c.cmd.Wait()
}

func step(text string) { fmt.Println("==>", text) }

// indented sets a command's output off from the demo's own.
type indented struct{ w *os.File }

func (i indented) Write(p []byte) (int, error) {
	if _, err := fmt.Fprintf(i.w, "    %s", p); err != nil {
		return 0, err
	}
	return len(p), nil
}
