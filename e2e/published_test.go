package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/testbed"
)

// stores are the ways to keep a position, as YAML with a %s for the topic's prefix.
var stores = map[string]string{
	"slot":         `delivery: {confirm_interval: 100ms}`,
	"file":         `delivery: {store: file, file: "{file}", confirm_interval: 100ms}`,
	"kafka":        `delivery: {store: kafka, topic: {topic}-positions, confirm_interval: 100ms}`,
	"exactly_once": `delivery: {guarantee: exactly_once, topic: {topic}-positions, confirm_interval: 100ms}`,
}

// keepIn configures a store.
func (s *scenario) keepIn(store string) {
	s.extra = strings.NewReplacer("{file}", s.t.TempDir()+"/position.json", "{topic}", s.topic).Replace(stores[store])
}

// arrivedIDs are the events in Kafka, each once.
func (s *scenario) arrivedIDs() map[string]bool {
	ids := make(map[string]bool)
	for _, r := range s.readCommitted() {
		ids[r.header("id")] = true
	}
	return ids
}

var sinceLSN = regexp.MustCompile(`committed after ([0-9A-F]+/[0-9A-F]+) may be missing`)

// since demands a last line that says since which LSN rows may be missing.
func (c *connector) since() pglogrepl.LSN {
	c.t.Helper()
	m := sinceLSN.FindStringSubmatch(c.lastLine())
	if m == nil {
		c.t.Fatalf("the last line does not say since which LSN rows may be missing: %s", c.lastLine())
	}
	lsn, err := pglogrepl.ParseLSN(m[1])
	if err != nil {
		c.t.Fatal(err)
	}
	return lsn
}

const (
	outboxColumns = `id bigint GENERATED ALWAYS AS IDENTITY, aggregatetype text NOT NULL DEFAULT 'order', aggregateid text, type text, payload jsonb`
	addTable      = "ALTER PUBLICATION outboxd ADD TABLE outbox"
)

