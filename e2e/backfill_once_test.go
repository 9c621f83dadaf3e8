package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/testbed"
)

// newBackfillOnce is a scenario with exactly_once and rows from before the slot.
func newBackfillOnce(t *testing.T, postgres *testbed.Postgres, kafka *testbed.Kafka, rows int) *scenario {
	t.Helper()
	s := exactlyOnce(newScenario(t, postgres, kafka))
	s.extra += "\noutbox: {backfill: existing}"
	s.rowsBefore(1, rows)
	return s
}

// slots are the slots of the scenario's database.
func (s *scenario) slots() string {
	s.t.Helper()
	return s.value("SELECT coalesce(string_agg(slot_name, ',' ORDER BY slot_name), '') FROM pg_replication_slots WHERE database = current_database()")
}

// committedRows is how many records a reader of committed ones sees now.
func (s *scenario) committedRows() int { return len(s.readCommitted()) }

// Rows from before the slot and what is committed meanwhile are seen once, although the
// process is killed again and again: while the snapshot is made, while rows are sent, just
// before and just after the end, and while it streams.
func TestBackfillExactlyOnce(t *testing.T) {
	t.Parallel()
	s := newBackfillOnce(t, nil, nil, 60_000)
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	s.through(proxy)
	l := s.startLoad(2, 3, 5*time.Millisecond, 43)

	// Killed in the middle, with rows in Kafka.
	c := s.stalled(proxy)
	c.kill()
	proxy.Cut()
	proxy.Stall(testbed.Both, false)
	waitFor(t, 30*time.Second, func() (string, bool) { return "a slot outlived its process", s.slots() == "" })

	// Cut off in the middle: the process begins again by itself, and aborts what it sent.
	c = s.stalled(proxy)
	proxy.Cut()
	proxy.Stall(testbed.Both, false)
	waitFor(t, 60*time.Second, func() (string, bool) { return "no second backfill", c.count(backfillBegins) >= 2 })
	c.kill()
	waitFor(t, 30*time.Second, func() (string, bool) { return "a slot outlived its process", s.slots() == "" || c.logged(backfillDone) })

	// Stopped in the middle. Nothing comes again because of that.
	c = s.stalled(proxy)
	c.signal(syscall.SIGTERM)
	proxy.Stall(testbed.Both, false)
	if code := c.exit(40 * time.Second); code != 0 || c.logged(backfillDone) || !c.logged("stopped during the backfill") {
		t.Errorf("exit code %d:\n%s", code, c.tail(20))
	}
	// A stop leaves nothing open that readers would have to wait for.
	if n := s.committedRows(); n != 0 {
		t.Errorf("%d rows of a backfill that was stopped are committed", n)
	}

	// Killed at any moment, about as often before the end as after.
	for i := range 6 {
		c = s.start()
		c.waitLog(`"message"`, 30*time.Second)
		time.Sleep(time.Duration(i) * 300 * time.Millisecond)
		c.kill()
	}
	c = s.startStreaming()
	l.stop()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.checkpointOnce()
	c = s.startStreaming()
	c.stop()
	if c.logged(backfillBegins) {
		t.Errorf("a backfill that was done was done again:\n%s", c.tail(20))
	}
	t.Logf("%+v", s.verifyOnce())
}

// The moment that counts: the slot is made, and the rows are not committed. The slot then
// stands for nothing, and the next start replaces it.
func TestBackfillKilledBeforeItsCommit(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Version: "17", Settings: map[string]string{"max_replication_slots": "2"}})
	kafka := ownKafka(t, testbed.KafkaOptions{})
	const rows = 100_000
	s := newBackfillOnce(t, postgres, kafka, rows)
	proxy, err := testbed.NewProxy(postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	s.through(proxy)

	// While another slot takes its place, everything is sent and nothing committed.
	c := s.stalled(proxy)
	s.execIn("postgres", "SELECT pg_create_physical_replication_slot('other')")
	proxy.Stall(testbed.Both, false)
	c.waitLog("waits for a free replication slot", 60*time.Second)
	if n := s.arrived(); n < rows {
		t.Errorf("%d rows were sent", n)
	}
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	s.execIn("postgres", "SELECT pg_drop_replication_slot('other')")
	waitFor(t, 60*time.Second, func() (string, bool) {
		return "no slot", slices.Contains(strings.Split(s.slots(), ","), s.slotName)
	})
	c.kill()
	if err := kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	if c.logged(backfillDone) {
		t.Fatal("it was committed before it was killed")
	}
	s.rowsBefore(rows+1, rows+100) // behind the slot that stands for nothing
	waitFor(t, 30*time.Second, func() (string, bool) { return "two slots", s.slots() == s.slotName })

	// Without a backfill in the configuration that is refused, and nothing is skipped.
	once := s.extra
	s.extra = strings.Replace(once, "backfill: existing", "backfill: none", 1)
	s.start().failsWith(3, "a backfill was begun and is not done", "outbox.backfill: existing", "--accept-gap")
	s.extra = once
	c = s.start()
	c.waitLog("replication slot dropped; another replaces it", 60*time.Second)
	c.waitLog(backfillDone, 60*time.Second)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verifyOnce(); r.records != rows+100 {
		t.Errorf("%+v", r)
	}
}

// Two processes: one makes the backfill, the other waits for its turn and finds it done.
func TestBackfillExactlyOnceTwice(t *testing.T) {
	t.Parallel()
	s := newBackfillOnce(t, nil, nil, 30_000)
	a, b := s.start(), s.start()
	done := func() int { return a.count(backfillDone) + b.count(backfillDone) }
	waitFor(t, 60*time.Second, func() (string, bool) { return "no backfill is done:\n" + a.tail(5) + b.tail(5), done() > 0 })
	s.rowsBefore(40_001, 40_100)
	s.waitConfirmed(60 * time.Second)
	a.kill()
	s.rowsBefore(50_001, 50_100)
	s.waitConfirmed(60 * time.Second)
	b.stop()
	if n := done(); n != 1 {
		t.Errorf("%d backfills were done", n)
	}
	if r := s.verifyOnce(); r.records != 30_200 {
		t.Errorf("%+v", r)
	}
}

// A backfill that Kafka does not let take so long ends the run, and says which keys.
func TestBackfillExactlyOnceTooLong(t *testing.T) {
	t.Parallel()
	t.Run("longer than the brokers allow", func(t *testing.T) {
		s := newBackfillOnce(t, nil, nil, 10)
		s.env = append(s.env, "OUTBOXD_OUTBOX_BACKFILL_TIMEOUT=20m")
		c := s.start()
		c.waitLog("raise their transaction.max.timeout.ms, or lower outbox.backfill_timeout", 30*time.Second)
		c.kill()
	})
	t.Run("longer than its time-out", func(t *testing.T) {
		if !*soak {
			t.Skip("waits for a time-out: -soak; TestBackfillOnceExpired has the rule")
		}
		kafka := ownKafka(t, testbed.KafkaOptions{Settings: map[string]string{"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"}})
		s := newBackfillOnce(t, nil, kafka, 100_000)
		s.env = append(s.env, "OUTBOXD_OUTBOX_BACKFILL_TIMEOUT=10s")
		proxy, err := testbed.NewProxy(s.postgres.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		s.through(proxy)
		c := s.stalled(proxy)
		time.Sleep(13 * time.Second)
		proxy.Stall(testbed.Both, false)
		c.failsWith(1, "outbox.backfill_timeout", "transaction.max.timeout.ms", "nothing of it is published")
		if n := len(s.readWith(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())); n != 0 {
			t.Errorf("%d rows are committed", n)
		}
	})
}
