package e2e

import (
	"fmt"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// An outbox without events does not hold the WAL of a busy server: neither that
// of other tables of its database nor that of other databases. PostgreSQL 14
// sends empty transactions for them, 15 and later only keepalives.
func TestIdleOutboxHoldsNoWAL(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14", "17"} {
		t.Run(version, func(t *testing.T) {
			postgres := ownPostgres(t, testbed.PostgresOptions{Version: version, Settings: map[string]string{"max_wal_size": "4GB"}})
			s := newScenario(t, postgres, nil)
			s.execIn("postgres", "CREATE DATABASE neighbour")
			c := s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			for _, database := range []string{s.database, "neighbour"} {
				s.execIn(database, "CREATE TABLE busy (note text)")
				before := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
				for s.lsn("SELECT pg_current_wal_insert_lsn()::text")-before < 300<<20 {
					s.execIn(database, "INSERT INTO busy SELECT repeat(md5(i::text), 30) FROM generate_series(1, 20000) i")
				}
				waitFor(t, 30*time.Second, func() (string, bool) {
					retained := s.lsn("SELECT pg_current_wal_insert_lsn()::text") - s.confirmed()
					return fmt.Sprintf("%d MiB of WAL in database %s are behind the slot", retained>>20, database), retained < 1<<20
				})
			}
			// One event, and busy again: the event's transaction must not be
			// where the position stays.
			s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"n": 1}')`)
			s.execIn("neighbour", "INSERT INTO busy SELECT repeat(md5(i::text), 30) FROM generate_series(1, 20000) i")
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if r := s.verify(); r.records != 1 {
				t.Errorf("%+v", r)
			}
		})
	}
}