// What makes rows vanish from the stream without a word ends the process, while it
// streams and at the start after it: exit code 1, since when rows may be missing, and
// how they come. The slot is not confirmed beyond. What the line says helps, and
// nothing less does where the position is stored.
func TestOutboxGoes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ddl    []string // each a transaction of its own
		says   string
		repair string   // what the line says to do
		runs   []string // a store, and whether outboxd is away meanwhile
		// unseen is done between two looks, so that the removal itself is not seen.
		unseen bool
	}{
		"dropped and created": {
			ddl:  []string{"DROP TABLE outbox", "CREATE TABLE outbox (" + outboxColumns + ")", "ALTER TABLE outbox ALTER id RESTART 100"},
			says: "", repair: addTable, runs: []string{"slot", "file away", "kafka", "exactly_once away"},
		},
		"swapped for a partitioned table": {
			ddl: []string{`ALTER TABLE outbox RENAME TO outbox_old; CREATE TABLE outbox (` + outboxColumns + `) PARTITION BY RANGE (id);
				ALTER TABLE outbox ALTER id RESTART 100; CREATE TABLE outbox_1 PARTITION OF outbox DEFAULT`},
			says: "does not contain", repair: addTable, runs: []string{"file", "slot away"},
		},
		"taken out": {
			ddl: []string{"ALTER PUBLICATION outboxd DROP TABLE outbox"}, says: "does not contain", repair: addTable, runs: []string{"exactly_once", "slot away"},
		},
		"taken out and added again": {
			ddl: []string{"ALTER PUBLICATION outboxd DROP TABLE outbox", "", addTable}, unseen: true,
			says: "added", runs: []string{"slot", "slot away", "file", "kafka away", "exactly_once"},
		},
		"publication dropped": {
			ddl: []string{"DROP PUBLICATION outboxd"}, says: `publication "outboxd" was not there when events were written`,
			repair: "CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert'); {advance}", runs: []string{"kafka"},
		},
		"inserts not published": {
			ddl: []string{"ALTER PUBLICATION outboxd SET (publish = 'update')"}, says: "does not publish inserts",
			repair: "ALTER PUBLICATION outboxd SET (publish = 'insert')", runs: []string{"slot"},
		},
	} {
		for _, run := range test.runs {
			store, _, away := strings.Cut(run, " ")
			t.Run(name+", "+run, func(t *testing.T) {
				t.Parallel()
				s := newScenario(t, nil, nil)
				s.keepIn(store)
				c := s.startStreaming()
				s.events(1, 10)
				s.waitConfirmed(30 * time.Second)
				switch {
				case away:
					c.stop()
				case test.unseen:
					c.signal(syscall.SIGSTOP)
				}
				lost := false
				var gone pglogrepl.LSN // behind the commit of the removal, before rows that are lost
				for _, ddl := range test.ddl {
					if ddl == "" {
						lost = true
						s.events(1, 5)
						continue
					}
					s.execIn(s.database, ddl)
					if gone == 0 {
						gone = s.lsn("SELECT pg_current_wal_insert_lsn()::text")
					}
				}
				if !lost {
					s.events(1, 5)
				}
				switch {
				case away:
					c = s.start()
				case test.unseen:
					c.signal(syscall.SIGCONT)
				}
				c.failsWith(1, test.says)
				since := c.since()
				if since > gone {
					t.Errorf("it says that rows may be missing since %s, the table was gone at %s", since, gone)
				}
				if got := s.confirmed(); got > gone {
					t.Errorf("the slot is confirmed up to %s, the outbox was gone at %s", got, gone)
				}
				again := func(state string) {
					t.Helper()
					c := s.start()
					c.failsWith(1)
					if got := c.since(); got != since {
						t.Errorf("%s it says that rows may be missing since %s, before it said %s", state, got, since)
					}
				}
				again("started again")
				if test.repair != "" {
					s.execIn(s.database, strings.ReplaceAll(test.repair, "{advance}",
						"SELECT pg_replication_slot_advance('"+s.slotName+"', pg_current_wal_lsn())"))
					if store != "slot" && test.repair == addTable {
						again("repaired")
					}
				}
				want := s.rows()
				c = s.startStreaming("--accept-gap")
				s.execIn(s.database, `WITH missing AS (DELETE FROM outbox WHERE id > 10 RETURNING aggregateid, type, payload)
						INSERT INTO outbox (aggregateid, type, payload) SELECT * FROM missing`)
				s.waitConfirmed(30 * time.Second)
				if store == "slot" {
					s.waitAdded()
				}
				c.stop()
				s.startStreaming().stop() // it is accepted once
				got := s.arrivedIDs()
				for id := range s.rows() {
					if !got[id] {
						t.Errorf("event %s has not arrived", id)
					}
				}
				if len(want) != len(s.rows()) {
					t.Errorf("%d rows, there were %d", len(s.rows()), len(want))
				}
			})
		}
	}
}

// waitAdded waits until the slot alone says that the outbox was in the publication where it is
// confirmed: after the WAL's next records of running transactions, which a checkpoint writes,
// when all that ran while the table was added have ended, those of other tests, too.
func (s *scenario) waitAdded() {
	s.t.Helper()
	waitFor(s.t, 2*time.Minute, func() (string, bool) {
		s.exec("CHECKPOINT")
		s.waitConfirmed(30 * time.Second)
		later := s.value(`SELECT string_agg(format('the table was added by %s, the slot has %s', r.xmin, s.catalog_xmin), '; ')
			FROM pg_publication_rel r, pg_replication_slots s WHERE s.slot_name = '` + s.slotName + `' AND age(r.xmin) <= age(s.catalog_xmin)`)
		return later, later == ""
	})
}

// Another table of the name that a publication of all tables contains, too, is
// published without a gap: nothing is missing, and outboxd says what has happened.
func TestOutboxSwappedUnderAllTables(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("CREATE PUBLICATION outboxd FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true)")
	s.keepIn("file")
	c := s.startStreaming()
	swap := func(suffix, kind string) {
		s.execIn(s.database, fmt.Sprintf(`ALTER TABLE outbox RENAME TO outbox_%s; CREATE TABLE outbox (%s) %s`, suffix, outboxColumns, kind))
	}
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	swap("a", "PARTITION BY RANGE (id)")
	s.execIn(s.database, "CREATE TABLE outbox_1 PARTITION OF outbox DEFAULT; ALTER TABLE outbox ALTER id RESTART 11")
	s.events(11, 20)
	c.waitLog("was replaced by another of its name", 30*time.Second)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	swap("b", "")
	s.execIn(s.database, "ALTER TABLE outbox ALTER id RESTART 21")
	s.events(21, 30)
	c = s.startStreaming()
	c.waitLog("was replaced by another of its name", 30*time.Second)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if got := s.arrivedIDs(); len(got) != 30 {
		t.Errorf("%d of 30 events have arrived", len(got))
	}
}

