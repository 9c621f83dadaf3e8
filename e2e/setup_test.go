package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/internal/testbed"
)

// What is wrong with the database's set-up ends the start with exit code 1 and
// one line that names it and says what to do. Nothing is made on the way that
// was not there before.
func TestSetUpRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql  string
		env  []string
		says []string
	}{
		"table missing": {
			sql:  "DROP TABLE outbox",
			says: []string{`"public"."outbox"`, "does not exist", "outboxd init", "outbox.table"},
		},
		"table in another schema": {
			env:  []string{"OUTBOXD_OUTBOX_TABLE=shop.outbox"},
			says: []string{`"shop"."outbox"`, "does not exist"},
		},
		"a view": {
			sql:  "ALTER TABLE outbox RENAME TO events; CREATE VIEW outbox AS SELECT * FROM events",
			says: []string{"not a table", "outbox.table"},
		},
		"unlogged table": {
			sql:  "ALTER TABLE outbox SET UNLOGGED",
			says: []string{"unlogged", "ALTER TABLE", "SET LOGGED"},
		},
		"column missing": {
			sql:  "ALTER TABLE outbox DROP COLUMN aggregateid",
			says: []string{"outbox.columns.aggregate_id", `"aggregateid"`, `""`},
		},
		"column misspelt": {
			env:  []string{"OUTBOXD_OUTBOX_COLUMNS_PAYLOAD=paylod"},
			says: []string{"outbox.columns.payload", `"paylod"`},
		},
		"wrong payload type": {
			sql:  "ALTER TABLE outbox ALTER payload TYPE int USING 0",
			says: []string{"outbox.columns.payload", "int4", "jsonb", "bytea"},
		},
		"publication missing and not to be made": {
			env:  []string{"OUTBOXD_POSTGRES_CREATE=false"},
			says: []string{`publication "outboxd" does not exist`, "outboxd init", "postgres.create"},
		},
		"publication without the table": {
			sql:  "CREATE TABLE other (id int); CREATE PUBLICATION outboxd FOR TABLE other",
			says: []string{`publication "outboxd"`, "ALTER PUBLICATION", `ADD TABLE "public"."outbox"`},
		},
		"publication without inserts": {
			sql:  "CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'update, delete')",
			says: []string{"does not publish inserts", "ALTER PUBLICATION"},
		},
		"publication without a mapped column": {
			sql:  "CREATE PUBLICATION outboxd FOR TABLE outbox (id, aggregatetype, aggregateid, type)",
			says: []string{"outbox.columns.payload", "leaves out", `"payload"`},
		},
		"publication of the partitions": {
			sql: `DROP TABLE outbox;
				CREATE TABLE outbox (id int, aggregatetype text, aggregateid text, type text, payload jsonb) PARTITION BY LIST (id);
				CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES IN (1);
				CREATE PUBLICATION outboxd FOR TABLE outbox`,
			says: []string{"publish_via_partition_root = true", "ALTER PUBLICATION"},
		},
		"slot missing and not to be made": {
			sql:  "CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')",
			env:  []string{"OUTBOXD_POSTGRES_CREATE=false"},
			says: []string{"replication slot", "does not exist", "postgres.create"},
		},
		"physical slot": {
			sql:  "SELECT pg_create_physical_replication_slot('{slot}')",
			says: []string{"physical slot", "postgres.slot"},
		},
		"slot of another plugin": {
			sql:  "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')",
			says: []string{"test_decoding", "pgoutput", "postgres.slot"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.env = test.env
			if test.sql != "" {
				s.execIn(s.database, strings.ReplaceAll(test.sql, "{slot}", s.slotName))
			}
			const slots = "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '%s'"
			before := s.value(fmt.Sprintf(slots, s.slotName))
			t.Cleanup(func() { // also a physical one, which belongs to no database
				_ = s.postgres.Exec(context.Background(), "postgres",
					"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"'")
			})
			s.start().failsWith(1, test.says...)
			if after := s.value(fmt.Sprintf(slots, s.slotName)); after != before {
				t.Errorf("%s slots before the start, %s after it: a slot that nobody reads holds WAL", before, after)
			}
		})
	}
}

