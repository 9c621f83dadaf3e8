package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
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

// The standby that outboxd streams from dies with its primary, and the next one has not got
// what was delivered last. It is promoted while outboxd streams from it: its transactions
// take the places in the WAL of those that it has not got, and every one is delivered.
func TestNextStandbyIsBehindAndPromoted(t *testing.T) {
	t.Parallel()
	primary := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, primary, nil)
	s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)")
	first, next := s.startStandby(nil), s.startStandby(nil)
	// What the first one delivers is not stored by the time that it dies.
	s.extra = `delivery: {store: file, file: "` + filepath.Join(t.TempDir(), "position.json") + `", confirm_interval: 1h}` +
		"\nerrors: {retry: {min: 50ms, max: 500ms}}"
	s.dsn = fmt.Sprintf("postgres://postgres@%s,%s/%s?sslmode=disable&target_session_attrs=standby", first.Addr(), next.Addr(), s.database)
	made := make(chan error, 1)
	go func() {
		made <- next.Exec(t.Context(), s.database, "SELECT pg_create_logical_replication_slot('"+s.slotName+"', 'pgoutput')")
	}()
	c := s.start()
	waitFor(t, 60*time.Second, func() (string, bool) {
		s.exec("SELECT pg_log_standby_snapshot()")
		return "not streaming, or no slot:\n" + c.tail(20), c.logged(`"message":"streaming"`) && len(made) == 1
	})
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	s.events(1, 10)
	waitValue(t, next, "SELECT (pg_last_wal_replay_lsn() >= '"+s.value("SELECT pg_current_wal_flush_lsn()::text")+"')::text", "true")

	setting(t, next, "primary_conninfo", "host=127.0.0.1 port=1")
	waitValue(t, next, "SELECT count(*)::text FROM pg_stat_wal_receiver", "0")
	s.exec("SELECT pg_logical_emit_message(false, 'others', repeat('x', 4000000))")
	s.events(11, 20)
	waitFor(t, 30*time.Second, func() (string, bool) {
		n := len(s.read())
		return fmt.Sprintf("%d of 20 events", n), n == 20
	})
	phantoms := s.rows()
	for _, p := range []*testbed.Postgres{first, primary} {
		if err := p.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, 60*time.Second, func() (string, bool) {
		return "not streaming again:\n" + c.tail(20), c.count(`"message":"streaming"`) == 2
	})
	s.promote(next)
	s.exec("SELECT setval(pg_get_serial_sequence('outbox', 'id'), 1000)")
	s.events(21, 30)
	// What both standbys have may come again, since nobody could ask the first one's timeline.
	// The order of positions is not held to: those of two histories say nothing of each other.
	came := make(map[string]bool)
	waitFor(t, 30*time.Second, func() (string, bool) {
		clear(came)
		for _, r := range s.read() {
			came[r.id] = true
		}
		return fmt.Sprintf("%d of 30 events", len(came)), len(came) >= 30
	})
	c.kill()
	rows := s.rows()
	maps.Copy(phantoms, rows)
	for id := range phantoms {
		if !came[id] {
			t.Errorf("event %s did not come", id)
		}
	}
	if len(rows) != 20 || len(phantoms) != 30 || len(came) != 30 {
		t.Errorf("%d rows, %d events of either history, %d that came", len(rows), len(phantoms), len(came))
	}
}