// A part of the table that is never decoded under its name ends the process by the
// name of the part, at the start and while it streams.
func TestPartsThatAreNotDecoded(t *testing.T) {
	t.Parallel()
	const partitioned = `DROP TABLE outbox; CREATE TABLE outbox (` + outboxColumns + `) PARTITION BY RANGE (id);
		CREATE TABLE low PARTITION OF outbox FOR VALUES FROM (0) TO (1000);
		CREATE TABLE high PARTITION OF outbox FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (id);`
	for name, test := range map[string]struct {
		before, part string
		says         []string
	}{
		"child": {
			part: `CREATE TABLE child () INHERITS (outbox); ALTER TABLE child ALTER id SET DEFAULT 0;
				CREATE FUNCTION redirect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO child SELECT NEW.*; RETURN NULL; END $$;
				CREATE TRIGGER redirect BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION redirect()`,
			says: []string{`"public"."child" inherits from "public"."outbox"`, "NO INHERIT"},
		},
		"unlogged leaf": {
			before: partitioned, part: "CREATE UNLOGGED TABLE deep PARTITION OF high FOR VALUES FROM (1000) TO (1100)",
			says: []string{`partition "public"."deep" of "public"."outbox" is unlogged`, `ALTER TABLE "public"."deep" SET LOGGED`},
		},
		"foreign leaf": {
			before: partitioned + "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
			part:   "CREATE FOREIGN TABLE deep PARTITION OF high FOR VALUES FROM (1000) TO (1100) SERVER far",
			says:   []string{`partition "public"."deep" of "public"."outbox" is a foreign table`, `DETACH PARTITION "public"."deep"`},
		},
	} {
		for _, later := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, later %t", name, later), func(t *testing.T) {
				t.Parallel()
				s := newScenario(t, nil, nil)
				s.keepIn("slot")
				if test.before != "" {
					s.execIn(s.database, test.before)
				}
				var c *connector
				if later {
					c = s.startStreaming()
					s.execIn(s.database, test.part)
				} else {
					s.execIn(s.database, test.part)
					c = s.start()
				}
				c.failsWith(1, test.says...)
				if later {
					if since, now := c.since(), s.lsn("SELECT pg_current_wal_lsn()::text"); since > now {
						t.Errorf("rows may be missing since %s, the WAL ends at %s", since, now)
					}
				}
			})
		}
	}
}

