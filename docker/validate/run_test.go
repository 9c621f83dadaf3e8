package validate

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/testbed"
)

// inRoot runs its arguments in the root $0 as a container engine would: in a mount
// namespace of its own, the root read-only, /proc there and in /tmp what compose.yaml
// and the chart mount, as the image's user.
// Everything ends with the process.
const inRoot = `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount --rbind /proc "$0/proc" &&
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$0/tmp" &&
exec env -i $ENVIRONMENT "$(command -v chroot)" --userspec=65532:65532 --groups= "$0" "$@"`

// container is the image's root with what is mounted into it.
type container struct {
	root string
	env  []string
}

func (c *container) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-c", inRoot, c.root, "/outboxd"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ENVIRONMENT=" + strings.Join(c.env, " ")}
	return cmd
}

func newContainer(t *testing.T) *container {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a chroot needs root")
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace can be made here: %s", out)
	}
	c := &container{root: imageRoot(t)}
	for _, dir := range []string{"proc", "run/secrets", "tmp"} {
		if err := os.MkdirAll(filepath.Join(c.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// mount puts a file into the root, as a container's mount is seen from inside.
func (c *container) mount(t *testing.T, path, content string) {
	t.Helper()
	path = filepath.Join(c.root, path)
	if err := os.WriteFile(path, []byte(content), 0o440); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 0, 65532); err != nil { // as fsGroup does
		t.Fatal(err)
	}
}

func TestImageVersion(t *testing.T) {
	c := newContainer(t)
	out, err := c.command(t.Context(), "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "outboxd 1.2.3 commit abc1234 go1.") {
		t.Errorf("%v, %s", err, out)
	}
	// The root is what it is taken for: nothing else can be run in it.
	cmd := c.command(t.Context(), "version")
	cmd.Args[len(cmd.Args)-2] = "/bin/sh"
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("there is a shell in the image: %s", out)
	}
}

// The image's root, read-only, as its user, set up as compose.yaml does it: it
// streams an event, its metrics have what the alerts and the dashboard ask for, the
// pages' commands work beside it, and it stops in good order.
func TestRun(t *testing.T) {
	c := newContainer(t)
	postgres, err := testbed.StartPostgres(t.Context(), testbed.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "4GB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Close)
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	for _, sql := range []struct{ database, text string }{{"postgres", "CREATE DATABASE shop"}, {"shop", read(t, "compose/role.sql")}} {
		if err := postgres.Exec(t.Context(), sql.database, sql.text); err != nil {
			t.Fatal(err)
		}
	}

	// It takes what it is sent, and keeps nothing.
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(collector.Close)

	c.mount(t, "etc/outboxd/outboxd.yaml", read(t, "outboxd.yaml"))
	c.mount(t, "run/secrets/dsn", strings.Replace(read(t, "compose/dsn"), "@postgres/", "@"+postgres.Addr()+"/", 1)+"?sslmode=disable")
	before := tree(t, c.root)

	c.env = []string{"OUTBOXD_POSTGRES_DSN=" + postgres.DSN("shop")}
	if out, err := c.command(t.Context(), "init", "--apply", "--config", "/etc/outboxd/outboxd.yaml").CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}

	c.env = []string{"OUTBOXD_KAFKA_BROKERS=" + kafka.ListenAddrs()[0], "OUTBOXD_HTTP_LISTEN=127.0.0.1:0", "OUTBOXD_MONITOR_CONSUMER_GROUPS=billing",
		"OUTBOXD_ERRORS_POISON=dead_letter", "OUTBOXD_RECONCILE_EVERY=5s", "OUTBOXD_MONITOR_TRACE_ENDPOINT=" + collector.URL}
	// Started where the image's WORKDIR is not: chroot goes to /.
	run := start(t, c, "run", "--config", "/etc/outboxd/outboxd.yaml")
	address := run.value("serving HTTP", "address")
	waitReady(t, "http://"+address+"/readyz")
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", run.cmd.Process.Pid)); err != nil || !strings.Contains(string(status), "Uid:\t65532\t65532\t65532\t65532\n") || !strings.Contains(string(status), "CapEff:\t0000000000000000\n") {
		t.Errorf("it runs with other rights than the image says: %v\n%s", err, status)
	}

	scrapes := []string{get(t, "http://"+address+"/metrics")}
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka.ListenAddrs()...), kgo.ConsumeTopics("outbox.event.OrderPaid"), kgo.ConsumerGroup("billing"), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for i := range 2 {
		if err := postgres.Exec(t.Context(), "shop", fmt.Sprintf(`INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', 'order-%d', 'OrderPaid', '{"n": %[1]d}')`, i)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var records []*kgo.Record
		for len(records) == 0 && ctx.Err() == nil {
			records = client.PollRecords(ctx, 1).Records() // the topic is made with the first event
		}
		cancel()
		if len(records) != 1 || string(records[0].Value) != fmt.Sprintf(`{"n": %d}`, i) {
			t.Fatalf("records %v\n%s", records, run.log())
		}
		if err := client.CommitRecords(t.Context(), records...); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			waitForMetric(t, "http://"+address+"/metrics", `outboxd_consumer_lag{group="billing",topic="outbox.event.OrderPaid"} 0`)
		}
		waitForMetric(t, "http://"+address+"/metrics", fmt.Sprintf(`outboxd_events_published_total{topic="outbox.event.OrderPaid"} %d`, i+1))
		// What is asked of PostgreSQL now and then.
		waitForMetric(t, "http://"+address+"/metrics", `outboxd_slot_wal_status{status="reserved"} 1`)
		scrapes = append(scrapes, get(t, "http://"+address+"/metrics"))
	}
	// reconcile.every keeps what it reads in temporary files.
	waitForMetric(t, "http://"+address+"/status", `    "verdict": "agree",`)
	metrics := newMetrics(t, append(scrapes, get(t, "http://"+address+"/metrics")))
	t.Run("alerts", func(t *testing.T) { checkAlerts(t, metrics) })
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, metrics) })
	t.Run("documentation", func(t *testing.T) { checkCommands(t, c, postgres, kafka.ListenAddrs()[0], collector.URL, address) })

	if err := run.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-run.done:
	case <-time.After(40 * time.Second): // terminationGracePeriodSeconds
		t.Fatalf("it does not end\n%s", run.log())
	}
	if code := run.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, run.log())
	}
	if after := tree(t, c.root); after != before {
		t.Errorf("the root has changed from\n%s\nto\n%s", before, after)
	}
}

