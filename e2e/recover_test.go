package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// recover runs the command to its end.
func (s *scenario) recover(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	return invoke(s.t, append([]string{"recover", "--config", s.configFile()}, args...)...)
}

// lostSlot is a scenario whose slot is lost with events that were not delivered: 1 to
// 100 were, 101 to 130 were not.
func lostSlot(t *testing.T, extra string) *scenario {
	t.Helper()
	s := newScenario(t, nil, nil)
	s.extra = extra
	c := s.startStreaming()
	for n := 1; n <= 100; n += 20 {
		s.events(n, n+19)
	}
	s.waitArrived(100)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.events(101, 120)
	s.dropSlot()
	s.events(121, 130)
	return s
}

// delivered demands that each event is there so many times at most, in the order of
// positions, and all of them.
func (s *scenario) delivered(events, most int) {
	s.t.Helper()
	seen := make(map[string]int)
	last := make(map[string]string)
	for _, r := range s.readCommitted() {
		seen[r.id]++
		if at := fmt.Sprint(r.topic, r.partition); r.position <= last[at] && most == 1 {
			s.t.Errorf("%v comes after %s", r, last[at])
		} else {
			last[at] = r.position
		}
	}
	for id, n := range seen {
		if n > most {
			s.t.Errorf("event %s is there %d times", id, n)
		}
	}
	if len(seen) != events {
		s.t.Errorf("%d events, want %d", len(seen), events)
	}
}

// With every store: what was not delivered is published, once, and run resumes behind
// it.
func TestRecoverAfterTheSlotWasDropped(t *testing.T) {
	for name, extra := range map[string]string{
		"slot":         "",
		"file":         "delivery: {store: file, file: %s}",
		"kafka":        "delivery: {store: kafka, topic: %s}",
		"exactly_once": "delivery: {guarantee: exactly_once, topic: %s}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			switch name {
			case "file":
				extra = fmt.Sprintf(extra, filepath.Join(t.TempDir(), "position"))
			case "kafka", "exactly_once":
				extra = fmt.Sprintf(extra, "recover."+name)
			}
			s := lostSlot(t, extra)
			if code, stdout, stderr := s.recover("--dry-run"); code != 0 || !strings.Contains(stdout, "would publish 30 of 130 rows") || !strings.Contains(stdout, "slot is gone") {
				t.Errorf("exit %d, %q\n%s", code, stdout, stderr)
			}
			if n := s.value("SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "0" {
				t.Errorf("%s slots after a dry run", n)
			}
			code, stdout, stderr := s.recover()
			if code != 0 || !strings.Contains(stdout, "published 30 of 130 rows") {
				t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
			}
			s.delivered(130, 1)
			s.events(131, 140)
			c := s.startStreaming()
			s.waitConfirmed(30 * time.Second)
			s.delivered(140, 1)
			if code, _, stderr := s.recover(); code != 1 || !strings.Contains(stderr, "a connector streams from the slot") {
				t.Errorf("beside a connector: exit %d, %s", code, stderr)
			}
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if code, stdout, _ := s.recover(); code != 0 || !strings.HasPrefix(stdout, "nothing to recover") {
				t.Errorf("with nothing to recover: exit %d, %q", code, stdout)
			}
			s.agree()
		})
	}
}

// Killed at any moment and started again, nothing is lost; what is repeated is what was
// in flight, and with exactly_once nothing.
func TestRecoverIsKilled(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			s := lostSlot(t, "delivery: {guarantee: "+guarantee+", topic: recover.killed."+guarantee+"}")
			s.exec("INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(131, 3130) i")
			config := s.configFile()
			for _, wait := range []time.Duration{50, 400, 1200, 2000} {
				cmd := exec.Command(binary, "recover", "--config", config, "--max-rate", "5000")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(wait * time.Millisecond)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				// Its server processes notice when they write.
				waitFor(t, 20*time.Second, func() (string, bool) {
					n := s.value("SELECT count(*)::text FROM pg_replication_slots WHERE temporary AND database = current_database()")
					return n + " temporary slots are left", n == "0"
				})
			}
			if code, stdout, stderr := s.recover(); code != 0 {
				t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
			}
			most := 5
			if guarantee == "exactly_once" {
				most = 1
			}
			s.delivered(3130, most)
			c := s.startStreaming()
			s.events(4001, 4010)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.delivered(3140, most)
		})
	}
}

