package testbed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// childMode makes the test binary start a server, print its processes, and wait
// to be killed.
const childMode = "OUTBOXD_TESTBED_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childMode) != "" {
		beKilled()
	}
	os.Exit(m.Run())
}

func limit(t *testing.T) context.Context {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("servers are for Linux only")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value(t *testing.T, p *Postgres, sql string) string {
	t.Helper()
	v, err := p.QueryValue(context.Background(), "postgres", sql)
	must(t, err)
	return v
}

// eventually waits for a query to give a value.
func eventually(t *testing.T, ctx context.Context, p *Postgres, sql, want string) {
	t.Helper()
	for {
		got, err := p.QueryValue(ctx, "postgres", sql)
		if err == nil && got == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %q (%v), want %q", sql, got, err, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

const slots = "select coalesce(string_agg(slot_name || '/' || plugin, ',' order by slot_name), '') from pg_replication_slots where plugin is not null"

func TestPostgresSurvivesKill(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	p, err := StartPostgres(ctx, PostgresOptions{Settings: map[string]string{"work_mem": "7MB", "cluster_name": `it's a \ test`}})
	must(t, err)
	defer p.Close()

	if got := value(t, p, "select current_setting('wal_level') || ' ' || current_setting('work_mem') || ' ' || current_setting('cluster_name')"); got != `logical 7MB it's a \ test` {
		t.Errorf("settings: %s", got)
	}
	must(t, p.Exec(ctx, "postgres", "create table t (id int); create publication p for table t"))
	must(t, p.Exec(ctx, "postgres", "select pg_create_logical_replication_slot('s', 'pgoutput')"))
	must(t, p.Exec(ctx, "postgres", "insert into t values (1)"))

	addr := p.Addr()
	must(t, p.Kill(ctx))
	if p.Running() {
		t.Error("it runs after Kill")
	}
	must(t, p.Start(ctx))
	if p.Addr() != addr {
		t.Errorf("address %s after a restart, was %s", p.Addr(), addr)
	}
	if got := value(t, p, slots); got != "s/pgoutput" {
		t.Errorf("slots after a kill: %q", got)
	}
	const changes = "select count(*) from pg_logical_slot_peek_binary_changes('s', null, null, 'proto_version', '1', 'publication_names', 'p')"
	if got := value(t, p, changes); got == "0" {
		t.Error("the slot lost its changes")
	}

	must(t, p.StopImmediate(ctx))
	must(t, p.Start(ctx))
	must(t, p.Restart(ctx))
	if err := p.Start(ctx); err == nil {
		t.Error("a running server was started again")
	}
	if got := value(t, p, "select count(*) from t"); got != "1" {
		t.Errorf("%s rows, want 1", got)
	}
	p.Close()
	p.Close()
	if isDir(filepath.Dir(p.DataDir())) {
		t.Errorf("%s is still there after Close", filepath.Dir(p.DataDir()))
	}
}

func TestPostgresKeepsNamedDir(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	dir, err := os.MkdirTemp("", "outboxd-dir-*") // t.TempDir is closed to other users
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o755))
	p, err := StartPostgres(ctx, PostgresOptions{Dir: dir})
	must(t, err)
	defer p.Close()
	must(t, p.Exec(ctx, "postgres", "create database shop"))
	p.Close()

	p, err = StartPostgres(ctx, PostgresOptions{Dir: dir})
	must(t, err)
	defer p.Close()
	must(t, p.Exec(ctx, "shop", "create table t (id int)"))
}

func TestPostgresReportsItsLog(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	_, err := StartPostgres(ctx, PostgresOptions{Settings: map[string]string{"wal_level": "nonsense"}})
	if err == nil || !strings.Contains(err.Error(), "wal_level") {
		t.Errorf("the error does not show the log: %v", err)
	}
	if _, err := StartPostgres(ctx, PostgresOptions{Version: "9"}); err == nil {
		t.Error("version 9 was started")
	}
}

func TestStandbyTakesOverWithSlot(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	p, err := StartPostgres(ctx, PostgresOptions{Version: "17"})
	must(t, err)
	defer p.Close()
	must(t, p.Exec(ctx, "postgres", "create table t (id int); insert into t values (1)"))
	must(t, p.Exec(ctx, "postgres", "select pg_create_logical_replication_slot('s', 'pgoutput', false, false, true)"))

	s, err := p.StartStandby(ctx, PostgresOptions{Settings: map[string]string{"sync_replication_slots": "on"}})
	must(t, err)
	defer s.Close()
	must(t, p.Exec(ctx, "postgres", "insert into t values (2)"))
	eventually(t, ctx, s, "select count(*) from t where id > 0", "2")
	if got := value(t, p, "select active::text from pg_replication_slots where slot_name = '"+s.StandbySlot()+"'"); got != "true" {
		t.Errorf("the standby's slot: active %s", got)
	}
	// A copy is kept only once the standby has all WAL that the slot may need,
	// for which the slot must move on.
	go func() {
		for ctx.Err() == nil && p.Running() {
			_ = p.Exec(ctx, "postgres", "insert into t values (0); select pg_log_standby_snapshot();"+
				"select pg_replication_slot_advance('s', pg_current_wal_lsn())")
			time.Sleep(100 * time.Millisecond)
		}
	}()
	eventually(t, ctx, s, "select count(*) from pg_replication_slots where slot_name = 's' and synced and not temporary", "1")

	must(t, p.Kill(ctx))
	must(t, s.Promote(ctx))
	must(t, s.Exec(ctx, "postgres", "insert into t values (3)"))
	if got := value(t, s, slots); got != "s/pgoutput" {
		t.Errorf("slots after the failover: %q", got)
	}
	same := "select system_identifier from pg_control_system()"
	must(t, p.Start(ctx))
	if a, b := value(t, p, same), value(t, s, same); a != b {
		t.Errorf("system identifiers differ: %s, %s", a, b)
	}
}

func TestOldStandby(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	p, err := StartPostgres(ctx, PostgresOptions{Version: "14"})
	must(t, err)
	defer p.Close()
	s, err := p.StartStandby(ctx, PostgresOptions{})
	must(t, err)
	defer s.Close()
	must(t, p.Exec(ctx, "postgres", "create table t (id int)"))
	eventually(t, ctx, s, "select to_regclass('t')::text", "t")
	must(t, s.Promote(ctx))
	must(t, s.Exec(ctx, "postgres", "insert into t values (1)"))
}

func client(t *testing.T, seeds []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(seeds...), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(-1),
		// Quick to notice that a broker is gone, paused or back.
		kgo.RequestTimeoutOverhead(3 * time.Second), kgo.ProduceRequestTimeout(3 * time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	}, opts...)...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func produce(t *testing.T, ctx context.Context, cl *kgo.Client, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatalf("produce %s: %v", v, err)
		}
	}
}

