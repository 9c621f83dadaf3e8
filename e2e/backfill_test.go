package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outboxd/internal/testbed"
)

// newBackfill is a scenario with rows in its table before there is a slot.
func newBackfill(t *testing.T, postgres *testbed.Postgres, rows int) *scenario {
	t.Helper()
	s := newScenario(t, postgres, nil)
	s.extra = "outbox: {backfill: existing}\nerrors: {retry: {min: 50ms, max: 1s}}"
	s.rowsBefore(1, rows)
	return s
}

// rowsBefore commits rows of a few keys, in the order of their numbers.
func (s *scenario) rowsBefore(from, to int) {
	s.t.Helper()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 50, 't0', jsonb_build_object('n', i, 'text', repeat('x', 60)) FROM generate_series($1::int, $2::int) i`, from, to)
}

const (
	backfillBegins = `"message":"backfill begins"`
	backfillDone   = `"message":"backfill done"`
)

// Rows from before the slot come first, then the stream, with writers that never
// stop: what is committed while the snapshot is made is in one of the two.
func TestBackfillUnderLoad(t *testing.T) {
	for _, version := range []string{"13", "18"} {
		t.Run(version, func(t *testing.T) {
			s := newBackfill(t, ownPostgres(t, testbed.PostgresOptions{Version: version}), 10_000)
			l := s.startLoad(4, 5, 0, 41)
			waitFor(t, 30*time.Second, func() (string, bool) { return "no load", l.committed.Load() > 500 })
			c := s.startStreaming()
			done := l.committed.Load()
			waitFor(t, 30*time.Second, func() (string, bool) { return "no load", l.committed.Load() > done+500 })
			l.stop()
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if !c.logged(backfillDone) {
				t.Errorf("no backfill:\n%s", c.tail(20))
			}
			s.checkpoint()
			// It is done once.
			c = s.startStreaming()
			s.rowsBefore(30_001, 30_010)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if c.logged(backfillBegins) {
				t.Errorf("a backfill again:\n%s", c.tail(20))
			}
			if r := s.verify(); r.repeated != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// stalled starts a connector and holds its connections to PostgreSQL in the middle
// of the backfill.
func (s *scenario) stalled(proxy *testbed.Proxy) *connector {
	s.t.Helper()
	arrived := s.arrived()
	c := s.start()
	c.waitLog(backfillBegins, 30*time.Second)
	proxy.Stall(testbed.Both, true)
	waitFor(s.t, 30*time.Second, func() (string, bool) { return "nothing arrived", s.arrived() > arrived })
	if c.logged(backfillDone) {
		s.t.Fatal("the backfill was over before it was held")
	}
	return c
}

// Whatever ends a backfill, and whenever: the next start begins anew, until it was
// done once. Nothing is lost, and nothing comes in another order.
func TestBackfillInterrupted(t *testing.T) {
	t.Parallel()
	s := newBackfill(t, nil, 100_000)
	s.repositioned = true
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	s.through(proxy)
	slots := func() string {
		return s.value("SELECT coalesce(string_agg(slot_name, ','), '') FROM pg_replication_slots WHERE database = current_database()")
	}
	next := 200_000
	more := func() {
		s.rowsBefore(next, next+99)
		next += 100
	}

	// Killed before the slot is usable: it waits for a transaction.
	holder := s.connect()
	tx, err := holder.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `INSERT INTO outbox (aggregateid, type, payload) VALUES ('open', 't0', '{"n": 1}')`); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	// A server process that does not wait for the transaction yet would notice the end
	// of its client, and take the slot with it.
	waitFor(t, 30*time.Second, func() (string, bool) {
		return "nobody waits for the transaction", s.value(`SELECT count(*)::text FROM pg_locks l JOIN pg_replication_slots r ON r.active_pid = l.pid
			WHERE r.database = current_database() AND NOT l.granted`) == "1"
	})
	c.kill()
	c = s.start()
	// Nobody waits for what the server process makes, which does not know it.
	c.waitLog("ended the server process that was making the slot for an outboxd that is gone", 30*time.Second)
	c.waitLog("can be made only when transactions that are running have ended", 30*time.Second)
	c.kill()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 30*time.Second, func() (string, bool) { return "the slot of a process that was killed", slots() == "" })
	more()

	// Killed in the middle, with another process that waits for its turn.
	c = s.stalled(proxy)
	s2 := *s
	s2.dsn = s.postgres.DSN(s.database)
	c2 := s2.start()
	c2.waitLog("another process makes its backfill", 30*time.Second)
	more()
	c2.kill()
	c.kill()
	proxy.Cut()
	proxy.Stall(testbed.Both, false)
	waitFor(t, 30*time.Second, func() (string, bool) { return "a slot outlived its process", slots() == "" })

	// Stopped in the middle.
	c = s.stalled(proxy)
	more()
	c.signal(syscall.SIGTERM)
	proxy.Stall(testbed.Both, false)
	if code := c.exit(40 * time.Second); code != 1 || c.logged(backfillDone) || !c.logged("the next start publishes all of them") {
		t.Errorf("exit code %d:\n%s", code, c.tail(20)) // rows come again
	}
	waitFor(t, 30*time.Second, func() (string, bool) { return "a slot outlived its process", slots() == "" })
	more()

	// Cut off in the middle: the process goes on by itself, and is killed as soon
	// as the backfill is done.
	c = s.stalled(proxy)
	more()
	proxy.Cut()
	proxy.Stall(testbed.Both, false)
	c.waitLog(backfillDone, 60*time.Second)
	c.kill()
	if n := c.count(backfillBegins); n < 2 {
		t.Errorf("%d backfills:\n%s", n, c.tail(30))
	}
	s.checkpoint()
	more()
	before := s.arrived()
	c = s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if c.logged(backfillBegins) || s.arrived()-before > 5000 {
		t.Errorf("a backfill that was done was done again: %d records\n%s", s.arrived()-before, c.tail(20))
	}
	r := s.verify()
	t.Logf("%+v", r)
	if r.repeated == 0 {
		t.Error("the scenario was too tame to mean anything")
	}
}

// What a row becomes does not depend on whether it was there before the slot:
// every type, in a database whose settings print it in other ways.
func TestBackfillEqualsTheStream(t *testing.T) {
	t.Parallel()
	type payload struct{ typ, value string }
	for version, payloads := range map[string][]payload{
		"13": {
			{"json", `' {"b" : 1.0, "a":12345678901234567890, "b":null, "ü":"\u00e9"} '`},
			{"text", `E'text \\ \n\t ü'`},
			{"bytea", `'\x00ff5c0a'`},
		},
		"18": {
			{"jsonb", `'{"b" : 1.10, "a":12345678901234567890, "ü":"\u00e9"}'`},
			{"varchar(40)", `'varchar  '`},
			{"json_domain", `NULL`},
		},
	} {
		t.Run(version, func(t *testing.T) {
			postgres := ownPostgres(t, testbed.PostgresOptions{Version: version})
			for _, payload := range payloads {
				s := newScenario(t, postgres, nil)
				s.execIn("postgres", "ALTER DATABASE "+s.database+` SET datestyle = 'German'; ALTER DATABASE `+s.database+` SET bytea_output = 'escape';
					ALTER DATABASE `+s.database+` SET timezone = 'Asia/Kolkata'; ALTER DATABASE `+s.database+` SET intervalstyle = 'sql_standard'; ALTER DATABASE `+s.database+` SET extra_float_digits = 0`)
				s.exec(`CREATE DOMAIN json_domain AS json`)
				s.exec(`CREATE TYPE mood AS ENUM ('so so')`)
				s.exec(`CREATE TYPE pair AS (a int, b timestamptz)`)
				s.exec(`DROP TABLE outbox`)
				s.exec(fmt.Sprintf(`CREATE TABLE outbox (dropped int, id uuid DEFAULT gen_random_uuid(), aggregatetype text, aggregateid char(6), type text, version int, at timestamptz,
					h1 bool, h2 numeric, h3 float8, h4 interval, h5 mood, h6 pair, h7 date[], h8 bytea, h9 timestamp, h10 timestamptz, h11 name, more jsonb, payload %s)`, payload.typ))
				s.exec(`ALTER TABLE outbox DROP COLUMN dropped`)
				insert := `INSERT INTO outbox (aggregatetype, aggregateid, type, version, at, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, more, payload)
					VALUES (NULL, 'ab', 't0', 3, '2024-05-06 07:08:09.123+02', true, 1.500, 0.1::float8 + 0.2::float8, '1 day 02:03:04', 'so so', (1, '2024-05-06 07:08:09+00'), '{2024-05-06}',
						'\x00ff', '2024-05-06 07:08:09', '2024-05-06 07:08:09+00', 'name', '{"x": {"y": 1}, "z": "ü"}', ` + payload.value + `)`
				s.exec(insert)
				s.extra = `outbox:
  backfill: existing
  columns: {version: version, timestamp: at}
  headers: {h1: h1, h2: h2, h3: h3, h4: h4, h5: h5, h6: h6, h7: h7, h8: h8, h9: h9, h10: h10, h11: h11}
  headers_column: more
value: {timestamp: column}`
				c := s.startStreaming()
				s.exec(insert)
				s.waitConfirmed(30 * time.Second)
				c.stop()
				if version == "18" && s.value("SELECT failover::text FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"'") != "true" {
					t.Error("the slot is not a failover slot")
				}
				records := s.read()
				if len(records) != 2 {
					t.Fatalf("%s %s: %d records", payload.typ, payload.value, len(records))
				}
				show := func(r record) string {
					text := fmt.Sprintf("key %q value %q nil %t", r.key, r.value, r.value == nil)
					for _, h := range r.headers {
						if h.Key != "id" && h.Key != "position" {
							text += fmt.Sprintf("\n%s=%q", h.Key, h.Value)
						}
					}
					return text
				}
				if old, streamed := show(records[0]), show(records[1]); old != streamed {
					t.Errorf("%s %s:\nbackfilled %s\nstreamed %s", payload.typ, payload.value, old, streamed)
				}
				if records[0].position >= records[1].position {
					t.Errorf("positions %s and %s", records[0].position, records[1].position)
				}
			}
		})
	}
}

// Rows come in the order of the business time, then of an integer id; without
// either as they lie in the table. A filter of the publication counts as well.
func TestBackfillOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ columns, mapped, insert, want string }{
		"by time": {"id uuid PRIMARY KEY DEFAULT gen_random_uuid(), at timestamptz", "columns: {timestamp: at}",
			`(at, payload) VALUES ('2024-01-03', '3'), ('2024-01-01', '1'), (NULL, '0'), ('2024-01-02', '2')`, "0123"},
		"by time, then id": {"id int PRIMARY KEY, at timestamptz", "columns: {timestamp: at}",
			`(id, at, payload) VALUES (4, '2024-01-01', '2'), (2, '2024-01-01', '1'), (3, '2024-01-02', '3'), (9, '2023-01-01', '0')`, "0123"},
		"by id": {"id bigint", "columns: {}",
			`(id, payload) VALUES (4, '3'), (1, '0'), (3, '2'), (2, '1')`, "0123"},
		"by another primary key": {"id uuid DEFAULT gen_random_uuid(), number serial PRIMARY KEY", "columns: {}",
			`(number, payload) VALUES (4, '3'), (1, '0'), (3, '2'), (2, '1')`, "0123"},
		"as they lie": {"id uuid DEFAULT gen_random_uuid()", "columns: {}",
			`(payload) VALUES ('0'), ('1'), ('2'), ('3')`, "0123"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.exec("DROP TABLE outbox")
			s.exec("CREATE TABLE outbox (" + test.columns + ", aggregatetype text, aggregateid text DEFAULT 'k', type text DEFAULT 't0', payload jsonb)")
			s.exec("INSERT INTO outbox " + test.insert)
			s.extra = "outbox: {backfill: existing, " + test.mapped + "}"
			c := s.startStreaming()
			c.stop()
			got := ""
			for _, r := range s.read() {
				got += string(r.value)
			}
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// What cannot be backfilled is said, and leaves no slot that would say that it was.
func TestBackfillRefused(t *testing.T) {
	t.Parallel()
	s := newBackfill(t, nil, 3)
	noSlot := func() {
		t.Helper()
		waitFor(t, 30*time.Second, func() (string, bool) {
			n := s.value("SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()")
			return n + " slots", n == "0"
		})
	}
	// A poison row, behind a good one.
	s.exec("UPDATE outbox SET aggregateid = NULL WHERE id = 2")
	s.start().failsWith(1, "poison event", `id "2"`, "-00000002", "row of the backfill")
	noSlot()
	if n := s.arrived(); n != 1 {
		t.Errorf("%d records, want what came before it", n)
	}
	s.exec("UPDATE outbox SET aggregateid = 'k' WHERE id = 2")
	// A role that may stream and not read.
	role := s.database + "_role"
	s.execIn("postgres", fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION", role))
	t.Cleanup(func() { s.execIn(s.database, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	config, err := pgx.ParseConfig(s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	s.dsn = fmt.Sprintf("host=%s port=%d user=%s dbname=%s", config.Host, config.Port, role, s.database)
	s.start().failsWith(1, "GRANT SELECT", `"public"."outbox"`)
	noSlot()
	s.exec("GRANT SELECT ON outbox TO " + role)
	c := s.startStreaming()
	c.stop()
	if n := s.arrived(); n != 4 {
		t.Errorf("%d records, want 4", n)
	}
}

// A slot holds WAL while a backfill lasts. When that is more than the server keeps,
// to begin anew would come to the same end: an operator must look.
func TestBackfillPastTheWALLimit(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Version: "18", Settings: map[string]string{"max_slot_wal_keep_size": "32MB", "max_wal_size": "1GB"}})
	kafka := ownKafka(t, testbed.KafkaOptions{})
	s := newScenario(t, postgres, kafka)
	s.extra = "outbox: {backfill: existing}"
	s.rowsBefore(1, 10)
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	c.waitLog(backfillBegins, 30*time.Second)
	s.exec("CREATE TABLE other AS SELECT repeat(md5(i::text), 10) FROM generate_series(1, 200000) i")
	c.failsWith(1, "max_slot_wal_keep_size", "raise it")
	if n := c.count(backfillBegins); n != 1 {
		t.Errorf("%d backfills", n)
	}
}

// A backfill takes no more memory than a stream.
func TestBackfillMemory(t *testing.T) {
	rows := 300_000
	if *soak {
		rows = 5_000_000
	}
	s := newScenario(t, nil, nil)
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 50, 't0', jsonb_build_object('n', i, 'text', repeat('x', 300)) FROM generate_series(1, $1::int) i`, rows)
	s.brokersInExtra = true
	s.extra = fmt.Sprintf("outbox: {backfill: existing}\nkafka: {brokers: [%q], max_buffered: 16MiB}", s.brokers[0])
	c := s.start()
	c.waitLog(backfillDone, 10*time.Minute)
	c.checkMemory(fmt.Sprintf("a backfill of %d rows", rows))
	c.stop()
	if n := s.arrived(); n != int64(rows) {
		t.Errorf("%d of %d rows", n, rows)
	}
}
