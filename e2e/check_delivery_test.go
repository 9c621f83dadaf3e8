package e2e

import (
	"strings"
	"testing"

	"outboxd/internal/testbed"
)

// With exactly_once and each store, a check reads the position that a connector has
// stored and takes nothing: the connector goes on in its transaction.
func TestCheckStores(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ extra, where string }{
		"exactly once": {"delivery: {guarantee: exactly_once, topic: pos-%s}", "(delivery.topic) has"},
		"kafka":        {"delivery: {store: kafka, topic: pos-%s, rewind: 1h}", "(delivery.topic) has"},
		"file":         {"delivery: {store: file, file: %d/position}", "(delivery.file) has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScenario(t, nil, nil)
			s.extra = strings.NewReplacer("%s", s.topic, "%d", t.TempDir()).Replace(test.extra)
			if f := s.check().failed(); len(f) > 0 {
				t.Errorf("before the first start: %+v", f)
			}
			if all, err := s.admin().ListTopics(t.Context()); err != nil || all.Has("pos-"+s.topic) {
				t.Errorf("the check has made the topic of positions (%v)", err)
			}
			c := s.startStreaming()
			s.events(1, 20)
			s.waitArrived(20)
			topics := s.topicsBy(t.Context(), s.admin())
			var stored finding
			report := s.check()
			for _, g := range report.Groups {
				for _, f := range g.Checks {
					if f.Check == "stored position" {
						stored = f
					}
				}
			}
			if f := report.failed(); len(f) > 0 || !strings.Contains(stored.Text, test.where) {
				t.Errorf("beside the connector: %+v, failed: %+v", stored, f)
			}
			if after := s.topicsBy(t.Context(), s.admin()); strings.Join(after, " ") != strings.Join(topics, " ") {
				t.Errorf("topics before %v, after %v", topics, after)
			}
			s.events(21, 40)
			s.waitArrived(40)
			c.stop()
			if c.logged("fenced") || c.logged("in use") {
				t.Errorf("the connector was disturbed:\n%s", c.tail(20))
			}
			for _, p := range report.Promises {
				if p.Promise == "exactly once" && p.Holds != (name == "exactly once") || p.Promise == "replay window" && p.Holds != (name == "kafka") {
					t.Errorf("%+v", p)
				}
			}
			// The slot is gone, and the store knows of it.
			s.dropSlot()
			var gone bool
			for _, f := range s.check().failed() {
				gone = gone || f.Check == "stored position" && strings.Contains(f.Text, "slot is gone") && strings.Contains(f.Fix, "--accept-gap")
			}
			if !gone {
				t.Error("a start would refuse, and the check does not")
			}
			s.start().failsWith(3, "slot is gone")
		})
	}
}

// What needs a server of its own: settings.
func TestCheckSettings(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{
		"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "5", "synchronous_standby_names": "*", "synchronous_commit": "local",
	}})
	s := newScenario(t, postgres, nil)
	s.execIn(s.database, "SELECT pg_create_physical_replication_slot('other')")
	s.execIn(s.database, "ALTER ROLE postgres SET statement_timeout = '1s'")
	want := map[string]struct{ level, says string }{
		"wal_level":                 {"FAIL", "ALTER SYSTEM SET wal_level = logical"},
		"free slots":                {"FAIL", "ALTER SYSTEM SET max_replication_slots = 11"},
		"synchronous_standby_names": {"warn", "synchronous standby"},
		"max_slot_wal_keep_size":    {"warn", "ALTER SYSTEM SET max_slot_wal_keep_size"},
		"time-outs":                 {"ok", "statement_timeout=1s"},
	}
	for _, g := range s.check().Groups {
		for _, f := range g.Checks {
			w, ok := want[f.Check]
			if !ok {
				continue
			}
			delete(want, f.Check)
			if f.Level != w.level || !strings.Contains(f.Text+f.Fix+strings.Join(f.SQL, ";"), w.says) {
				t.Errorf("%+v, want %+v", f, w)
			}
			if f.Check == "time-outs" {
				continue
			}
			for _, sql := range f.SQL {
				s.exec(sql)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("no line for %v", want)
	}
	s.exec("ALTER SYSTEM SET synchronous_standby_names = ''")
	if err := postgres.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := s.check().unwell(); len(f) > 0 {
		t.Errorf("after the remedies: %+v", f)
	}
}