// What operators do to a table day by day is no reason to stop, nor to hold back
// positions, nor to refuse the next start.
func TestOutboxStays(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"slot", "file"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.keepIn(store)
			s.execIn(s.database, `DROP TABLE outbox; CREATE TABLE outbox (`+outboxColumns+`, PRIMARY KEY (id)) PARTITION BY RANGE (id);
				CREATE TABLE p0 PARTITION OF outbox FOR VALUES FROM (0) TO (1000)`)
			c := s.startStreaming()
			n := 0
			for _, ddl := range []string{
				"ALTER TABLE outbox ADD COLUMN extra int DEFAULT 7",
				"CREATE TABLE p1 PARTITION OF outbox FOR VALUES FROM (1000) TO (2000)",
				"CREATE TABLE p2 (LIKE outbox); ALTER TABLE p2 ALTER id SET NOT NULL; ALTER TABLE outbox ATTACH PARTITION p2 FOR VALUES FROM (2000) TO (3000)",
				"ALTER TABLE outbox DETACH PARTITION p1; DROP TABLE p1",
				"VACUUM FULL p0", "CLUSTER p0 USING p0_pkey", "ANALYZE outbox", "REINDEX TABLE outbox",
				"ALTER INDEX outbox_pkey RENAME TO outbox_key",
				"CREATE TABLE other (id int); ALTER PUBLICATION outboxd ADD TABLE other",
				"ALTER PUBLICATION outboxd SET (publish = 'insert')",
				"ALTER PUBLICATION outboxd SET TABLE outbox, other",
				"ALTER PUBLICATION outboxd DROP TABLE other; DROP TABLE other",
				"ALTER TABLE outbox ALTER COLUMN aggregateid TYPE varchar(50)",
				"GRANT SELECT ON outbox TO PUBLIC; COMMENT ON TABLE outbox IS 'x'; CREATE INDEX ON outbox (type)",
				"BEGIN; ALTER PUBLICATION outboxd DROP TABLE outbox; ROLLBACK",
				"BEGIN; DROP TABLE outbox; ROLLBACK",
				"TRUNCATE outbox",
			} {
				for sql := range strings.SplitSeq(ddl, "; ") {
					if strings.Contains(ddl, "BEGIN") {
						s.execIn(s.database, ddl)
						break
					}
					s.exec(sql)
				}
				n += 5
				s.events(n-4, n)
				s.waitConfirmed(30 * time.Second)
			}
			// The slot's own memory of the catalog follows by records that a server writes
			// every 15 s, and at each checkpoint; without another store the next start
			// knows nothing else of when the table came into the publication.
			waitFor(t, 60*time.Second, func() (string, bool) {
				s.execIn("postgres", "CHECKPOINT")
				n++
				s.events(n, n)
				s.waitConfirmed(30 * time.Second)
				behind := s.value("SELECT count(*)::text FROM pg_publication_rel r, pg_replication_slots s WHERE slot_name = '" + s.slotName + "' AND r.xmin::text::bigint >= s.catalog_xmin::text::bigint")
				return behind + " entries of publications are newer than the slot remembers", behind == "0"
			})
			c.stop()
			s.exec("ALTER TABLE outbox ADD COLUMN more int")
			s.exec("VACUUM FULL p0")
			n += 5
			s.events(n-4, n)
			c = s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if got := len(s.arrivedIDs()); got != n {
				t.Errorf("%d of %d events have arrived", got, n)
			}
		})
	}
}

// While nobody can look, events are delivered, the slot waits, and the operator reads
// why. A transaction that is changing the publication is such a reason.
func TestNobodyCanLook(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"slot", "exactly_once"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.keepIn(store)
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			writer := s.connect()
			s.execIn("postgres", "ALTER DATABASE "+s.database+" ALLOW_CONNECTIONS false")
			s.execIn("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outboxd' AND backend_type = 'client backend' AND datname = '"+s.database+"'")
			confirmed := "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'"
			before, err := s.postgres.QueryValue(t.Context(), "postgres", confirmed)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := writer.Exec(t.Context(), `INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(11, 20) i`); err != nil {
				t.Fatal(err)
			}
			waitFor(t, 20*time.Second, func() (string, bool) {
				n := len(s.arrivedIDs())
				return fmt.Sprintf("%d of 20 events", n), n == 20
			})
			c.waitLog("cannot be looked at", 30*time.Second)
			if after, err := s.postgres.QueryValue(t.Context(), "postgres", confirmed); err != nil || after != before {
				t.Errorf("the slot went from %s to %s although nobody could look (%v)", before, after, err)
			}
			s.execIn("postgres", "ALTER DATABASE "+s.database+" ALLOW_CONNECTIONS true")
			s.waitConfirmed(30 * time.Second)
			c.waitLog("can be looked at again", 30*time.Second)
			if n := c.count("cannot be looked at"); n != 1 {
				t.Errorf("it was said %d times", n)
			}
			c.stop()
		})
	}
}

// A transaction that takes the table out and has not ended holds back the slot: once
// it ends, rows may be missing since before it.
func TestPublicationIsChanging(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.keepIn("slot")
	c := s.startStreaming()
	changing := s.connect()
	if _, err := changing.Exec(t.Context(), "BEGIN; SAVEPOINT a; ALTER PUBLICATION outboxd DROP TABLE outbox"); err != nil {
		t.Fatal(err)
	}
	before := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
	time.Sleep(time.Second) // ten looks
	s.events(1, 10)
	time.Sleep(time.Second)
	if got := s.confirmed(); got > before {
		t.Errorf("the slot is confirmed up to %s, behind a change at %s that was in progress", got, before)
	}
	if _, err := changing.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if got := len(s.arrivedIDs()); got != 10 {
		t.Errorf("%d of 10 events have arrived", got)
	}
}

