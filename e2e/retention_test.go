package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A row stays until Kafka has acknowledged its transaction: all of them while Kafka
// answers nothing, and those of a transaction that is open.
func TestRetentionWaitsForKafka(t *testing.T) {
	t.Parallel() // it is mostly waiting
	s := newScenario(t, nil, nil)
	stalled, brokers := stallingKafka(t, s.topic)
	s.brokersInExtra = true
	s.route = "{topic: " + s.topic + "}"
	s.extra = fmt.Sprintf("kafka: {brokers: [%q]}\nretention: {mode: delete, keep: 0s, interval: 1s}\ndelivery: {confirm_interval: 50ms}", brokers)
	s.env = []string{"OUTBOXD_HTTP_LISTEN=127.0.0.1:0"}
	c := s.startStreaming()
	rows := func(want string) {
		t.Helper()
		waitFor(t, 60*time.Second, func() (string, bool) {
			n := s.value("SELECT count(*)::text FROM outbox")
			return n + " rows, want " + want, n == want
		})
	}
	s.events(1, 100)
	rows("0")
	if n := c.metric("outboxd_retention_removed_total"); n != 100 {
		t.Errorf("%v rows are counted", n)
	}

	stalled.Lock()
	s.events(101, 150)
	time.Sleep(4 * time.Second) // several runs
	if n := s.value("SELECT count(*)::text FROM outbox"); n != "50" {
		t.Errorf("%s rows of 50 that Kafka has not acknowledged", n)
	}
	stalled.Unlock()
	rows("0")

	open := s.connect()
	for _, sql := range []string{"BEGIN", "INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{}')", "SAVEPOINT a", "INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{}')"} {
		if _, err := open.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	s.events(153, 200)
	rows("0")
	stalled.Lock()
	if _, err := open.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if n := s.value("SELECT count(*)::text FROM outbox"); n != "2" {
		t.Errorf("%s rows of 2 that Kafka has not acknowledged", n)
	}
	stalled.Unlock()
	rows("0")
	waitFor(t, 30*time.Second, func() (string, bool) {
		n := c.metric("outboxd_outbox_rows")
		return fmt.Sprintf("outboxd_outbox_rows is %v", n), n == 0
	})
	c.stop()
}

// kill -9 at any moment: each row is in the outbox or in the archive, never in both, never
// in none; and what is in the archive is in Kafka.
func TestRetentionKill9(t *testing.T) {
	const seed = 20261128
	s := newScenario(t, nil, nil)
	s.exec("CREATE TABLE archive (archived timestamptz DEFAULT now(), LIKE outbox)")
	s.extra = "retention: {mode: archive, archive_table: archive, keep: 0s, interval: 1s, batch: 50}\ndelivery: {confirm_interval: 50ms}"
	random := rand.New(rand.NewPCG(seed, 0))
	s.startStreaming().kill()
	l := s.startLoad(3, 8, 20*time.Millisecond, seed)
	for round := range 6 {
		before := s.value("SELECT count(*)::text FROM archive")
		c := s.start()
		waitFor(t, 60*time.Second, func() (string, bool) {
			if !c.running() {
				t.Fatalf("round %d: the connector ended by itself:\n%s", round, c.tail(20))
			}
			return "nothing is moved", s.value("SELECT count(*)::text FROM archive") != before
		})
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		c.kill()
		s.checkpoint()
		if s.value("SELECT count(*)::text FROM outbox JOIN archive USING (id)") != "0" {
			t.Fatalf("round %d: a row is in both tables", round)
		}
	}
	l.stop()
	c := s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	waitFor(t, 60*time.Second, func() (string, bool) {
		n := s.value("SELECT count(*)::text FROM outbox")
		return n + " rows", n == "0"
	})
	c.stop()
	s.execIn(s.database, "ALTER TABLE outbox RENAME TO emptied; ALTER TABLE archive RENAME TO outbox")
	r := s.verify()
	t.Logf("%+v", r)
	if int64(r.committed) != l.committed.Load() {
		t.Errorf("%d rows are left of %d", r.committed, l.committed.Load())
	}
	if r.committed < 300 {
		t.Errorf("the scenario was too tame to mean anything: %+v", r)
	}
}

// Old partitions go while the connector streams, which looks at its table all the time and
// finds nothing amiss; a detach that kill -9 interrupts is finished by the next start.
func TestRetentionDropsPartitions(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.execIn(s.database, `DROP TABLE outbox;
		CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, created timestamptz NOT NULL DEFAULT now(), aggregatetype text DEFAULT 'order', aggregateid text, type text, payload jsonb) PARTITION BY RANGE (created);
		CREATE TABLE jan PARTITION OF outbox FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
		CREATE TABLE feb PARTITION OF outbox FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
		CREATE TABLE recent PARTITION OF outbox FOR VALUES FROM ('2024-03-01') TO ('2100-01-01')`)
	s.extra = "retention: {mode: drop_partitions, keep: 24h, interval: 1s}\ndelivery: {confirm_interval: 50ms, guarantee: exactly_once}"
	written := int64(0)
	insert := func(created string) {
		t.Helper()
		s.exec("INSERT INTO outbox (created, aggregateid, type, payload) SELECT " + created + ", 'k' || i, 't0', '{}' FROM generate_series(1, 10) i")
		written += 10
	}
	tables := func() string {
		return s.value("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace")
	}
	s.startStreaming().kill()
	insert("'2024-01-05'")
	insert("'2024-02-05'")
	insert("now()")
	// A transaction that has used the table keeps the detach from its end.
	open := s.connect()
	if _, err := open.Exec(t.Context(), "BEGIN; SELECT count(*) FROM outbox"); err != nil {
		t.Fatal(err)
	}
	c := s.startStreaming()
	waitFor(t, 60*time.Second, func() (string, bool) {
		return "no detach is pending: " + tables(), s.value("SELECT count(*)::text FROM pg_inherits WHERE inhdetachpending") == "1"
	})
	insert("now()")
	c.kill()
	if _, err := open.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	insert("now()")
	c = s.startStreaming()
	waitFor(t, 60*time.Second, func() (string, bool) { got := tables(); return got, got == "outbox recent" })
	insert("now()")
	s.waitConfirmed(30 * time.Second)
	c.stop()
	records := s.readWith(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if n := int64(len(records)); n != written {
		t.Errorf("%d events of %d have arrived", n, written)
	}
}

// What can never work ends a start before a slot is made; a right that is missing does not.
func TestRetentionSetup(t *testing.T) {
	s := newScenario(t, nil, nil)
	slots := "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"
	s.extra = "retention: {mode: delete, keep: 1h}"
	s.start().failsWith(1, "retention.keep", "track_commit_timestamp", "outbox.columns.timestamp")
	s.extra = "retention: {mode: archive, keep: 0s, archive_table: archive}"
	s.exec("CREATE TABLE archive (id bigint, aggregateid text)")
	s.start().failsWith(1, "retention.archive_table", `has no column "aggregatetype"`, "ALTER TABLE")
	if n := s.value(slots); n != "0" {
		t.Errorf("%s slots were made by starts that failed", n)
	}
	s.extra = "retention: {mode: archive, keep: 0s}"
	c := s.start()
	c.failsWith(2, "1 problem")
	if !c.logged("retention.archive_table: must not be empty") {
		t.Error(c.tail(5))
	}

	// A role that may stream and nothing else.
	role := "r_" + s.database
	s.exec("DROP TABLE archive; CREATE TABLE archive (LIKE outbox)")
	s.execIn(s.database, "CREATE ROLE "+role+" LOGIN REPLICATION; CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')")
	s.dsn = strings.Replace(s.dsn, "postgres@", role+"@", 1)
	s.extra = "retention: {mode: archive, keep: 0s, interval: 1s, archive_table: archive}\ndelivery: {confirm_interval: 50ms}"
	c = s.startStreaming()
	c.waitLog("may not read and delete rows", 30*time.Second)
	s.events(1, 5)
	s.waitConfirmed(30 * time.Second)
	var sql []string
	for _, f := range s.check().unwell() {
		if f.Check == "retention" {
			sql = append(sql, f.SQL...)
		}
	}
	if len(sql) < 4 {
		t.Errorf("check says %q", sql)
	}
	s.execIn(s.database, strings.Join(sql, ";"))
	waitFor(t, 30*time.Second, func() (string, bool) {
		n := s.value("SELECT count(*)::text FROM archive")
		return n + " rows in the archive", n == "5"
	})
	c.waitLog("retention works again", 30*time.Second)
	if n := c.count("removes nothing"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	c.stop()
}

// A row that was written while the table was not published is in no stream, although the
// position that Kafka has acknowledged passes it.
func TestRetentionOfUnpublishedRows(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.extra = "retention: {mode: delete, keep: 0s, interval: 1s}\ndelivery: {confirm_interval: 10ms, store: kafka, topic: " + s.topic + ".positions}"
	c := s.startStreaming()
	s.events(1, 5)
	waitFor(t, 60*time.Second, func() (string, bool) { return "rows are there", s.value("SELECT count(*)::text FROM outbox") == "0" })
	// So that its look comes late, and retention runs meanwhile.
	c.signal(syscall.SIGSTOP)
	s.execIn(s.database, "ALTER PUBLICATION outboxd DROP TABLE outbox")
	s.events(6, 7)
	c.signal(syscall.SIGCONT)
	c.failsWith(1, "does not contain")
	if n := s.value("SELECT count(*)::text FROM outbox"); n != "2" {
		t.Errorf("%s rows of 2 that were never published", n)
	}
}
