package debezium

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/testbed"
)

var (
	rows    = flag.Int("rows", 0, "drain this many rows with the real Debezium; 0: do not")
	profile = flag.String("profile", "tuned-throughput", "the profile to drain them with")
	heap    = flag.String("heap", "", "the worker's heap")
	java    = flag.String("java", "", "the Java to run")
	jvm     = flag.String("jvm", "", "the worker's Java options, in place of the profile's")
	set     = flag.String("set", "", "connector options to override: a=b,c=d")
	repeat  = flag.Int("repeat", 1, "how many times")
)

func TestProfiles(t *testing.T) {
	for _, p := range []Profile{Default(), TunedThroughput(), TunedLatency()} {
		o, db, err := Options{
			DSN: "postgres://app:secret@db:5433/shop", Brokers: []string{"k1:9092", "k2:9092"}, Profile: p,
			Table: "sales.outbox", RouteBy: "type", TopicPrefix: "bench.", Override: map[string]string{"tasks.max": "", "a": "b"},
		}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		c := o.connector(db)
		for name, want := range map[string]string{
			"connector.class":                           "io.debezium.connector.postgresql.PostgresConnector",
			"transforms.outbox.type":                    "io.debezium.transforms.outbox.EventRouter",
			"transforms.outbox.route.by.field":          "type",
			"transforms.outbox.route.topic.replacement": "bench.${routedByValue}",
			"database.hostname":                         "db",
			"database.port":                             "5433",
			"database.password":                         "secret",
			"table.include.list":                        "sales.outbox",
			"slot.name":                                 "debezium",
			"tasks.max":                                 "",
			"a":                                         "b",
		} {
			if c[name] != want {
				t.Errorf("%s: %s is %q, want %q", p.Name, name, c[name], want)
			}
		}
	}
	before := len(Default().Connector)
	if p := Default().With(map[string]string{"a": "b", "transforms": ""}); p.Connector["a"] != "b" || len(p.Connector) != before {
		t.Errorf("With: %v", p.Connector)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{DSN: "postgres://db/shop", Brokers: []string{"k:9092"}, Profile: Default()}
	for what, spoil := range map[string]func(*Options){
		"DSN":     func(o *Options) { o.DSN = "postgres://db:port/shop" },
		"Unix":    func(o *Options) { o.DSN = "host=/tmp dbname=shop" },
		"brokers": func(o *Options) { o.Brokers = nil },
		"profile": func(o *Options) { o.Profile = Profile{} },
	} {
		o := good
		spoil(&o)
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSecondHalf(t *testing.T) {
	at := func(seconds float64, events int64) sample {
		return sample{time.Unix(0, 0).Add(time.Duration(seconds * float64(time.Second))), events}
	}
	for _, c := range []struct {
		p    progress
		want float64
	}{
		{progress{at(0, 100), at(10, 400), at(12, 600), at(16, 1000)}, 100}, // half at 11 s
		{progress{at(0, 900), at(1, 1000)}, 500},                            // half before the first sample
		{progress{at(0, 1000)}, 0},                                          // too quick to tell
	} {
		if got := c.p.secondHalf(); got < c.want-0.01 || got > c.want+0.01 {
			t.Errorf("%v: %v a second, want %v", c.p, got, c.want)
		}
	}
}

func TestOwnProcess(t *testing.T) {
	cpu, err := cpuSeconds(os.Getpid())
	if err != nil || cpu < 0 || cpu > 3600 {
		t.Errorf("%v CPU s, %v", cpu, err)
	}
	rss, err := peakRSS(os.Getpid())
	if err != nil || rss < 1<<20 || rss > 1<<40 {
		t.Errorf("%d bytes, %v", rss, err)
	}
}

// TestCatchUp drains a backlog for real:
//
//	go -C e2e test -v -run CatchUp ./bench/debezium -rows 1000000 -heap 512m
func TestCatchUp(t *testing.T) {
	if *rows == 0 {
		t.Skip("-rows asks for it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	p, ok := map[string]Profile{"default": Default(), "tuned-throughput": TunedThroughput(), "tuned-latency": TunedLatency()}[*profile]
	if !ok {
		t.Fatalf("there is no profile %s", *profile)
	}
	for range *repeat {
		t.Run(p.Name, func(t *testing.T) { drain(t, ctx, p) })
	}
}

// TestStart streams a row with each profile and looks at what arrives:
//
//	go -C e2e test -v -run Start ./bench/debezium -rows 1
func TestStart(t *testing.T) {
	if *rows == 0 {
		t.Skip("-rows asks for it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	o := servers(t, ctx)
	write(t, ctx, o, 0)
	for value, p := range map[string]Profile{`{"n": 1}`: TunedLatency(), `\"n\": 1`: Default()} {
		o.Profile = p
		c, err := Start(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conn, err := pgx.Connect(ctx, o.DSN)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', 'o-1', $1, '{"n": 1}')`, p.Name); err != nil {
			t.Fatal(err)
		}
		consumer, err := kgo.NewClient(kgo.SeedBrokers(o.Brokers...), kgo.ConsumeTopics(o.TopicPrefix+p.Name),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(50*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		defer consumer.Close()
		var got []*kgo.Record
		for len(got) == 0 && ctx.Err() == nil {
			got = consumer.PollFetches(ctx).Records()
		}
		if len(got) != 1 {
			t.Fatalf("%s: %d records, %v", p.Name, len(got), ctx.Err())
		}
		if r := got[0]; !strings.Contains(string(r.Key), "o-1") || !strings.Contains(string(r.Value), value) ||
			len(r.Headers) == 0 || r.Headers[len(r.Headers)-1].Key != "id" {
			t.Errorf("%s: key %s, value %s, headers %s", p.Name, r.Key, r.Value, r.Headers)
		}
		rss, err := c.PeakRSS()
		if err != nil || rss < 50e6 {
			t.Errorf("peak memory %d, %v", rss, err)
		}
		t.Logf("%s: key %s, value %s, headers %s", p.Name, got[0].Key, got[0].Value, got[0].Headers)
		c.Close()
		c.Close()
	}
	// What Debezium says about a bad configuration is passed on.
	o.Override = map[string]string{"max.batch.size": "nonsense"}
	if c, err := Start(ctx, o); err == nil || !strings.Contains(err.Error(), "max.batch.size") {
		t.Errorf("a bad option: %v", err)
		if err == nil {
			c.Close()
		}
	}
}

// servers starts PostgreSQL and Kafka and returns options that lead to them.
func servers(t *testing.T, ctx context.Context) Options {
	t.Helper()
	pg, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{Version: "15", Settings: map[string]string{
		"max_wal_size": "4GB", "shared_buffers": "256MB", "checkpoint_timeout": "30min", "autovacuum": "off",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Close)
	kafka, err := testbed.StartKafka(ctx, testbed.KafkaOptions{Settings: map[string]string{"num.partitions": "6"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)

	return Options{DSN: pg.DSN("postgres"), Brokers: kafka.Brokers(), RouteBy: "type", TopicPrefix: "events.", Heap: *heap, Java: *java}
}

func drain(t *testing.T, ctx context.Context, p Profile) {
	o := servers(t, ctx)
	o.Profile, o.Override = p, make(map[string]string)
	if *jvm != "" {
		o.JVM = strings.Fields(*jvm)
	}
	for pair := range strings.SplitSeq(*set, ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			o.Override[name] = value
		}
	}
	write(t, ctx, o, *rows)
	load, _ := os.ReadFile("/proc/loadavg")
	drained := false
	o.Drained = func() { drained = true }
	r, err := CatchUp(ctx, o, int64(*rows))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s %s %s: %.0f events/s, second half %.0f; drained in %.2f s, first record %.2f s after creation, start-up %.2f s; "+
		"%.1f CPU s (%.1f for start-up), %.1f a million; peak %d MB; load %s", p.Name, *set, *heap, r.Rate, r.SecondHalf,
		r.Drain.Seconds(), r.First.Seconds(), r.StartUp.Seconds(), r.CPU, r.StartUpCPU, r.CPUPerMillion, r.PeakRSS/1e6, load)
	if !drained {
		t.Error("Drained was not called")
	}
	if r.Events != int64(*rows) {
		t.Errorf("%d events arrived, want %d", r.Events, *rows)
	}
}

// write makes table, publication and slot, and commits the backlog in
// transactions of 100 rows.
func write(t *testing.T, ctx context.Context, o Options, rows int) {
	conn, err := pgx.Connect(ctx, o.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
		aggregateid text NOT NULL, type text NOT NULL, payload jsonb NOT NULL)`)
	if err := Prepare(ctx, o); err != nil {
		t.Fatal(err)
	}
	exec("SET synchronous_commit = off")
	exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
		SELECT 'order', 'order-' || (i * 100 + j) %% 10007, 'OrderPlaced',
			jsonb_build_object('n', i * 100 + j, 'note', repeat(md5((i * 100 + j)::text), 8), 'x', 'abcd')
		FROM generate_series(1, 100) j;
		COMMIT;
	END LOOP; END $$`, rows/100))
}
