package e2e

import (
	"fmt"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// The outbox table changes under load, in ways that leave the mapped columns
// there: the stream is followed without a restart, and a rewrite of the table
// does not publish its rows again.
func TestTableChangesUnderLoad(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ADD COLUMN note text, ADD COLUMN remark int DEFAULT 1")
	c := s.startStreaming()
	l := s.startLoad(3, 20, 2*time.Millisecond, 37)
	for _, ddl := range []string{
		"ALTER TABLE outbox ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp()", // a rewrite
		"ALTER TABLE outbox DROP COLUMN note",                                                     // stays in the row as a dropped one
		"ALTER TABLE outbox RENAME COLUMN remark TO comment",
		"ALTER TABLE outbox ALTER COLUMN payload TYPE text USING payload::text", // a rewrite
		"ALTER TABLE outbox ADD COLUMN first int",
		"ALTER TABLE outbox ALTER COLUMN id TYPE int",
		"VACUUM FULL outbox",
		// In one transaction with events of the old and of the new form.
		`BEGIN;
		 INSERT INTO outbox (aggregateid, type, payload) VALUES ('ddl', 't0', '{"n": 1}');
		 ALTER TABLE outbox DROP COLUMN comment, ADD COLUMN last text DEFAULT 'x';
		 INSERT INTO outbox (aggregateid, type, payload) VALUES ('ddl', 't0', '{"n": 2}');
		 ALTER TABLE outbox ALTER COLUMN payload TYPE varchar;
		 INSERT INTO outbox (aggregateid, type, payload) VALUES ('ddl', 't0', '{"n": 3}');
		 COMMIT`,
	} {
		before := l.committed.Load()
		s.execIn(s.database, ddl)
		waitFor(t, 30*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+200 })
	}
	l.stop()
	s.waitConfirmed(30 * time.Second)
	if !c.running() {
		t.Fatalf("the connector ended:\n%s", c.tail(20))
	}
	c.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("published again: %+v", r)
	}
}

