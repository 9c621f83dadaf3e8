package e2e

import (
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// A standby that crashed has to replay what it had before it can go on: that is
// waited for. After it is promoted the stored positions are of its new timeline, so
// that a start finds them to be of its history; and a DSN that still asks for a
// standby is what the log names.
func TestStandbyCrashesAndIsPromoted(t *testing.T) {
	t.Parallel()
	primary := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, primary, nil)
	s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)")
	standby := s.startStandby(nil)
	s.storeInFile()
	s.extra += "\nerrors: {retry: {min: 50ms, max: 500ms}}"
	s.dsn = standby.DSN(s.database) + "&target_session_attrs=standby"
	c := s.start()
	waitFor(t, 60*time.Second, func() (string, bool) {
		s.exec("SELECT pg_log_standby_snapshot()")
		return "not streaming:\n" + c.tail(20), c.logged(`"message":"streaming"`)
	})
	confirmed := func() {
		t.Helper()
		target := s.value("SELECT pg_current_wal_insert_lsn()::text")
		waitValue(t, standby, "SELECT (confirmed_flush_lsn >= '"+target+"')::text FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"'", "true")
	}
	s.events(1, 10)
	confirmed()
	c.kill()

	// Replaying what it had, it is behind the stored position for as long as it is
	// told to.
	setting(t, standby, "recovery_min_apply_delay", "1h")
	if err := standby.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = s.start()
	c.waitLog("the standby has not replayed the WAL up to the stored position yet", 30*time.Second)
	setting(t, standby, "recovery_min_apply_delay", "0")
	c.waitLog(`"message":"streaming"`, 30*time.Second)
	s.events(11, 20)
	confirmed()

	s.promote(standby)
	s.events(21, 30)
	s.waitConfirmed(30 * time.Second)
	c.kill()
	c = s.start()
	c.waitLog("change target_session_attrs in postgres.dsn to primary", 30*time.Second)
	c.stop()
	s.checkpoint()
	s.dsn = standby.DSN(s.database)
	c = s.startStreaming()
	s.events(31, 40)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.committed != 40 {
		t.Errorf("%+v", r)
	}
}