// consume reads a topic from its beginning until it has seen n records.
func consume(t *testing.T, ctx context.Context, seeds []string, topic string, n int) map[string]int {
	t.Helper()
	cl := client(t, seeds, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	seen := make(map[string]int)
	for total := 0; total < n; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("consumed %v, want %d records: %v", seen, n, ctx.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++; total++ })
	}
	return seen
}

func expectOnce(t *testing.T, seen map[string]int, values ...string) {
	t.Helper()
	for _, v := range values {
		if seen[v] != 1 {
			t.Errorf("%s was seen %d times: %v", v, seen[v], seen)
		}
	}
}

func TestKafkaSurvivesKill(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	proxy := startProxy(t, "")
	k, err := StartKafka(ctx, KafkaOptions{
		Advertised: []string{proxy.Addr()},
		Settings:   map[string]string{"num.partitions": "2"},
	})
	must(t, err)
	defer k.Close()
	proxy.SetTarget(k.Brokers()[0])

	cl := client(t, []string{proxy.Addr()}, kgo.TransactionalID("t"))
	must(t, cl.BeginTransaction())
	produce(t, ctx, cl, "events", "a", "b")
	must(t, cl.EndTransaction(ctx, kgo.TryCommit))
	topics, err := kadm.NewClient(cl).ListTopics(ctx, "events")
	must(t, err)
	if n := len(topics["events"].Partitions); n != 2 {
		t.Errorf("%d partitions, want 2", n)
	}
	if proxy.Connections() == 0 {
		t.Error("clients do not come through the advertised proxy")
	}

	must(t, k.Kill(0))
	must(t, k.Start(ctx, 0))
	must(t, cl.BeginTransaction())
	produce(t, ctx, cl, "events", "c")
	must(t, cl.EndTransaction(ctx, kgo.TryCommit))
	expectOnce(t, consume(t, ctx, k.Brokers(), "events", 3), "a", "b", "c")

	proxy.Cut()
	must(t, k.StopGracefully(ctx, 0))
	must(t, k.Start(ctx, 0))
	if err := k.Start(ctx, 0); err == nil {
		t.Error("a running broker was started again")
	}
	if err := k.Kill(1); err == nil {
		t.Error("a broker that is not there was killed")
	}
	expectOnce(t, consume(t, ctx, k.Brokers(), "events", 3), "a", "b", "c")
	k.Close()
	k.Close()
	if isDir(filepath.Dir(filepath.Dir(k.LogFile(0)))) {
		t.Error("the data is still there after Close")
	}
}