// Names are what they are: a comma is a character of one.
func TestColumnNameWithAComma(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec(`ALTER TABLE outbox ADD "a,b" text DEFAULT 'x', ADD "q""'" text DEFAULT 'y'`)
	s.exec(`CREATE PUBLICATION outboxd FOR TABLE outbox (id, aggregatetype, aggregateid, type, payload, "a,b", "q""'") WITH (publish = 'insert')`)
	s.extra = `outbox: {headers: {one: "a,b", two: "q\"'"}}`
	c := s.startStreaming()
	s.events(1, 3)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	for _, r := range s.read() {
		if r.header("one") != "x" || r.header("two") != "y" {
			t.Errorf("headers %q and %q: %v", r.header("one"), r.header("two"), r)
		}
	}
}

// A stored generated column of PostgreSQL 18 is in the stream if the publication takes
// it: the one that outboxd makes does, by itself and by init; of another's it says so.
func TestGeneratedColumn(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Version: "18"})
	for _, by := range []string{"run", "init", "someone else"} {
		t.Run(by, func(t *testing.T) {
			s := newScenario(t, postgres, nil)
			s.execIn(s.database, `DROP TABLE outbox; CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, aggregatetype text DEFAULT 'order', aggregateid text, type text,
				n int, payload jsonb GENERATED ALWAYS AS (('{"n": ' || n::text || '}')::jsonb) STORED)`)
			switch by {
			case "init":
				if code, _, stderr := invoke(t, "init", "--apply", "--config", s.configFile()); code != 0 {
					t.Fatalf("init: exit code %d: %s", code, stderr)
				}
			case "someone else":
				s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')")
				s.start().failsWith(1, "outbox.columns.payload", "publish_generated_columns = stored", "pg_replication_slot_advance")
				s.exec("ALTER PUBLICATION outboxd SET (publish_generated_columns = stored)")
			}
			c := s.startStreaming()
			s.exec("INSERT INTO outbox (aggregateid, type, n) VALUES ('k', 't0', 5)")
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if r := s.read(); len(r) != 1 || string(r[0].value) != `{"n": 5}` {
				t.Errorf("%v", r)
			}
		})
	}
}

// A partition key that rows are updated in is warned of: a row that moves is published
// again. One that stays as it is is not.
func TestPartitionKeyThatIsUpdated(t *testing.T) {
	t.Parallel()
	for key, warned := range map[string]bool{"processed boolean DEFAULT false": true, "status text DEFAULT 'new'": true, "created_on date DEFAULT current_date": false} {
		s := newScenario(t, nil, nil)
		column, _, _ := strings.Cut(key, " ")
		s.execIn(s.database, `DROP TABLE outbox; CREATE TABLE outbox (`+outboxColumns+`, `+key+`) PARTITION BY LIST (`+column+`);
			CREATE TABLE outbox_1 PARTITION OF outbox DEFAULT`)
		c := s.startStreaming()
		c.stop()
		if got := c.count("looks as if it is updated") == 1; got != warned {
			t.Errorf("%s: warned %t", key, got)
		}
	}
}

// The recipe of the manual moves rows to a new partition without publishing them
// again; an UPDATE that moves one does.
func TestRowsThatMove(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.execIn(s.database, `DROP TABLE outbox; CREATE TABLE outbox (`+outboxColumns+`) PARTITION BY RANGE (id);
		CREATE TABLE outbox_default PARTITION OF outbox DEFAULT`)
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	s.execIn(s.database, `BEGIN;
		LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE;
		CREATE TABLE outbox_1 (LIKE outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
		WITH moved AS (DELETE FROM outbox_default WHERE id < 100 RETURNING *) INSERT INTO outbox_1 SELECT * FROM moved;
		ALTER TABLE outbox ATTACH PARTITION outbox_1 FOR VALUES FROM (0) TO (100);
		COMMIT`)
	s.waitConfirmed(30 * time.Second)
	if got := s.arrived(); got != 10 {
		t.Errorf("%d records after rows were moved by the recipe, want 10", got)
	}
	s.execIn(s.database, "ALTER TABLE outbox ALTER id DROP IDENTITY; UPDATE outbox SET id = 1000 WHERE id = 1")
	s.events(11, 0)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if got := s.arrived(); got != 11 {
		t.Errorf("%d records after a row was moved by an UPDATE, want 11: the manual says that it is published again", got)
	}
}
