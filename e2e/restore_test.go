package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// replaceData ends the server, puts a copy of its data directory from an earlier
// time in its place, and starts it, as one does with a snapshot of a disk.
func replaceData(t *testing.T, p *testbed.Postgres, snapshot string) {
	t.Helper()
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(snapshot, p.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// snapshot copies the data directory of a server that is stopped for it.
func snapshot(t *testing.T, p *testbed.Postgres) string {
	t.Helper()
	if err := p.StopFast(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(filepath.Dir(p.DataDir()), "snapshot")
	err := filepath.WalkDir(p.DataDir(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.DataDir(), path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(copied, rel)
		switch {
		case d.IsDir():
			err = os.Mkdir(target, 0o700)
		case d.Type().IsRegular():
			var data []byte
			if data, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(target, data, 0o600)
			}
		default:
			return nil
		}
		if err != nil {
			return err
		}
		return chownLike(target, info)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return copied
}

// chownLike gives a file the owner of another: the server may run as a user of its
// own.
func chownLike(name string, info fs.FileInfo) error {
	stat := info.Sys().(*syscall.Stat_t)
	return os.Chown(name, int(stat.Uid), int(stat.Gid))
}

// leaveLostHistory makes sure that positions and ids of the new history are none
// of the lost one: the verifier compares them.
func (s *scenario) leaveLostHistory() {
	s.t.Helper()
	s.exec("SELECT pg_switch_wal()")
	s.exec("SELECT setval(pg_get_serial_sequence('outbox', 'id'), 1000)")
}

// The server is put back to a snapshot of its disk: the same system, timeline and
// slot, but what was published last is not in its history. A process that stays up
// sees that, as does one with a stored position that is started again.
func TestServerPutBackToSnapshot(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	s.storeInFile()
	s.extra += "\nerrors: {retry: {min: 50ms, max: 500ms}}"
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	copied := snapshot(t, postgres)
	s.events(11, 20)
	s.waitConfirmed(30 * time.Second)
	lost := s.rows()
	replaceData(t, postgres, copied)
	says := []string{"position refused", "the server's WAL ends before the stored position", "Kafka has events that this database lost", "--accept-gap"}
	c.failsWith(3, says...)
	s.start().failsWith(3, says...)
	c = s.startStreaming("--accept-gap")
	c.waitLog("going on from the slot's own position", 30*time.Second)
	s.leaveLostHistory()
	s.events(21, 30)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	c = s.startStreaming()
	s.events(31, 40)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verifyRows(s.rows(), lost); r.committed != 30 || r.records-r.repeated != 40 {
		t.Errorf("%+v; 10 of the records are of the lost history", r)
	}
}

// The server is replaced by one that was restored from a base backup, which has no
// slots and, as recovery ends, a timeline of its own. That it lacks what was
// published last is said first, and not that the slot is missing.
func TestServerRestoredFromBackup(t *testing.T) {
	t.Parallel()
	s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: "16"}), nil)
	s.storeInFile()
	s.extra += "\nerrors: {retry: {min: 50ms, max: 500ms}}"
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	restored := s.startStandby(nil)
	waitValue(t, restored, "SELECT (pg_last_wal_replay_lsn() >= '"+s.confirmed().String()+"')::text", "true")
	if err := restored.StopFast(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.events(11, 20)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	lost := s.rows()
	if err := s.postgres.StopFast(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := restored.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.promote(restored)
	s.start().failsWith(3, "position refused", "history that this server does not have", "timeline 1", "timeline 2", "--accept-gap")
	s.leaveLostHistory()
	c = s.startStreaming("--accept-gap")
	c.waitLog("are skipped (--accept-gap)", 30*time.Second)
	s.events(31, 40)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verifyRows(s.rows(), lost); r.committed != 20 || r.records != 30 {
		t.Errorf("%+v; 10 of the records are of the lost history", r)
	}
}

// PostgreSQL 18 invalidates a slot that nobody has used for too long.
func TestSlotInvalidatedByIdleTimeout(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Version: "18", Settings: map[string]string{"idle_replication_slot_timeout": "1s"}})
	s := newScenario(t, postgres, nil)
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.events(11, 20)
	waitFor(t, 60*time.Second, func() (string, bool) {
		s.exec("CHECKPOINT")
		reason := s.value("SELECT coalesce(invalidation_reason, '') FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
		return "invalidation reason: " + reason, reason == "idle_timeout"
	})
	s.start().failsWith(3, "position refused", "invalidated", "idle_timeout", "raise idle_replication_slot_timeout", "pg_drop_replication_slot")
	s.dropSlot()
	c = s.startStreaming("--accept-gap")
	// As the sentence says: what lies between is inserted again.
	s.exec("WITH again AS (DELETE FROM outbox WHERE (payload->>'n')::int BETWEEN 11 AND 20 RETURNING *) INSERT INTO outbox (aggregateid, type, payload) SELECT aggregateid, type, payload FROM again ORDER BY id")
	s.events(21, 30)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.committed != 30 || r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}
