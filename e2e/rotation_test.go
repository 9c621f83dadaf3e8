package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// The database's password is changed, then its file, and the connections are ended:
// the connector is refused until the file is there, and goes on without a restart.
func TestPasswordRotation(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := newScenario(t, postgres, nil)
	s.execIn("postgres", "CREATE ROLE app LOGIN SUPERUSER REPLICATION PASSWORD 'old-secret'")
	rules := "host all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(postgres.DataDir(), "pg_hba.conf"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	s.execIn("postgres", "SELECT pg_reload_conf()")
	file := filepath.Join(t.TempDir(), "dsn")
	host := postgres.Addr()
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("postgres://app:"+password+"@"+host+"/"+s.database+"?sslmode=disable\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old-secret")
	s.dsn = "${file:" + file + "}"
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	c := s.startStreaming()
	s.exec("INSERT INTO outbox (aggregateid, type, payload) SELECT 'k', 'rotated', '{}' FROM generate_series(1, 10)")
	s.waitConfirmed(30 * time.Second)

	s.execIn("postgres", "ALTER ROLE app PASSWORD 'new-secret'")
	s.execIn("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
	c.waitLog("password authentication failed", 30*time.Second)
	s.exec("INSERT INTO outbox (aggregateid, type, payload) SELECT 'k', 'rotated', '{}' FROM generate_series(1, 10)")
	write("new-secret")
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.verify()
	for _, secret := range []string{"old-secret", "new-secret"} {
		if c.logged(secret) {
			t.Errorf("the log shows the password %s", secret)
		}
	}
}
