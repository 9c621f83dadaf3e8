package e2e

import (
	"fmt"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// A primary and its standby, of which the primary dies. PostgreSQL 17 and later
// keep a copy of a failover slot on the standby; before that the slot is lost with
// the primary, and outboxd must not go on as if nothing had happened.

// startStandby starts a standby of the scenario's server, and lets the connector
// find either of the two.
func (s *scenario) startStandby(settings map[string]string) *testbed.Postgres {
	s.t.Helper()
	standby, err := s.postgres.StartStandby(s.t.Context(), testbed.PostgresOptions{Settings: settings})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(standby.Close)
	s.dsn = fmt.Sprintf("postgres://postgres@%s,%s/%s?sslmode=disable&target_session_attrs=primary",
		s.postgres.Addr(), standby.Addr(), s.database)
	return standby
}

// setting changes one of a server's settings while it runs.
func setting(t *testing.T, p *testbed.Postgres, name, value string) {
	t.Helper()
	for _, sql := range []string{"ALTER SYSTEM SET " + name + " = '" + value + "'", "SELECT pg_reload_conf()"} {
		if err := p.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// waitValue waits until a query on a server returns a text.
func waitValue(t *testing.T, p *testbed.Postgres, sql, want string) {
	t.Helper()
	waitFor(t, 60*time.Second, func() (string, bool) {
		got, err := p.QueryValue(t.Context(), "postgres", sql)
		return fmt.Sprintf("%s: %q, %v", sql, got, err), err == nil && got == want
	})
}

// fail ends the primary as a machine that loses power does, and promotes the
// standby, which is the scenario's server from then on.
func (s *scenario) failOver(standby *testbed.Postgres) (old *testbed.Postgres) {
	s.t.Helper()
	old = s.postgres
	if err := old.Kill(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.promote(standby)
	return old
}

func (s *scenario) promote(standby *testbed.Postgres) {
	s.t.Helper()
	if err := standby.Promote(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.postgres = standby
}

func (s *scenario) waitSynced(standby *testbed.Postgres) {
	s.t.Helper()
	waitValue(s.t, standby, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"' AND synced AND NOT temporary", "1")
}

func (l *load) more(events int64) {
	l.t.Helper()
	before := l.committed.Load()
	waitFor(l.t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+events })
}

// The primary dies under load and its standby is promoted. With a failover slot,
// and with synchronized_standby_slots, outboxd goes on at the new primary without
// a restart: nothing is lost, nothing repeated, and nothing is in Kafka that the
// new primary does not have. The old primary, back by mistake, is refused.
func TestFailover(t *testing.T) {
	t.Parallel()
	for i, version := range []string{"17", "18"} {
		t.Run(version, func(t *testing.T) {
			primary := ownPostgres(t, testbed.PostgresOptions{Version: version})
			s := newScenario(t, primary, nil)
			s.startStreaming().stop() // a standby that starts finds the slot
			standby := s.startStandby(map[string]string{"sync_replication_slots": "on", "synchronized_standby_slots": "next_standby"})
			setting(t, primary, "synchronized_standby_slots", standby.StandbySlot())
			s.extra = "delivery: {confirm_interval: 100ms}\nerrors: {retry: {min: 50ms, max: 1s}}"
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			s.waitSynced(standby)

			// What the standby does not have does not reach Kafka, and the log
			// says what is waited for.
			if err := standby.StopFast(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.events(11, 20)
			c.waitLog("Logical replication is waiting on the standby", 60*time.Second)
			if n := s.arrived(); n != 10 {
				t.Errorf("%d records in Kafka, of which the standby has 10", n)
			}
			if err := standby.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.waitConfirmed(30 * time.Second)

			l := s.startLoad(2, 20, time.Millisecond, uint64(61+i))
			l.more(1000)
			old := s.failOver(standby)
			l.stop()
			// A setting that the new primary brings along holds everything up, and
			// the log says so.
			s.events(21, 30)
			c.waitLog("replication slot \\\"next_standby\\\" specified in parameter", 60*time.Second)
			setting(t, standby, "synchronized_standby_slots", "")
			s.waitConfirmed(30 * time.Second)
			l = s.startLoad(2, 20, time.Millisecond, uint64(71+i))
			l.more(500)
			l.stop()
			s.waitConfirmed(60 * time.Second)
			if !c.running() {
				t.Fatalf("the connector ended:\n%s", c.tail(20))
			}
			if r := s.verify(); r.repeated != 0 {
				t.Errorf("%d of %d records were published again after the failover", r.repeated, r.records)
			}

			// The old primary comes back and takes itself for the primary.
			if err := old.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
			c.failsWith(3, "position refused", "timeline 2", "timeline 1, which is older", "take it out of postgres.dsn")
			s.checkpoint()
			s.dsn = s.postgres.DSN(s.database)
			c = s.startStreaming()
			s.events(31, 40)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.verify()
		})
	}
}

// Exactly once holds across a failover to a standby that has everything, also when
// outboxd is killed meanwhile.
func TestExactlyOnceFailover(t *testing.T) {
	t.Parallel()
	primary := ownPostgres(t, testbed.PostgresOptions{Version: "18"})
	s := exactlyOnce(newScenario(t, primary, nil))
	s.startStreaming().stop()
	standby := s.startStandby(map[string]string{"sync_replication_slots": "on"})
	setting(t, primary, "synchronized_standby_slots", standby.StandbySlot())
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	s.waitSynced(standby)
	l := s.startLoad(2, 20, time.Millisecond, 81)
	l.more(1000)
	s.failOver(standby)
	c.kill()
	l.stop()
	c = s.startStreaming()
	l = s.startLoad(2, 20, time.Millisecond, 82)
	l.more(500)
	l.stop()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	t.Logf("%+v", s.verifyOnce())
}

// The promoted standby lacks what was published last. That is refused, also after
// a restart when the position is stored; --accept-gap goes on from where the
// histories part, and loses and repeats nothing of the new primary's.
func TestFailoverToStandbyThatIsBehind(t *testing.T) {
	t.Parallel()
	primary := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, primary, nil)
	s.storeInFile()
	s.startStreaming().stop()
	standby := s.startStandby(map[string]string{"sync_replication_slots": "on"})
	s.extra += "\nerrors: {retry: {min: 50ms, max: 1s}}"
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	s.waitSynced(standby)
	if err := standby.StopFast(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.events(11, 20)
	s.waitConfirmed(30 * time.Second)
	phantoms := s.rows()
	if err := primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.promote(standby)
	says := []string{"position refused", "history that this server does not have", "timeline 2", "Kafka has events that this database lost", "--accept-gap"}
	c.failsWith(3, says...)
	s.leaveLostHistory()
	s.events(31, 40)
	s.checkpoint()
	s.start().failsWith(3, says...)
	c = s.startStreaming("--accept-gap")
	c.waitLog("nothing of this server is skipped (--accept-gap)", 30*time.Second)
	s.events(41, 50)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verifyRows(s.rows(), phantoms); r.committed != 30 || r.records != 40 {
		t.Errorf("%+v; 10 of the records are of the lost history", r)
	}
}

// The promoted standby has no slot: before PostgreSQL 17, or because it was told
// not to. Neither the process that stays up nor, with a stored position, one that
// is started again makes a new slot as if it were the first. With --accept-gap it
// does, and the rows between, inserted again, arrive.
func TestFailoverLosesSlot(t *testing.T) {
	t.Parallel()
	versions := []string{"15"}
	if *soak {
		versions = []string{"14", "15", "16", "17"}
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			primary := ownPostgres(t, testbed.PostgresOptions{Version: version})
			s := newScenario(t, primary, nil)
			settings := map[string]string{}
			if version == "17" {
				settings["sync_replication_slots"] = "on"
			}
			standby := s.startStandby(settings)
			s.storeInFile()
			s.extra += "\nerrors: {retry: {min: 50ms, max: 1s}}"
			s.env = []string{"OUTBOXD_POSTGRES_FAILOVER=off"}
			c := s.startStreaming()
			second := s.start()
			second.waitLog("slot is in use", 30*time.Second)
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			waitValue(t, primary, "SELECT count(*) FROM pg_stat_replication WHERE application_name = '"+standby.StandbySlot()+"' AND replay_lsn >= pg_current_wal_lsn()", "1")
			s.failOver(standby)
			says := []string{"position refused", "the replication slot is gone", "a standby was promoted that did not have it", "--accept-gap"}
			c.failsWith(3, says...)
			second.failsWith(3, says...)
			s.start().failsWith(3, says...)
			s.events(11, 20)
			c = s.startStreaming("--accept-gap")
			c.waitLog("are skipped (--accept-gap)", 30*time.Second)
			// As the sentence says: what lies between is inserted again.
			s.exec("WITH again AS (DELETE FROM outbox WHERE (payload->>'n')::int BETWEEN 11 AND 20 RETURNING *) INSERT INTO outbox (aggregateid, type, payload) SELECT aggregateid, type, payload FROM again ORDER BY id")
			s.events(21, 30)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if r := s.verify(); r.committed != 30 || r.repeated != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// Without a stored position a slot that is missing at the start looks like one
// that was never made. The publication, which a standby does have, gives a hint.
func TestMissingSlotIsSuspicious(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	c := s.startStreaming()
	if c.logged("if it was used before") {
		t.Errorf("a first start warns of a lost slot:\n%s", c.tail(20))
	}
	c.stop()
	s.dropSlot()
	c = s.startStreaming()
	c.waitLog("if it was used before", 30*time.Second)
	c.stop()
}

// A slot from before stays outside of failover, unless the configuration demands
// it.
func TestOrdinarySlotBecomesFailoverSlot(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')")
	s.makeSlot()
	failover := func() string {
		return s.value("SELECT failover::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
	}
	c := s.startStreaming()
	c.waitLog("not a failover slot", 30*time.Second)
	c.stop()
	if got := failover(); got != "false" {
		t.Errorf("failover: auto changed the slot: %s", got)
	}
	s.env = []string{"OUTBOXD_POSTGRES_FAILOVER=on"}
	c = s.startStreaming()
	if got := failover(); got != "true" {
		t.Errorf("failover: on left the slot as it was: %s", got)
	}
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.verify()
}

// From PostgreSQL 16 on a standby can be read, if the DSN says so: the slot is
// made there, and streaming goes on when that standby is promoted. A conflict
// invalidates the slot, which is refused.
func TestStreamFromStandby(t *testing.T) {
	t.Parallel()
	versions := []string{"18"}
	if *soak {
		versions = []string{"16", "17", "18"}
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			primary := ownPostgres(t, testbed.PostgresOptions{Version: version})
			s := newScenario(t, primary, nil)
			standby := s.startStandby(nil)
			s.storeInFile()
			s.extra += "\nerrors: {retry: {min: 50ms, max: 500ms}}"
			s.dsn = standby.DSN(s.database)
			c := s.start()
			c.waitLog("add target_session_attrs=primary to postgres.dsn, or target_session_attrs=standby", 30*time.Second)
			c.stop()
			s.dsn += "&target_session_attrs=standby"
			s.start().failsWith(1, "create it on the primary", "this is a standby")
			s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)")
			waitFor(t, 60*time.Second, func() (string, bool) {
				n, err := standby.QueryValue(t.Context(), s.database, "SELECT count(*)::text FROM pg_publication")
				return fmt.Sprintf("%s publications on the standby, %v", n, err), n == "1"
			})

			snapshot := func() { s.exec("SELECT pg_log_standby_snapshot()") }
			confirmed := func() {
				t.Helper()
				target := s.value("SELECT pg_current_wal_insert_lsn()::text")
				waitValue(t, standby, "SELECT (confirmed_flush_lsn >= '"+target+"')::text FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"'", "true")
			}
			// Again and again: only a snapshot after the standby has begun to
			// make the slot counts.
			streaming := func(args ...string) *connector {
				t.Helper()
				c := s.start(args...)
				waitFor(t, 60*time.Second, func() (string, bool) {
					snapshot()
					return "not streaming:\n" + c.tail(20), c.logged(`"message":"streaming"`)
				})
				return c
			}
			c = streaming()
			if !c.logged("pg_log_standby_snapshot()") {
				t.Errorf("the log does not say what making the slot waits for:\n%s", c.tail(20))
			}
			s.events(1, 10)
			confirmed()
			c.kill()
			s.events(11, 20)
			c = streaming()
			confirmed()

			// A primary that writes too little into its WAL for a standby to
			// decode is a conflict.
			setting(t, primary, "wal_level", "replica")
			restart(t, primary)
			c.failsWith(3, "position refused", "invalidated", "wal_level = logical on the primary", "pg_drop_replication_slot", "--accept-gap")
			setting(t, primary, "wal_level", "logical")
			restart(t, primary)
			waitValue(t, standby, "SELECT pg_is_in_recovery()::text", "true")
			s.start("--accept-gap").failsWith(3, "invalidated")
			if err := standby.Exec(t.Context(), s.database, "SELECT pg_drop_replication_slot('"+s.slotName+"')"); err != nil {
				t.Fatal(err)
			}
			c = streaming("--accept-gap")
			s.events(21, 30)
			confirmed()

			s.promote(standby)
			s.events(31, 40)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if n := c.count(`"message":"streaming"`); n != 1 {
				t.Errorf("the promotion made it connect again, %d times:\n%s", n-1, c.tail(20))
			}
			s.verify()
		})
	}
}

func restart(t *testing.T, p *testbed.Postgres) {
	t.Helper()
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