func TestKafkaClusterSurvivesBrokers(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	k, err := StartKafka(ctx, KafkaOptions{Brokers: 3})
	must(t, err)
	defer k.Close()
	cl := client(t, k.Brokers())
	produce(t, ctx, cl, "events", "a")
	topics, err := kadm.NewClient(cl).ListTopics(ctx, "events")
	must(t, err)
	leader := topics["events"].Partitions[0].Leader
	if n := len(topics["events"].Partitions[0].Replicas); n != 3 {
		t.Fatalf("%d replicas, want 3", n)
	}

	must(t, k.Kill(int(leader-k.NodeID(0))))
	produce(t, ctx, cl, "events", "b")
	must(t, k.Start(ctx, int(leader-k.NodeID(0))))

	other := int(leader-k.NodeID(0)+1) % 3
	must(t, k.Pause(other))
	produce(t, ctx, cl, "events", "c")
	must(t, k.Resume(other))
	expectOnce(t, consume(t, ctx, k.Brokers(), "events", 3), "a", "b", "c")
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	r, err := StartRegistry(ctx)
	must(t, err)
	defer r.Close()
	register := func() int {
		t.Helper()
		body := strings.NewReader(`{"schema": "{\"type\": \"string\"}"}`)
		resp, err := http.Post(r.URL()+"/subjects/s-value/versions", "application/vnd.schemaregistry.v1+json", body)
		must(t, err)
		defer resp.Body.Close()
		var answer struct{ ID int }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("register: %s, %v", resp.Status, err)
		}
		return answer.ID
	}
	if a, b := register(), register(); a == 0 || a != b {
		t.Errorf("one schema has the ids %d and %d", a, b)
	}
	must(t, r.Stop())
	if _, err := http.Get(r.URL()); err == nil {
		t.Error("it answers after Stop")
	}
	must(t, r.Start(ctx))
	register()
}

// beKilled is the other process of TestServersEndWithTheTestBinary.
func beKilled() {
	ctx := context.Background()
	p, err := StartPostgres(ctx, PostgresOptions{})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	k, err := StartKafka(ctx, KafkaOptions{})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	// Threads come and go meanwhile, and must not take the servers with them.
	for range 50 {
		go func() { runtime.LockOSThread() }()
	}
	time.Sleep(100 * time.Millisecond)
	if !p.Running() || !k.brokers[0].process.running() {
		fmt.Println("error: a server ended with a thread")
		os.Exit(1)
	}
	fmt.Println("ready", p.current().cmd.Process.Pid, k.brokers[0].process.cmd.Process.Pid, p.base, k.base)
	select {}
}

func TestServersEndWithTheTestBinary(t *testing.T) {
	t.Parallel()
	ctx := limit(t)
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), childMode+"=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	var postmaster, broker int
	var dirs [2]string
	if _, err := fmt.Sscanf(line, "ready %d %d %s %s", &postmaster, &broker, &dirs[0], &dirs[1]); err != nil {
		t.Fatalf("the other process says %q", line)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, pid := range []int{postmaster, broker} {
		for alive(pid) {
			if ctx.Err() != nil {
				t.Fatalf("process %d outlives its test binary", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	removeAbandoned()
	for _, dir := range dirs {
		if isDir(dir) {
			t.Errorf("%s is still there", dir)
		}
	}
}

func TestCacheIsFilledOnceAndWhole(t *testing.T) {
	ctx := limit(t)
	t.Setenv("OUTBOXD_CACHE", filepath.Join(t.TempDir(), "cache"))
	if _, err := cached(ctx, "thing", func(dir string) error {
		must(t, os.WriteFile(filepath.Join(dir, "half"), nil, 0o600))
		return errors.New("no network")
	}); err == nil {
		t.Fatal("the error is lost")
	}
	if left, _ := os.ReadDir(CacheDir()); len(left) != 1 { // the lock
		t.Errorf("a failed fetch left %v", left)
	}

	var filled atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			dir, err := cached(ctx, "thing", func(dir string) error {
				filled.Add(1)
				return os.WriteFile(filepath.Join(dir, "whole"), nil, 0o600)
			})
			if err != nil || !isFile(filepath.Join(dir, "whole")) {
				t.Errorf("%s, %v", dir, err)
			}
		})
	}
	all.Wait()
	if n := filled.Load(); n != 1 {
		t.Errorf("filled %d times", n)
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	ctx := limit(t)
	t.Setenv("OUTBOXD_CACHE", filepath.Join(t.TempDir(), "cache"))
	t.Setenv("PATH", "")
	err := Fetch(ctx, "kafka", "postgres:18", "teapot")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"apt-get install openjdk-17-jre-headless", "fetch postgres:18", "fetch teapot"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
}