// A mapped column goes away: the first event without it stops the connector,
// with everything before it confirmed and nothing behind it. It goes on once the
// configuration names what there is.
func TestMappedColumnGoes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ddl    string
		column string
		key    string // of the configuration
		mend   string // configuration
		undo   string // for the verifier, which reads the column
	}{
		"dropped": {"ALTER TABLE outbox DROP COLUMN aggregatetype", `"aggregatetype"`, "outbox.columns.aggregate_type",
			`OUTBOXD_OUTBOX_COLUMNS_AGGREGATE_TYPE=`, "SELECT 1"},
		"renamed": {"ALTER TABLE outbox RENAME COLUMN payload TO body", `"payload"`, "outbox.columns.payload",
			`OUTBOXD_OUTBOX_COLUMNS_PAYLOAD=body`, "ALTER TABLE outbox RENAME COLUMN body TO payload"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			c := s.startStreaming()
			s.events(1, 10)
			s.exec(test.ddl)
			// The change itself is no event, and stops nothing.
			s.waitConfirmed(30 * time.Second)
			before := s.confirmed()
			insert := "INSERT INTO outbox (aggregateid, type, payload)"
			if name == "renamed" {
				insert = "INSERT INTO outbox (aggregateid, type, body)"
			}
			s.exec(insert + ` VALUES ('k1', 't0', '{"n": 11}')`)
			after := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			s.exec(insert + ` SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(12, 30) i`)
			c.failsWith(1, "poison event", `id "11"`, "-00000001", test.column, test.key, "no longer has")
			if got := s.confirmed(); got < before || got >= after {
				t.Errorf("the slot is at %s; before the event it was at %s, and its transaction ends before %s", got, before, after)
			}
			s.checkpoint()
			// Not even a start without a change confirms it: the set-up is
			// refused by the column's name.
			s.start().failsWith(1, test.column, test.key)
			s.checkpoint()
			s.env = []string{test.mend}
			c = s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.exec(test.undo)
			if r := s.verify(); r.records != 30 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// The WAL describes a row with the names that its table had when it was written:
// renaming a column back does not help the rows in between. They are read under
// the name that they have, and the later ones under theirs.
func TestMappedColumnRenamedBack(t *testing.T) {
	t.Parallel()
	const away, back = "ALTER TABLE outbox RENAME COLUMN payload TO body", "ALTER TABLE outbox RENAME COLUMN body TO payload"
	s := newScenario(t, nil, nil)
	c := s.startStreaming()
	s.events(1, 10)
	s.exec(away)
	s.exec(`INSERT INTO outbox (aggregateid, type, body) VALUES ('k1', 't0', '{"n": 11}')`)
	c.failsWith(1, `id "11"`, `"payload"`, "outbox.columns.payload")
	s.checkpoint()
	s.exec(back)
	s.start().failsWith(1, `id "11"`, `"payload"`, "outbox.columns.payload")
	s.checkpoint()
	s.exec(away)
	s.env = []string{"OUTBOXD_OUTBOX_COLUMNS_PAYLOAD=body"}
	c = s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.checkpoint()
	s.exec(back)
	s.events(12, 20)
	s.env = nil
	c = s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.committed != 20 || r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}

// The table changes while the connector is away: the rows that wait in the WAL
// are read with the columns and types of their own time, on every version.
func TestTableChangesWhileStopped(t *testing.T) {
	t.Parallel()
	for _, version := range testedVersions {
		t.Run(version, func(t *testing.T) {
			postgres := ownPostgres(t, testbed.PostgresOptions{Version: version})
			s := newScenario(t, postgres, nil)
			s.startStreaming().stop()
			rows := make(map[string]row)
			write := func(from, to int, ddl string) {
				s.events(from, to)
				for id, r := range s.rows() {
					if _, ok := rows[id]; !ok {
						rows[id] = r
					}
				}
				s.execIn(s.database, ddl)
			}
			write(1, 5, "ALTER TABLE outbox ALTER COLUMN payload TYPE text USING payload::text")
			write(6, 10, "ALTER TABLE outbox DROP COLUMN payload; ALTER TABLE outbox ADD COLUMN payload jsonb DEFAULT '{}'")
			write(11, 15, "ALTER TABLE outbox DROP COLUMN aggregatetype; ALTER TABLE outbox ADD COLUMN aggregatetype text DEFAULT 'later'")
			s.checkpoint()
			c := s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if r := s.verifyRows(rows, nil); r.records != 15 {
				t.Errorf("%+v", r)
			}
			for _, r := range s.read() {
				if r.header("aggregate_type") != "order" {
					t.Errorf("aggregate type %q of another time: %v", r.header("aggregate_type"), r)
				}
			}
		})
	}
}

// The publication goes. What is written without it cannot be decoded, not even
// after it was made again: nobody may go on silently. PostgreSQL 18 does, but for a
// warning.
func TestPublicationGoes(t *testing.T) {
	t.Parallel()
	says := []string{`publication "outboxd" was not there when events were written`, "outboxd init", "pg_replication_slot_advance"}
	for _, test := range []struct {
		version string
		stopped bool
	}{{"15", false}, {"15", true}, {"18", false}, {"18", true}} {
		stopped := test.stopped
		t.Run(fmt.Sprintf("%s stopped %t", test.version, stopped), func(t *testing.T) {
			s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: test.version}), nil)
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			if stopped {
				c.stop()
			}
			s.exec("DROP PUBLICATION outboxd")
			dropped := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			s.events(11, 20)
			after := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			if stopped {
				c = s.start()
			}
			c.failsWith(1, says...)
			s.checkpoint()
			// To make it again is not enough.
			s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')")
			s.start().failsWith(1, says...)
			if got := s.confirmed(); got >= after {
				t.Errorf("the slot is at %s; the events that were not published lie between %s and %s", got, dropped, after)
			}

			// What the line says to do.
			s.checkpoint()
			s.advanceSlot()
			c = s.startStreaming()
			s.events(21, 30)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			rows := s.rows()
			for n := 11; n <= 20; n++ {
				delete(rows, fmt.Sprint(n))
			}
			if r := s.verifyRows(rows, nil); r.records != 20 {
				t.Errorf("%+v", r)
			}
		})
	}
}
