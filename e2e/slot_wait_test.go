package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// halfMade counts slots in the making, and server processes that the connector has.
const halfMade = `SELECT (SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NULL) || ' half made, ' ||
	(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outboxd') || ' processes'`

// Making the slot waits for the transactions that are running. They are named, no
// time-out of the role ends the wait, and neither a stop nor a kill leaves anything
// behind; the same with the slot of a backfill.
func TestSlotWaitsForTransactions(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{"max_prepared_transactions": "5"}})
	for name, extra := range map[string]string{"slot": "", "backfill": "outbox: {backfill: existing}"} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, postgres, nil)
			s.extra = extra + "\nerrors: {retry: {min: 50ms, max: 500ms}}"
			role := s.slotName + "_role"
			s.exec("CREATE ROLE " + role + " LOGIN SUPERUSER")
			for setting, value := range map[string]string{
				"statement_timeout": "1s", "lock_timeout": "1s", "transaction_timeout": "1s", "idle_session_timeout": "1s",
				"idle_in_transaction_session_timeout": "1s", "default_transaction_read_only": "on", "default_transaction_isolation": "serializable",
			} {
				s.exec(fmt.Sprintf("ALTER ROLE %s SET %s = '%s'", role, setting, value))
			}
			s.dsn = strings.Replace(s.dsn, "postgres@", role+"@", 1)
			holder := s.connect()
			for _, sql := range []string{"SET application_name = 'holder'",
				"BEGIN; CREATE TABLE prepared (id int); PREPARE TRANSACTION '" + s.slotName + "'",
				"BEGIN", "CREATE TABLE held (id int)"} {
				if _, err := holder.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
			named := func(c *connector) {
				t.Helper()
				c.waitLog("can be made only when transactions that are running have ended", 20*time.Second)
				for _, part := range []string{"application holder", "idle in transaction", fmt.Sprintf("process %d ", holder.PgConn().PID()), "prepared transaction '" + s.slotName + "'"} {
					if !c.logged(part) {
						t.Errorf("the log does not name %s:\n%s", part, c.tail(20))
					}
				}
			}

			c := s.start()
			named(c)
			time.Sleep(2500 * time.Millisecond) // more than every time-out of the role
			if c.logged("not streaming") {
				t.Errorf("the wait was ended:\n%s", c.tail(20))
			}
			second := s.start()
			second.waitLog("is being made by another process", 20*time.Second)
			second.kill()
			if !c.running() || c.logged("not streaming") {
				t.Errorf("a second process ended the first one's wait:\n%s", c.tail(20))
			}
			c.signal(syscall.SIGTERM)
			if code := c.exit(10 * time.Second); code != 0 {
				t.Errorf("exit code %d:\n%s", code, c.tail(20))
			}
			waitValue(t, postgres, halfMade, "0 half made, 0 processes")

			c = s.start()
			named(c)
			c.kill()
			c = s.start()
			c.waitLog("ended the server process that was making the slot for an outboxd that is gone", 20*time.Second)
			named(c)
			for _, sql := range []string{"ROLLBACK", "ROLLBACK PREPARED '" + s.slotName + "'"} {
				if _, err := holder.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			c.waitLog(`"message":"streaming"`, 30*time.Second)
			s.events(1, 10)
			time.Sleep(1500 * time.Millisecond)
			s.events(11, 20)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.verify()
		})
	}
}

