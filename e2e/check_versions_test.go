package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// check names the same faults on each version of PostgreSQL, with SQL that makes them
// right there; 15 and 17 are the other tests'.
func TestCheckVersions(t *testing.T) {
	for _, version := range []string{"13", "14", "16", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			postgres := ownPostgres(t, testbed.PostgresOptions{Version: version, Settings: map[string]string{"max_slot_wal_keep_size": "10GB"}})
			for name, test := range map[string]struct {
				sql  string // what is wrong, with the slot not made yet
				line string // the check that is not ok
				says string
			}{
				"all is well":                 {},
				"no right to replicate":       {"CREATE ROLE {database} LOGIN; GRANT USAGE ON SCHEMA public TO {database}", "role", "REPLICATION"},
				"table missing":               {"DROP TABLE outbox", "table", "does not exist"},
				"unlogged":                    {"DROP PUBLICATION outboxd; ALTER TABLE outbox SET UNLOGGED", "table", "unlogged"},
				"publication without inserts": {"ALTER PUBLICATION outboxd SET (publish = 'update')", "publication", "does not publish inserts"},
				"child":                       {"CREATE TABLE child () INHERITS (outbox)", "partitions", "inherits"},
			} {
				t.Run(name, func(t *testing.T) {
					s := newScenario(t, postgres, nil)
					s.route = `{topic: "` + s.topic + `.orders"}`
					s.createTopic(s.topic+".orders", 1, nil)
					s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)")
					for sql := range strings.SplitSeq(test.sql, "; ") {
						if sql != "" {
							s.exec(strings.ReplaceAll(sql, "{database}", s.database))
						}
					}
					if test.line == "role" {
						s.dsn = strings.Replace(s.dsn, "postgres@", s.database+"@", 1)
					}
					var before string
					waitFor(t, 20*time.Second, func() (string, bool) { // a topic that was just made is not listed at once
						before = s.state()
						return before, strings.Contains(before, s.topic+".orders")
					})
					c := s.check()
					if after := s.state(); after != before {
						t.Errorf("the check has changed something; before:\n%s\nafter:\n%s", before, after)
					}
					server := slices.IndexFunc(c.Groups[0].Checks, func(f finding) bool {
						return f.Check == "server" && strings.Contains(f.Text, "PostgreSQL "+version+".")
					})
					if server < 0 {
						t.Errorf("it is not PostgreSQL %s: %+v", version, c.Groups[0].Checks)
					}
					at := c.failed()
					if test.line == "" {
						// The publication is there, and the slot is made by the SQL of the warning.
						if u := c.unwell(); len(u) != 1 || u[0].Check != "slot" || u[0].Level != "warn" || len(u[0].SQL) == 0 {
							t.Fatalf("%+v", u)
						}
						for _, sql := range c.unwell()[0].SQL {
							s.exec(sql)
						}
						if c := s.check(); len(c.unwell()) > 0 || c.Result != "ok" {
							t.Errorf("%+v", c.unwell())
						}
						return
					}
					i := slices.IndexFunc(at, func(f finding) bool { return f.Check == test.line })
					if i < 0 || !strings.Contains(at[i].Text+at[i].Fix, test.says) || len(at[i].SQL) == 0 {
						t.Fatalf("no line %q that says %q: %+v", test.line, test.says, c.unwell())
					}
					for _, sql := range at[i].SQL {
						s.exec(sql)
					}
					if f := s.check().failed(); slices.ContainsFunc(f, func(f finding) bool { return f.Check == test.line }) {
						t.Errorf("after %q: %+v", at[i].SQL, f)
					}
				})
			}
		})
	}
}
