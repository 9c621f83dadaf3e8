package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// finding is a line of `outboxd check --json`.
type finding struct {
	Level, Check, Text, Fix, Command string
	SQL                              []string
}

type checked struct {
	Groups []struct {
		Name   string
		Checks []finding
	}
	Promises []struct {
		Promise, Text, Change string
		Known, Holds          bool
	}
	Result string
}

// check runs `outboxd check --json`, and holds the exit code to the result.
func (s *scenario) check() checked {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(binary, "check", "--json", "--config", s.configFile())
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	code := cmd.ProcessState.ExitCode()
	var c checked
	if err := json.Unmarshal(stdout.Bytes(), &c); err != nil {
		s.t.Fatalf("%v\n%s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	if want := map[bool]int{true: 1, false: 0}[c.Result == "FAIL"]; code != want {
		s.t.Errorf("exit code %d with result %s, want %d", code, c.Result, want)
	}
	return c
}

// unwell are the lines that are not ok.
func (c checked) unwell() (found []finding) {
	for _, g := range c.Groups {
		for _, f := range g.Checks {
			if f.Level != "ok" {
				found = append(found, f)
			}
		}
	}
	return found
}

func (c checked) failed() (found []finding) {
	return slices.DeleteFunc(c.unwell(), func(f finding) bool { return f.Level != "FAIL" })
}

// checkScenario is a set-up of which everything is there, on a server of its own kind.
func checkScenario(t *testing.T, postgres *testbed.Postgres) *scenario {
	s := newScenario(t, postgres, nil)
	s.route = fmt.Sprintf(`{topic: "%s.orders"}`, s.topic)
	s.createTopic(s.topic+".orders", 1, nil)
	s.execIn(s.database, "CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)")
	s.exec("SELECT pg_create_logical_replication_slot('" + s.slotName + "', 'pgoutput', false, false, true)")
	return s
}

// state is what a check could have changed.
func (s *scenario) state() string {
	var b strings.Builder
	for _, catalog := range []string{"pg_class", "pg_attribute", "pg_publication", "pg_publication_rel", "pg_proc", "pg_namespace"} {
		fmt.Fprintf(&b, "%s %s\n", catalog, s.value("SELECT count(*)::text || ' ' || coalesce(max(xmin::text::bigint), 0)::text FROM "+catalog))
	}
	b.WriteString(s.value(`SELECT coalesce(string_agg(concat_ws(' ', slot_name, plugin, confirmed_flush_lsn, active, temporary), ',' ORDER BY slot_name), '')
		FROM pg_replication_slots WHERE database = current_database()`))
	b.WriteString("\n" + strings.Join(s.topicsBy(s.t.Context(), s.admin()), " "))
	return b.String()
}

func TestCheck(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{
		"max_connections": "200", "max_wal_senders": "60", "max_replication_slots": "60", "max_slot_wal_keep_size": "10GB",
	}})
	sharedKafka(t)
	for name, test := range map[string]struct {
		sql  string
		env  []string
		line string // the check that is not ok
		warn bool   // it is a warning
		says string
		// noSQL: no statement makes it right.
		noSQL bool
	}{
		"all is well": {},
		"table missing": {sql: "DROP PUBLICATION outboxd; DROP TABLE outbox; SELECT pg_drop_replication_slot('{slot}')",
			line: "table", says: "does not exist"},
		"unlogged": {sql: "DROP PUBLICATION outboxd; SELECT pg_drop_replication_slot('{slot}'); ALTER TABLE outbox SET UNLOGGED", line: "table", says: "unlogged"},
		"child":    {sql: "CREATE TABLE child () INHERITS (outbox)", line: "partitions", says: "inherits"},
		"publication without inserts": {sql: "SELECT pg_drop_replication_slot('{slot}'); ALTER PUBLICATION outboxd SET (publish = 'update')",
			line: "publication", says: "does not publish inserts"},
		"publication of others": {sql: "SELECT pg_drop_replication_slot('{slot}'); CREATE TABLE other (id int); ALTER PUBLICATION outboxd SET TABLE other",
			line: "publication", says: "does not contain"},
		"taken out and added again": {sql: "ALTER PUBLICATION outboxd DROP TABLE outbox; ALTER PUBLICATION outboxd ADD TABLE outbox",
			line: "published since", says: "--accept-gap", noSQL: true},
		"column list": {sql: "SELECT pg_drop_replication_slot('{slot}'); ALTER PUBLICATION outboxd SET TABLE outbox (id, type, aggregatetype, aggregateid)",
			line: "publication", says: `leaves out column "payload"`},
		"row filter": {sql: "SELECT pg_drop_replication_slot('{slot}'); ALTER PUBLICATION outboxd SET TABLE outbox WHERE (id > 5)",
			line: "publication", warn: true, says: "row filter"},
		"publication missing beside the slot": {sql: "DROP PUBLICATION outboxd", line: "publication", says: "was not there"},
		"publication not to be made": {sql: "DROP PUBLICATION outboxd; SELECT pg_drop_replication_slot('{slot}'); SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
			env: []string{"OUTBOXD_POSTGRES_CREATE=false"}, line: "publication", says: "was not there"},
		"slot not to be made": {sql: "SELECT pg_drop_replication_slot('{slot}')", env: []string{"OUTBOXD_POSTGRES_CREATE=false"},
			line: "slot", says: "does not exist"},
		"slot that vanished": {sql: "SELECT pg_drop_replication_slot('{slot}')", line: "slot", warn: true, says: "only in the outbox table"},
		"role may not replicate": {sql: "CREATE ROLE {database} LOGIN; GRANT USAGE ON SCHEMA public TO {database}", env: []string{"role"},
			line: "role", says: "REPLICATION"},
		"role may not read what is backfilled": {sql: "CREATE ROLE {database} LOGIN REPLICATION", env: []string{"role", "OUTBOXD_OUTBOX_BACKFILL=existing"},
			line: "table", says: "may not read"},
		"role may not publish": {sql: "DROP PUBLICATION outboxd; SELECT pg_drop_replication_slot('{slot}'); CREATE ROLE {database} LOGIN REPLICATION", env: []string{"role"},
			line: "publication", says: "may not create it"},
		"column default": {sql: "ALTER TABLE outbox ALTER payload SET DEFAULT '{}'", line: "columns", says: "has a default",
			env: []string{"OUTBOXD_VALUE_FORMAT=debezium", "OUTBOXD_VALUE_HEADERS=debezium", "OUTBOXD_VALUE_DEBEZIUM_VALUE=json_schema"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := checkScenario(t, postgres)
			for sql := range strings.SplitSeq(test.sql, "; ") {
				if sql != "" {
					s.exec(strings.NewReplacer("{slot}", s.slotName, "{database}", s.database).Replace(sql))
				}
			}
			s.env = test.env
			if len(test.env) > 0 && test.env[0] == "role" {
				s.env = test.env[1:]
				s.dsn = strings.Replace(s.dsn, "postgres@", s.database+"@", 1)
			}
			before := s.state()
			c := s.check()
			if after := s.state(); after != before {
				t.Errorf("the check has changed something; before:\n%s\nafter:\n%s", before, after)
			}
			var at []finding
			if at = c.failed(); test.warn || test.line == "" {
				at = slices.DeleteFunc(c.unwell(), func(f finding) bool {
					return f.Check == "slot" && test.line == "publication" // it is gone, so that what is published is not compared with it
				})
			}
			if test.line == "" {
				if len(at) > 0 || c.Result != "ok" {
					t.Fatalf("%+v", at)
				}
				return
			}
			if len(at) != 1 || at[0].Check != test.line || !strings.Contains(at[0].Text+at[0].Fix, test.says) {
				t.Fatalf("want one line %q that says %q, got %+v", test.line, test.says, c.unwell())
			}
			if test.noSQL != (len(at[0].SQL) == 0) {
				t.Fatalf("SQL: %+v", at[0])
			}
			if test.noSQL {
				s.start().failsWith(1, test.says) // a start says the same
				return
			}
			for _, sql := range at[0].SQL {
				s.exec(sql)
			}
			for _, f := range s.check().unwell() {
				if f.Level == "FAIL" || f.Check == test.line {
					t.Errorf("after %q: %+v", at[0].SQL, f)
				}
			}
		})
	}
}

// A check beside a connector takes nothing from it.
func TestCheckBesideConnector(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	c := s.startStreaming()
	topics := s.topicsBy(t.Context(), s.admin())
	for _, g := range s.check().Groups {
		for _, f := range g.Checks {
			if f.Check == "slot" && !strings.Contains(f.Text, "in use by server process") {
				t.Errorf("slot: %+v", f)
			}
			if f.Level == "FAIL" {
				t.Errorf("%+v", f)
			}
		}
	}
	if after := s.topicsBy(t.Context(), s.admin()); !slices.Equal(after, topics) {
		t.Errorf("topics before %v, after %v", topics, after)
	}
	s.events(1, 50)
	waitFor(t, 20*time.Second, func() (string, bool) { n := s.arrived(); return fmt.Sprint(n), n == 50 })
	if c.logged("in use") || c.logged("trying again") {
		t.Errorf("the connector was disturbed:\n%s", c.tail(20))
	}
	if testing.Verbose() {
		_, out, _ := invoke(t, "check", "--config", s.configFile())
		t.Log("\n" + out)
	}
	c.stop()
}
