package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// storeInFile makes the scenario keep its position in a file, and returns it.
func (s *scenario) storeInFile() string {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "position.json")
	s.extra = `delivery: {store: file, file: "` + file + `", confirm_interval: 100ms}`
	return file
}

func (s *scenario) makeSlot() {
	s.t.Helper()
	s.exec("SELECT pg_create_logical_replication_slot('" + s.slotName + "', 'pgoutput')")
}

func (s *scenario) advanceSlot() {
	s.t.Helper()
	s.exec("SELECT pg_replication_slot_advance('" + s.slotName + "', pg_current_wal_insert_lsn())")
}

// A stored position that does not fit the server is refused with exit code 3,
// and a sentence that says what happened to whom. --accept-gap goes on from the
// slot; what lies in the gap is what the operator accepted to lose.
func TestStoredPositionRefused(t *testing.T) {
	t.Parallel()
	edit := func(change func(fields map[string]any)) func(*scenario, string) {
		return func(s *scenario, file string) {
			var fields map[string]any
			data, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(data, &fields)
			}
			if err != nil {
				s.t.Fatal(err)
			}
			change(fields)
			if data, err = json.Marshal(fields); err == nil {
				err = os.WriteFile(file, data, 0o600)
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		// harm comes while the connector is stopped and after events 11 to 20.
		harm func(s *scenario, file string)
		says []string
		// lost says that events 11 to 20 lie in the gap.
		lost bool
	}{
		"slot dropped": {
			func(s *scenario, _ string) { s.dropSlot() },
			[]string{"the replication slot is gone", "does not exist", "--accept-gap"}, true,
		},
		"slot dropped and made again": {
			func(s *scenario, _ string) { s.dropSlot(); s.makeSlot() },
			[]string{"confirmed beyond the stored position", "--accept-gap"}, true,
		},
		"slot advanced by hand": {
			func(s *scenario, _ string) { s.advanceSlot() },
			[]string{"confirmed beyond the stored position", "someone advanced", "--accept-gap"}, true,
		},
		"another system": {
			edit(func(f map[string]any) { f["system_id"] = "7000000000000000001" }),
			[]string{"another database system", "7000000000000000001", "postgres.dsn", "--accept-gap"}, false,
		},
		"another slot": {
			edit(func(f map[string]any) { f["slot"] = "other" }),
			[]string{"another slot", `"other"`, "--accept-gap"}, false,
		},
		"another history": {
			edit(func(f map[string]any) { f["timeline"] = 7 }),
			[]string{"timeline 7", "--accept-gap"}, false,
		},
		"server restored from a backup": {
			edit(func(f map[string]any) { f["lsn"] = "FFFF/0" }),
			[]string{"ends before the stored position", "FFFF/0", "--accept-gap"}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			file := s.storeInFile()
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.checkpoint()
			s.events(11, 20)
			test.harm(s, file)
			says := append([]string{"position refused"}, test.says...)
			s.start().failsWith(3, says...)
			if n := s.arrived(); n != 10 {
				t.Errorf("%d records after the refused start, want 10", n)
			}
			// It is no guess that gets better by trying again.
			s.start().failsWith(3, says...)

			c = s.startStreaming("--accept-gap")
			if !c.logged("skipped (--accept-gap)") {
				t.Errorf("--accept-gap does not say what it skips:\n%s", c.tail(20))
			}
			s.events(21, 30)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.checkpoint()
			// The accepted position is the stored one now.
			c = s.startStreaming()
			s.events(31, 40)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			rows := s.rows()
			if test.lost {
				for n := 11; n <= 20; n++ {
					delete(rows, fmt.Sprint(n))
				}
			}
			if r := s.verifyRows(rows, nil); r.repeated != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// slotHarms are what may happen to a slot behind the connector's back, and what it
// says when its own position shows that.
var slotHarms = map[string]struct {
	harm func(s *scenario)
	says string
}{
	"slot dropped":                {(*scenario).dropSlot, "the replication slot is gone"},
	"slot dropped and made again": {func(s *scenario) { s.dropSlot(); s.makeSlot() }, "confirmed beyond the stored position"},
	"slot advanced by hand":       {(*scenario).advanceSlot, "confirmed beyond the stored position"},
}

// The slot changes under a connector that keeps no position besides it, while
// the connection is away: what it confirmed itself is enough to see that.
func TestSlotChangesBetweenConnections(t *testing.T) {
	t.Parallel()
	for name, test := range slotHarms {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			proxy, err := testbed.NewProxy(s.postgres.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(proxy.Close)
			s.through(proxy)
			s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			proxy.Refuse(true)
			proxy.Cut()
			waitFor(t, 30*time.Second, func() (string, bool) {
				active := s.value("SELECT active::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
				return "the slot is still in use", active == "false"
			})
			s.events(11, 20)
			test.harm(s)
			proxy.Refuse(false)
			c.failsWith(3, "position refused", test.says)
			rows := s.rows()
			for n := 11; n <= 20; n++ {
				delete(rows, fmt.Sprint(n))
			}
			s.verifyRows(rows, nil)
		})
	}
}

// The server removed WAL that the slot still needed (max_slot_wal_keep_size).
// There is nothing to go on from, not even with --accept-gap, until the slot is
// dropped.
func TestSlotInvalidated(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{
		"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB",
	}})
	s := newScenario(t, postgres, nil)
	c := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.checkpoint()
	s.events(11, 20)
	s.exec("CREATE TABLE busy (note text)")
	waitFor(t, 60*time.Second, func() (string, bool) {
		s.exec("INSERT INTO busy SELECT repeat(md5(i::text), 30) FROM generate_series(1, 20000) i")
		s.exec("CHECKPOINT")
		status := s.value("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
		return "the slot's WAL is " + status, status == "lost"
	})
	says := []string{"position refused", "invalidated", s.slotName, "pg_drop_replication_slot", "max_slot_wal_keep_size"}
	s.start().failsWith(3, says...)
	s.start("--accept-gap").failsWith(3, says...)
	s.dropSlot()
	c = s.startStreaming("--accept-gap")
	s.events(21, 30)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	rows := s.rows()
	for n := 11; n <= 20; n++ {
		delete(rows, fmt.Sprint(n))
	}
	s.checkpoints = nil // they are of the slot that is gone
	if r := s.verifyRows(rows, nil); r.records != 20 {
		t.Errorf("%+v", r)
	}
}

// A slot behind the stored position is normal: PostgreSQL writes a slot to disk
// only at a checkpoint, and forgets the rest when it crashes. The stored position
// counts, so nothing is sent again.
func TestSlotBehindStoredPosition(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	s.storeInFile()
	c := s.startStreaming()
	s.exec("CHECKPOINT")
	for i := range 20 {
		s.events(1+10*i, 10+10*i)
	}
	s.waitConfirmed(30 * time.Second)
	before := s.confirmed()
	c.kill()
	if err := postgres.StopImmediate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.confirmed(); got >= before {
		t.Fatalf("the slot kept its position over the crash: %s, before it %s", got, before)
	}
	s.checkpoint()
	c = s.startStreaming()
	s.events(201, 210)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%d of %d records were published again, although their position was stored", r.repeated, r.records)
	}
}

// A position file that cannot be read is not taken for "no position".
func TestPositionFileDamaged(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	file := s.storeInFile()
	s.startStreaming().stop()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := s.confirmed()
	s.events(1, 10)
	for name, content := range map[string]string{
		"empty":     "",
		"cut":       string(whole[:len(whole)/2]),
		"not JSON":  "0/1500000\n",
		"no fields": "{}",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		s.start().failsWith(1, "read stored position", file)
	}
	if got := s.confirmed(); got != before {
		t.Errorf("the slot moved from %s to %s", before, got)
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.checkpoint()
	c := s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.verify()
}