// Two databases of a server cannot share a slot.
func TestSlotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	owner, s := newScenario(t, nil, nil), newScenario(t, nil, nil)
	s.slotName = owner.slotName
	owner.makeSlot()
	s.start().failsWith(1, owner.slotName, "another database", "postgres.slot", "postgres.dsn")
	if before, after := owner.confirmed(), owner.confirmed(); before != after {
		t.Errorf("the other database's slot moved")
	}
}

func TestWALLevelReplica(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{"wal_level": "replica"}})
	s := newScenario(t, postgres, nil)
	s.start().failsWith(1, "wal_level is replica", "wal_level = logical", "restart")
}

// A wrong command line or configuration is exit code 2.
func TestCommandLine(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.extra = "delivery:\n  confirm_intervall: 1s"
	file := s.configFile()
	for _, test := range []struct {
		args []string
		says []string // anywhere on stderr: all errors are shown at once
	}{
		{[]string{"run", "--config", file}, []string{file + ":6", "confirm_intervall"}},
		{[]string{"init", "--config", file}, []string{file + ":6", "confirm_intervall"}},
		{[]string{"run", "--config", filepath.Join(t.TempDir(), "nowhere.yaml")}, []string{"nowhere.yaml"}},
		{[]string{"start"}, []string{`"start"`, "--help"}},
		{[]string{"run", "--fast"}, []string{"--fast", "--help"}},
	} {
		code, stdout, stderr := invoke(t, test.args...)
		if code != 2 || stdout != "" {
			t.Errorf("%v: exit code %d, want 2; stdout: %s", test.args, code, stdout)
		}
		for _, part := range test.says {
			if !strings.Contains(stderr, part) {
				t.Errorf("%v: stderr does not say %q:\n%s", test.args, part, stderr)
			}
		}
	}
	code, stdout, _ := invoke(t, "version")
	if code != 0 || !strings.HasPrefix(stdout, "outboxd ") || !strings.Contains(stdout, " go1.") {
		t.Errorf("version: exit code %d: %s", code, stdout)
	}
}

