package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// bodies are the payloads and the numbers within their transactions, in order.
func bodies(records []record) (got []string) {
	for _, r := range records {
		_, number, _ := strings.Cut(r.position, "-")
		got = append(got, number[6:]+" "+string(r.value))
	}
	return got
}

// origin sets postgres.origin, in the configuration as it is now.
func (s *scenario) origin(origin string) {
	s.whole = ""
	s.whole = strings.Replace(s.config(), "postgres: {", "postgres: {origin: "+origin+", ", 1)
}

// With postgres.origin: none what a replication origin has brought is passed over, and
// nothing else; with any it is published.
func TestOrigin(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"16", "18"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			postgres := ownPostgres(t, testbed.PostgresOptions{Version: version})
			for origin, want := range map[string][]string{
				"none": {`01 "here"`, `01 "mixed, here"`, `02 "mixed, here again"`, `01 "here, last"`},
				"any":  {`01 "here"`, `01 "from elsewhere"`, `02 "a message from elsewhere"`, `01 "mixed, here"`, `02 "mixed, from elsewhere"`, `03 "mixed, here again"`, `01 "here, last"`},
			} {
				t.Run(origin, func(t *testing.T) {
					s := newScenario(t, postgres, nil)
					s.extra = "delivery: {confirm_interval: 50ms}\noutbox: {message_prefix: shop}"
					s.origin(origin)
					c := s.startStreaming()
					event := func(body string) string {
						return fmt.Sprintf(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '"%s"');`, body)
					}
					name := s.database + "_elsewhere" // origins belong to the server
					setup := "SELECT pg_replication_origin_session_setup('" + name + "');"
					const reset = "SELECT pg_replication_origin_session_reset();"
					s.execIn(s.database, "SELECT pg_replication_origin_create('"+name+"')")
					s.execIn(s.database, event("here"))
					// A transaction is from where it is committed; a row is, within it, from where it is
					// written.
					s.execIn(s.database, setup+"BEGIN;"+event("from elsewhere")+
						`SELECT pg_logical_emit_message(true, 'shop', '{"id":"m","type":"t0","aggregate_id":"k","payload":"a message from elsewhere"}');`+"COMMIT;"+reset)
					s.execIn(s.database, "BEGIN;"+event("mixed, here")+setup+event("mixed, from elsewhere")+reset+event("mixed, here again")+"COMMIT;")
					s.execIn(s.database, event("here, last"))
					s.waitConfirmed(30 * time.Second)
					c.stop()
					if got := bodies(s.read()); !slices.Equal(got, want) {
						t.Errorf("published\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				})
			}
		})
	}
}

// Two databases that replicate their outbox to each other: each publishes what was
// written there, and check says which rows those are.
func TestOriginOfTwoRegions(t *testing.T) {
	t.Parallel()
	names := []string{"eu", "us"}
	regions := make([]*scenario, 2)
	for i := range regions {
		s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: "17"}), nil)
		s.extra = "delivery: {confirm_interval: 50ms}"
		s.origin("none")
		s.exec(fmt.Sprintf("ALTER TABLE outbox ALTER id RESTART WITH %d", 1+i*1_000_000))
		s.exec("CREATE PUBLICATION regions FOR TABLE outbox WITH (publish = 'insert')")
		s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)")
		regions[i] = s
	}
	for i, s := range regions {
		other := regions[1-i]
		s.exec(fmt.Sprintf("CREATE SUBSCRIPTION from_%s CONNECTION '%s' PUBLICATION regions WITH (origin = none, copy_data = false)", names[1-i], other.postgres.DSN(other.database)))
	}
	const events = 100
	for _, s := range regions {
		c := s.startStreaming()
		defer c.stop()
	}
	for i, s := range regions {
		for range 2 { // before and after it is known that the other has them
			s.exec(fmt.Sprintf(`INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i %% 5, 't0', '"%s"' FROM generate_series(1, %d) i`, names[i], events/2))
			other := regions[1-i]
			want := s.value("SELECT count(*)::text FROM outbox WHERE payload = '\"" + names[i] + "\"'")
			waitFor(t, 60*time.Second, func() (string, bool) {
				got := other.value("SELECT count(*)::text FROM outbox WHERE payload = '\"" + names[i] + "\"'")
				return fmt.Sprintf("region %s has %s of %s rows", names[1-i], got, want), got == want
			})
		}
	}
	for i, s := range regions {
		s.waitConfirmed(30 * time.Second)
		var ids []string
		for _, r := range s.read() {
			if string(r.value) != `"`+names[i]+`"` {
				t.Errorf("region %s has published %s", names[i], r.value)
			}
			ids = append(ids, r.id)
		}
		slices.Sort(ids)
		if all := len(slices.Compact(slices.Clone(ids))); all != events || len(ids) != events {
			t.Errorf("region %s has published %d events, %d of them for the first time; want %d", names[i], len(ids), all, events)
		}
		says := func(level, text string) {
			t.Helper()
			for _, f := range s.check().Groups[0].Checks {
				if f.Check == "origin" {
					if f.Level != level || !strings.Contains(f.Text, text) {
						t.Errorf("check says %+v, want %s", f, text)
					}
					return
				}
			}
			t.Error("check does not say which rows are published")
		}
		says("ok", `not those that subscription "from_`+names[1-i]+`" brings`)
		// A row does not say where it was written, so commands that go by the table refuse.
		for _, args := range [][]string{{"reconcile"}, {"recover", "--dry-run"}, {"replay", "--since", "1h", "--dry-run"}} {
			if code, out, stderr := invoke(t, append(args, "--config", s.configFile())...); code != 2 || !strings.Contains(stderr, "postgres.origin") {
				t.Errorf("%v: exit code %d: %s%s", args, code, out, stderr)
			}
		}
		if code, out, stderr := invoke(t, "replay", "--id", ids[0], "--dry-run", "--config", s.configFile()); code != 0 || !strings.Contains(out, "would publish 1") {
			t.Errorf("exit code %d: %s%s", code, out, stderr)
		}
		s.origin("any")
		says("ok", `subscription "from_`+names[1-i]+`" brings are published too`)
	}
	for i, s := range regions { // so that the servers can end
		s.exec("DROP SUBSCRIPTION from_" + names[1-i])
	}
}

// Before 16 PostgreSQL cannot tell: that is said by run and by check, and not found out.
func TestOriginNeedsPostgres16(t *testing.T) {
	t.Parallel()
	s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: "15"}), nil)
	s.origin("none")
	s.start().failsWith(1, "postgres.origin: none needs PostgreSQL 16", "15.")
	if failed := s.check().failed(); !slices.ContainsFunc(failed, func(f finding) bool { return strings.Contains(f.Text, "postgres.origin: none needs PostgreSQL 16") }) {
		t.Errorf("check says %+v", failed)
	}
}