// process is a running container.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
}

func start(t *testing.T, c *container, args ...string) *process {
	t.Helper()
	// Its own context: it is to be stopped by a signal.
	p := &process{t: t, cmd: c.command(context.Background(), args...), done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, lines.Text())
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// value waits for a log line and returns one of its fields.
func (p *process) value(message, field string) string {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for line := range strings.Lines(p.log()) {
			var fields map[string]any
			if json.Unmarshal([]byte(line), &fields) == nil && fields["message"] == message {
				return fmt.Sprint(fields[field])
			}
		}
		select {
		case <-p.done:
			p.t.Fatalf("it has ended:\n%s", p.log())
		default:
		}
	}
	p.t.Fatalf("no line %q in:\n%s", message, p.log())
	return ""
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func waitReady(t *testing.T, url string) {
	t.Helper()
	said := ""
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if said = get(t, url); said == "ok\n" {
			return
		}
	}
	t.Fatalf("not ready: %s", said)
}

func waitForMetric(t *testing.T, url, sample string) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if strings.Contains(get(t, url), sample+"\n") {
			return
		}
	}
	t.Fatalf("no sample %s", sample)
}

// tree lists what a root holds.
func tree(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			fmt.Fprintln(&b, strings.TrimPrefix(path, root), info.Mode(), info.Size(), info.ModTime().Unix())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