// Servers that are down at the start are waited for: the process stays up, says
// so, and delivers when they come.
func TestServersDownAtStart(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	kafka := ownKafka(t, testbed.KafkaOptions{})
	s := newScenario(t, postgres, kafka)
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	s.startStreaming().stop() // publication and slot
	s.events(1, 50)
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	if err := postgres.StopFast(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := s.start()
	c.waitLog("connect to PostgreSQL", 30*time.Second)
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.waitLog(`"message":"streaming"`, 30*time.Second)
	before := s.confirmed()
	c.waitLog("Kafka acknowledges nothing", 60*time.Second)
	if got := s.confirmed(); got != before {
		t.Errorf("the slot moved from %s to %s without Kafka", before, got)
	}
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.checkpoint()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}

// A stop while a server is down ends at once, and in order: nothing is in flight.
func TestStopWhileServersAreDown(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	proxy.Refuse(true)
	s.through(proxy)
	c := s.start()
	c.waitLog("connect to PostgreSQL", 30*time.Second)
	c.stop()
}

// statements splits what `outboxd init` prints, as psql would.
func statements(script string) []string {
	var all []string
	for s := range strings.SplitSeq(script, ";\n\n") {
		if strings.TrimSpace(s) != "" {
			all = append(all, s)
		}
	}
	return all
}

// A role that may log in and replicate, and nothing more, is enough once the
// owner has run what `outboxd init` prints. Running it twice is harmless. A wrong
// password is waited for, and is not in the log.
func TestInitAndOrdinaryRole(t *testing.T) {
	const password = "open-sesame-7"
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	hba := filepath.Join(postgres.DataDir(), "pg_hba.conf")
	rules := "host all outboxd 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(hba, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScenario(t, postgres, nil)
	s.exec("SELECT pg_reload_conf()")
	s.exec("DROP TABLE outbox")
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	// init needs nothing of Kafka, and no DSN as long as it prints.
	owner := filepath.Join(t.TempDir(), "owner.yaml")
	if err := os.WriteFile(owner, []byte("postgres: {dsn: '${OWNER_DSN}', slot: "+s.slotName+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	code, script, stderr := invoke(t, "init", "--config", owner)
	if code != 0 {
		t.Fatalf("init: exit code %d: %s", code, stderr)
	}
	if len(statements(script)) < 5 {
		t.Fatalf("init prints less than table, role, rights, publication and slot:\n%s", script)
	}
	for range 2 {
		for _, sql := range statements(script) {
			s.execIn(s.database, sql)
		}
	}
	made := s.confirmed()
	t.Setenv("OWNER_DSN", s.dsn)
	for range 2 {
		if code, stdout, stderr := invoke(t, "init", "--apply", "--config", owner); code != 0 || strings.Count(stdout, "ok ") < 5 {
			t.Fatalf("init --apply: exit code %d: %s\n%s", code, stdout, stderr)
		}
	}
	if got := s.confirmed(); got != made {
		t.Errorf("the slot was made again: it was at %s and is at %s", made, got)
	}

	s.exec("ALTER ROLE outboxd PASSWORD 'another'")
	s.dsn = strings.Replace(s.dsn, "postgres@", "outboxd:"+password+"@", 1)
	c := s.start()
	c.waitLog("check user and password in postgres.dsn", 30*time.Second)
	// The right one is noticed without a restart.
	s.exec("ALTER ROLE outboxd PASSWORD '" + password + "'")
	c.waitLog(`"message":"streaming"`, 30*time.Second)
	if c.logged(password) {
		t.Errorf("the password is in the log:\n%s", c.tail(30))
	}
	s.exec(`INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
		SELECT 'order', 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(1, 50) i`)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.checkpoint()
	if r := s.verify(); r.records != 50 {
		t.Errorf("%+v", r)
	}

	// Without the right to replicate it waits for that, too.
	s.exec("ALTER ROLE outboxd NOREPLICATION")
	c = s.start()
	c.waitLog("the role needs REPLICATION", 30*time.Second)
	s.exec("ALTER ROLE outboxd REPLICATION")
	c.waitLog(`"message":"streaming"`, 30*time.Second)
	c.stop()

	// And init over a role that may not make anything says who may.
	s.exec("DROP PUBLICATION outboxd")
	code, _, stderr = invoke(t, "init", "--apply", "--config", s.configFile())
	if lines := strings.Split(strings.TrimSpace(stderr), "\n"); code != 1 || !strings.Contains(lines[len(lines)-1], "let the table's owner run it") || strings.Contains(stderr, "steps failed") {
		t.Errorf("init --apply without rights: exit code %d: %s", code, stderr)
	}
}

// What the server cannot give at the moment is waited for: a connection more
// than max_wal_senders, a slot more than max_replication_slots.
func TestServerIsFull(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{"max_wal_senders": "1", "max_replication_slots": "1"}})
	s := newScenario(t, postgres, nil)
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	s.exec("SELECT pg_create_physical_replication_slot('last')")
	occupied, err := pgconn.Connect(context.Background(), postgres.DSN(s.database)+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	defer occupied.Close(context.Background())
	c := s.start()
	c.waitLog("raise max_wal_senders", 30*time.Second)
	occupied.Close(context.Background())
	c.waitLog("raise max_replication_slots", 30*time.Second)
	s.exec("SELECT pg_drop_replication_slot('last')")
	c.waitLog(`"message":"streaming"`, 30*time.Second)
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.verify()
}