// A process that was killed while its slot was made leaves none, even if no other
// follows.
func TestKilledWhileTheSlotIsMade(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	holder := s.connect()
	for _, sql := range []string{"BEGIN", "CREATE TABLE held (id int)"} {
		if _, err := holder.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := s.start()
	c.waitLog("can be made only when", 20*time.Second)
	c.kill()
	waitValue(t, postgres, halfMade, "0 half made, 0 processes")
}

// With synchronous_standby_names that take outboxd, every commit waits for Kafka: it
// says so, and PostgreSQL agrees.
func TestSynchronousStandbyIsWarnedOf(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	c := s.startStreaming()
	if c.logged("makes outboxd a synchronous standby") {
		t.Errorf("a warning without a cause:\n%s", c.tail(20))
	}
	c.stop()
	setting(t, postgres, "synchronous_standby_names", "*")
	c = s.startStreaming()
	c.waitLog("makes outboxd a synchronous standby", 10*time.Second)
	waitValue(t, postgres, "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'outboxd'", "sync")
	c.stop()
	setting(t, postgres, "synchronous_standby_names", "FIRST 1 (other)")
	setting(t, postgres, "synchronous_commit", "local")
	c = s.startStreaming()
	if c.logged("makes outboxd a synchronous standby") {
		t.Errorf("a warning without a cause:\n%s", c.tail(20))
	}
	waitValue(t, postgres, "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'outboxd'", "async")
	c.stop()
}

// An administrator who is no superuser does what he may, and is told the rest.
func TestInitByAnAdministrator(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	admin, role := s.slotName+"_admin", s.slotName+"_role"
	s.exec("CREATE ROLE " + admin + " LOGIN CREATEROLE")
	s.exec("ALTER DATABASE " + s.database + " OWNER TO " + admin)
	s.exec("ALTER SCHEMA public OWNER TO " + admin)
	s.exec("ALTER TABLE outbox OWNER TO " + admin)
	s.dsn = strings.Replace(s.dsn, "postgres@", admin+"@", 1)
	code, stdout, stderr := invoke(t, "init", "--apply", "--role", role, "--config", s.configFile())
	if code != 1 || !strings.Contains(stderr, "2 steps failed") || !strings.Contains(stderr, "rds_replication") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	for _, line := range []string{"ok  the outbox table", "ok  the role that", `FAIL  apply "the role may replicate`, "ok  the role may read", "ok  the publication", `FAIL  apply "the slot`} {
		if !strings.Contains(stdout, line) {
			t.Errorf("no line %s in\n%s%s", line, stdout, stderr)
		}
	}
	if n := s.value("SELECT count(*)::text FROM pg_roles WHERE rolname = '" + role + "'"); n != "1" {
		t.Errorf("%s roles were made", n)
	}
	// What is missing then is said as what it is.
	s.execIn(s.database, "REVOKE CONNECT ON DATABASE "+s.database+" FROM PUBLIC")
	s.dsn = strings.Replace(s.dsn, admin+"@", role+"@", 1)
	c := s.start()
	c.waitLog("GRANT CONNECT ON DATABASE", 20*time.Second)
	s.execIn(s.database, "GRANT CONNECT ON DATABASE "+s.database+" TO "+role)
	c.waitLog("the role needs REPLICATION", 40*time.Second)
	s.execIn(s.database, "ALTER ROLE "+role+" REPLICATION")
	c.waitLog(`"message":"streaming"`, 60*time.Second)
	c.stop()
}

// A word of the DSN that nobody knows ends the start.
func TestUnknownWordInTheDSN(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.dsn += "&keepalives=1&gssencmode=disable&options=-c%20nonsense%3D1"
	s.start().failsWith(1, "nonsense", "postgres.dsn")
}

// A replay makes nothing and changes nothing.
func TestReplayChangesNothing(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.makeSlot()
	s.whole = strings.Replace(s.config(), "slot: "+s.slotName, "failover: on, slot: "+s.slotName, 1)
	state := func() string {
		return s.value("SELECT (SELECT count(*) FROM pg_publication) || ' ' || (SELECT failover FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "')")
	}
	if code, _, stderr := s.replay(); code != 1 || !strings.Contains(stderr, `publication "outboxd" was not there`) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	s.exec("CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')")
	if code, _, stderr := s.replay(); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if got := state(); got != "1 false" {
		t.Errorf("after two replays there are, publications and failover: %s", got)
	}
}

// With exactly_once the database is looked at twice before the slot is made: the
// publication of the first look is no sign of a lost slot in the second.
func TestFirstStartWithExactlyOnce(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	c := s.startStreaming()
	if c.logged("if it was used before") {
		t.Errorf("a first start warns of a lost slot:\n%s", c.tail(20))
	}
	c.stop()
}
