package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// statusOf is what is looked at of `outboxd status --json`.
type statusOf struct {
	Role      string   `json:"role"`
	Ready     *bool    `json:"ready"`
	Confirmed string   `json:"slot_confirmed_lsn"`
	Stored    string   `json:"stored_lsn"`
	Retained  *int64   `json:"slot_retained_bytes"`
	Unlimited bool     `json:"slot_unlimited"`
	Why       string   `json:"why_wal_is_held"`
	Cause     string   `json:"wal_held_by"`
	LostIn    *float64 `json:"slot_lost_in_seconds"`
	Before    *int64   `json:"slot_wal_before_confirmed_bytes"`
	Unseen    []string `json:"not_seen"`
}

// status runs `outboxd status --json` by the scenario's configuration of now.
func (s *scenario) status() (o statusOf) {
	s.t.Helper()
	code, stdout, stderr := invoke(s.t, "status", "--json", "--config", s.configFile())
	if code != 0 || stderr != "" {
		s.t.Fatalf("status: exit code %d: %s", code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &o); err != nil {
		s.t.Fatalf("%v in %s", err, stdout)
	}
	return o
}

// status says what the connector does and why WAL is held: beside one that runs,
// after it was stopped, without a slot, over a role that may see nothing of others,
// and with the transaction that holds WAL.
func TestStatus(t *testing.T) {
	t.Parallel()
	s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{"max_prepared_transactions": "2"}}), nil)
	address := freeAddress(t)
	s.storeInFile()
	token := "http: {listen: \"" + address + "\", token: open-sesame}\n"
	whole := strings.Replace(s.config(), "http: {listen: \"\"}\n", token, 1)
	if !strings.Contains(whole, token) {
		t.Fatal(whole)
	}
	s.whole = whole

	if o := s.status(); o.Role != "stopped" || !strings.Contains(o.Why, "there is no slot") || len(o.Unseen) != 1 || !strings.Contains(o.Unseen[0], "nothing answers at http.listen") {
		t.Errorf("without a slot: %+v", o)
	}
	if code, _, stderr := invoke(t, "init", "--apply", "--role", "", "--config", s.configFile()); code != 0 {
		t.Fatalf("init: exit code %d: %s", code, stderr)
	}
	// What it writes is not of the outbox, and keeps its WAL.
	open, prepared := s.connect(), s.connect()
	begun := time.Now()
	for _, sql := range []string{"SET application_name = 'nightly batch'", "BEGIN", "SELECT pg_current_xact_id()"} {
		if _, err := open.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{"BEGIN", "SELECT pg_current_xact_id()", "PREPARE TRANSACTION 'half way'"} {
		if _, err := prepared.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := s.startStreaming()
	s.events(1, 20)
	s.waitConfirmed(30 * time.Second)
	// What check warns of is logged once, some seconds after the start.
	waitFor(t, 30*time.Second, func() (string, bool) {
		return c.tail(5), strings.Contains(c.tail(1<<20), `"message":"the set-up was checked"`)
	})
	if log := c.tail(1 << 20); strings.Count(log, `"message":"outboxd check warns"`) != 1 || !strings.Contains(log, `"check":"max_slot_wal_keep_size"`) {
		t.Errorf("the check of the start:\n%s", log)
	}
	o := s.status()
	if o.Role != "streaming" || o.Ready == nil || !*o.Ready || o.Confirmed == "" || o.Stored == "" || o.Retained == nil || !o.Unlimited || len(o.Unseen) != 0 {
		t.Errorf("beside a connector: %+v", o)
	}

	t.Run("another token", func(t *testing.T) {
		s.whole = strings.Replace(whole, "open-sesame", "open-barley", 1)
		defer func() { s.whole = whole }()
		if o := s.status(); o.Role != "streaming" || o.Ready != nil || len(o.Unseen) != 1 || !strings.Contains(o.Unseen[0], "401") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("a role without rights", func(t *testing.T) {
		s.exec("CREATE ROLE looker LOGIN REPLICATION")
		s.whole = strings.Replace(whole, "postgres@", "looker@", 1)
		defer func() { s.whole = whole }()
		if o := s.status(); o.Role != "streaming" || o.Retained == nil || len(o.Unseen) != 1 || !strings.Contains(o.Unseen[0], "pg_read_all_stats") {
			t.Errorf("%+v", o)
		}
	})
	t.Run("in words", func(t *testing.T) {
		code, stdout, stderr := invoke(t, "status", "--config", s.configFile())
		for _, want := range []string{"role        streaming\n", "slot        " + s.slotName + ", confirmed up to ", "WAL held    ", "why         "} {
			if code != 0 || !strings.Contains(stdout, want) {
				t.Errorf("exit code %d, no %q in:\n%s%s", code, want, stdout, stderr)
			}
		}
	})
	t.Run("a standby that is away", func(t *testing.T) {
		s.exec("SELECT pg_create_physical_replication_slot('away', true)")
		setting(t, s.postgres, "synchronized_standby_slots", "away")
		s.exec("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1000000))")
		s.events(21, 30)
		waitFor(t, 20*time.Second, func() (string, bool) {
			o := s.status()
			return fmt.Sprintf("%+v", o), o.Role == "streaming" && strings.Contains(o.Why, `the standby behind slot "away"`)
		})
		setting(t, s.postgres, "synchronized_standby_slots", "")
		s.waitConfirmed(30 * time.Second)
	})
	t.Run("open transactions", func(t *testing.T) {
		// One is named when it is older than any ordinary one.
		time.Sleep(time.Until(begun.Add(10500 * time.Millisecond)))
		s.waitConfirmed(30 * time.Second)
		if o := s.status(); !strings.Contains(o.Why, "a transaction is open since 2") || !strings.Contains(o.Why, " (application nightly batch, user postgres, database "+s.database+", idle in transaction); end it: ") || o.Cause != "transaction" {
			t.Errorf("%+v", o)
		}
		if _, err := open.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if o := s.status(); !strings.Contains(o.Why, "the prepared transaction 'half way' since 2") || !strings.Contains(o.Why, " (user postgres, database "+s.database+") has not ended") || o.Cause != "prepared" {
			t.Errorf("%+v", o)
		}
		// The process has looked twice by then, says the same itself, and has logged it.
		waitFor(t, 60*time.Second, func() (string, bool) {
			return c.tail(5), strings.Contains(c.tail(1<<20), `"cause":"prepared","why":"the prepared transaction 'half way' since 2`)
		})
		if o := s.status(); o.Before == nil || *o.Before == 0 {
			t.Errorf("%+v", o)
		}
		s.exec("ROLLBACK PREPARED 'half way'")
	})

	c.stop()
	s.exec("SELECT pg_logical_emit_message(false, 'other', repeat('x', 1000000))")
	if o := s.status(); o.Role != "stopped" || !strings.HasPrefix(o.Why, "nobody streams from the slot") || o.LostIn != nil {
		t.Errorf("after a stop: %+v", o)
	}
	// With a limit it says when the slot is lost at the rate of now.
	setting(t, s.postgres, "max_slot_wal_keep_size", "1GB")
	writing := make(chan error, 1)
	go func() {
		_, err := open.Exec(t.Context(), "DO $$BEGIN FOR i IN 1..50 LOOP PERFORM pg_logical_emit_message(false, 'other', repeat('x', 100000)), pg_sleep(0.1); END LOOP; END$$")
		writing <- err
	}()
	if o := s.status(); o.LostIn == nil || *o.LostIn < 1 || *o.LostIn > 100_000 {
		t.Errorf("while WAL is written: %+v", o)
	}
	if err := <-writing; err != nil {
		t.Error(err)
	}
	s.whole = strings.Replace(whole, s.postgres.Addr(), "127.0.0.1:1", 1)
	if code, stdout, stderr := invoke(t, "status", "--config", s.configFile()); code != 1 || stdout != "" || !strings.Contains(stderr, "connect to PostgreSQL") {
		t.Errorf("with nobody to ask: exit code %d: %s%s", code, stdout, stderr)
	}
}
