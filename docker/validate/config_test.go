package validate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outboxd/internal/config"
)

// load loads a configuration whose secret files are replaced by ones that are here.
func load(t *testing.T, text string, env ...string) (*config.Config, error) {
	t.Helper()
	dir := t.TempDir()
	dsn := filepath.Join(dir, "dsn")
	if err := os.WriteFile(dsn, []byte("postgres://outboxd:secret@db/shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mounted := range []string{"/run/secrets/outboxd/dsn", "/run/secrets/dsn"} {
		text = strings.ReplaceAll(text, "${file:"+mounted+"}", "${file:"+dsn+"}")
	}
	file := filepath.Join(dir, "outboxd.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(file, env)
}

func TestExampleLoads(t *testing.T) {
	cfg, err := load(t, read(t, "outboxd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTP.Listen != "0.0.0.0:9188" || cfg.Postgres.DSN.Reveal() != "postgres://outboxd:secret@db/shop" || cfg.Delivery.Store != "kafka" {
		t.Errorf("listen %q, dsn %q, store %q", cfg.HTTP.Listen, cfg.Postgres.DSN.Reveal(), cfg.Delivery.Store)
	}
}

// Lines that are commented out, for the reader to take, load as well.
func TestExampleLoadsWithTheCommentedKeys(t *testing.T) {
	text := read(t, "outboxd.yaml")
	for _, key := range []string{"tls: ", "sasl: "} {
		if !strings.Contains(text, "\n  # "+key) {
			t.Errorf("no commented %s", key)
		}
		text = strings.ReplaceAll(text, "\n  # "+key, "\n  "+key)
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("p"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, strings.ReplaceAll(text, "/run/secrets/kafka_password", password))
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.Kafka.TLS.Enabled || cfg.Kafka.SASL.Password.Reveal() != "p" {
		t.Error("the keys have no effect")
	}
}
