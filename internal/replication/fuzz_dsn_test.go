package replication

import (
	"strings"
	"testing"
)

// A DSN is refused in words that show no password, or it is taken, and then what is
// sent to the server are settings alone.
func FuzzDSN(f *testing.F) {
	for _, dsn := range []string{
		"postgres://u:hunter2@h1,h2:5433/d?sslmode=disable&target_session_attrs=primary",
		"host=h dbname=d user=u password=hunter2 keepalives=1 gssencmode=disable nonsense=1",
		"postgres://u:hun?ter2=a@h/d", "host='a b' options='-c work_mem=1MB'", "postgres:///d?host=/run/postgresql&hostaddr=::1",
		"postgres://h/d?ssl_min_protocol_version=TLSv1.3&keepalives_idle=-1&tcp_user_timeout=9999999999999", "service=x", "", "\x00",
	} {
		f.Add(dsn)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		err := CheckDSN(dsn)
		if err != nil {
			if text := err.Error(); strings.Contains(text, "hunter2") || len(text) > 2000 {
				t.Errorf("%q: %s", dsn, text)
			}
			return
		}
		cfg, err := parseDSN(dsn)
		if err != nil {
			t.Fatalf("%q: checked, and then refused: %v", dsn, err)
		}
		for name := range cfg.RuntimeParams {
			lower := strings.ToLower(name)
			if _, libpq := keywords[name]; libpq || lower != "options" && !sessionSettings[lower] && !strings.Contains(name, ".") {
				t.Errorf("%q: %s is sent to the server", dsn, name)
			}
		}
	})
}