// A slot whose WAL is gone, and a table that was replaced.
func TestRecoverInvalidatedSlotAndReplacedTable(t *testing.T) {
	postgres, err := testbed.StartPostgres(context.Background(), testbed.PostgresOptions{
		Settings: map[string]string{"max_slot_wal_keep_size": "16MB", "wal_keep_size": "0", "min_wal_size": "32MB", "max_wal_size": "32MB"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Close)
	s := newScenario(t, postgres, nil)
	c := s.startStreaming()
	s.events(1, 50)
	s.waitArrived(50)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.events(51, 60)
	waitFor(t, 60*time.Second, func() (string, bool) {
		s.exec("SELECT pg_switch_wal()")
		s.exec("CREATE TABLE IF NOT EXISTS other (x text)")
		s.exec("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
		s.exec("CHECKPOINT")
		state := s.value("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
		return "the slot is " + state, state == "lost"
	})
	s.start().failsWith(3, "invalidated", "`outboxd recover --config ")
	code, stdout, stderr := s.recover()
	if code != 0 || !strings.Contains(stdout, "published 10 of 60 rows") {
		t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
	}
	c = s.startStreaming()
	s.events(61, 70)
	s.waitArrived(70)
	s.delivered(70, 1)
	s.waitConfirmed(30 * time.Second)
	c.stop()

	// Another table takes over the name and the rows, outside the publication.
	s.events(71, 75)
	s.exec("ALTER TABLE outbox RENAME TO outbox_old")
	s.exec("CREATE TABLE outbox (LIKE outbox_old INCLUDING ALL)")
	s.exec("INSERT INTO outbox OVERRIDING SYSTEM VALUE SELECT * FROM outbox_old")
	s.exec("ALTER PUBLICATION outboxd ADD TABLE outbox")
	s.exec("INSERT INTO outbox (id, aggregateid, type, payload) OVERRIDING SYSTEM VALUE SELECT i, 'k', 't0', '{}' FROM generate_series(76, 80) i")
	s.start().failsWith(1, "`outboxd recover --config ")
	code, stdout, stderr = s.recover()
	if code != 0 || !strings.Contains(stdout, "published 10 of 80 rows") {
		t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
	}
	s.delivered(80, 1)
	c = s.startStreaming()
	s.agree()
	c.stop()
}

// The ids of a table that was dropped and created again begin again. What Kafka has of
// the ids is of the rows that are gone.
func TestRecoverTableWhoseIDsBeginAgain(t *testing.T) {
	for _, store := range []string{"slot", "kafka"} {
		t.Run(store, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			if store != "slot" {
				s.extra = fmt.Sprintf("delivery: {store: %s, topic: positions.%s}\n", store, s.topic)
			}
			c := s.startStreaming()
			s.events(1, 20)
			s.waitArrived(20)
			s.waitConfirmed(30 * time.Second)
			c.stop()

			s.exec("ALTER TABLE outbox RENAME TO outbox_old")
			s.exec("CREATE TABLE outbox (LIKE outbox_old INCLUDING ALL)")
			s.exec("DROP TABLE outbox_old")
			s.events(101, 110)
			s.exec("ALTER PUBLICATION outboxd ADD TABLE outbox")
			s.events(111, 115)
			s.start().failsWith(1, "`outboxd recover --config ")
			code, stdout, stderr := s.recover()
			if code != 0 || !strings.Contains(stdout, "published 15 of 15 rows") {
				t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
			}
			c = s.startStreaming()
			s.events(116, 120)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if n := len(s.readCommitted()); n != 40 {
				t.Errorf("%d records, want 40", n)
			}
			code, stdout, _ = s.recover()
			if code != 0 || !strings.Contains(stdout, "nothing to recover") {
				t.Errorf("exit %d, %q", code, stdout)
			}
		})
	}
}

// A standby that is promoted without the slot (before PostgreSQL 17, or with an ordinary
// slot), and without the newest transactions, which are in Kafka: all rows that it has are
// delivered, once, also those to which it gives ids again that Kafka has of the lost ones.
func TestRecoverAfterPromotionWithoutSlot(t *testing.T) {
	for name, extra := range map[string]string{
		"slot":         "",
		"kafka":        "delivery: {store: kafka, topic: %s}",
		"exactly_once": "delivery: {guarantee: exactly_once, topic: %s}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary := ownPostgres(t, testbed.PostgresOptions{Version: "15"})
			s := newScenario(t, primary, nil)
			standby := s.startStandby(nil)
			if s.extra = extra; extra != "" {
				s.extra = fmt.Sprintf(extra, "recover.promoted."+name)
			}
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			waitValue(t, primary, "SELECT count(*) FROM pg_stat_replication WHERE application_name = '"+standby.StandbySlot()+"' AND replay_lsn >= pg_current_wal_lsn()", "1")
			if err := standby.StopFast(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.events(11, 60)
			s.waitConfirmed(30 * time.Second)
			c.kill()
			s.postgres = standby
			if err := primary.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := standby.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.promote(standby)
			s.events(101, 130)
			if name != "slot" {
				s.start().failsWith(3, "history that this server does not have")
				if code, _, stderr := s.recover(); code != 1 || !strings.Contains(stderr, "pg_switch_wal()") {
					t.Errorf("with positions of the lost history: exit %d, %s", code, stderr)
				}
			}
			s.exec("SELECT pg_switch_wal()")
			if again := s.value("SELECT count(*)::text FROM outbox WHERE id BETWEEN 11 AND 60"); again == "0" {
				t.Fatal("no id comes again")
			}
			if code, stdout, stderr := s.recover("--dry-run"); code != 0 || !strings.Contains(stdout, "would publish 30 of 40 rows") {
				t.Errorf("exit %d, %q\n%s", code, stdout, stderr)
			}
			if code, stdout, stderr := s.recover(); code != 0 || !strings.Contains(stdout, "published 30 of 40 rows") {
				t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
			}
			c = s.startStreaming()
			s.events(131, 140)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			seen := make(map[string]int)
			for _, r := range s.readCommitted() {
				seen[string(r.value)]++
			}
			for n := 1; n <= 140; n++ {
				value, want := fmt.Sprintf(`{"n": %d}`, n), 1
				if n > 60 && n <= 100 {
					want = 0
				}
				if seen[value] != want {
					t.Errorf("%s is there %d times, want %d", value, seen[value], want)
				}
			}
		})
	}
}
