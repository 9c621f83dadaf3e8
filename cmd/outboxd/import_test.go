package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/status"
)

// What import-debezium prints is a configuration as it is, once its variables are
// set.
func TestImportsAreConfigurations(t *testing.T) {
	files, err := filepath.Glob("../../internal/debezium/testdata/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, golden := range files {
		source := strings.TrimSuffix(golden, ".yaml") + ".json"
		if _, err := os.Stat(source); err != nil {
			source = strings.TrimSuffix(golden, ".yaml") + ".properties"
		}
		var stdout, stderr bytes.Buffer
		if code := run([]string{"import-debezium", source}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("%s: exit code %d: %s", source, code, &stderr)
			continue
		}
		// A secret that the file refers to is read from there.
		text := strings.ReplaceAll(stdout.String(), "${file:/run/secrets/kafka}", "secret")
		file := filepath.Join(t.TempDir(), "outboxd.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// The TLS files are not here either.
		text = strings.NewReplacer(" sslrootcert=/etc/tls/ca.pem sslcert=/etc/tls/client.pem sslkey=/etc/tls/client.pk8", "", "ca: /etc/tls/kafka-ca.pem", `ca: ""`).Replace(text)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(file, []string{"KAFKA_BROKERS=k1:9092,k2", "DB_HOST=db"})
		if err != nil {
			t.Errorf("%s: %v", golden, err)
			continue
		}
		if cfg.Value.Format != "debezium" || len(cfg.Kafka.Brokers) == 0 {
			t.Errorf("%s: %+v", golden, cfg)
		}
		if _, err := connectorOptions(cfg, status.New(time.Minute), zerolog.Nop()); err != nil {
			t.Errorf("%s: %v", golden, err)
		}
	}
}

func TestImportRefused(t *testing.T) {
	var stdout, stderr bytes.Buffer
	code := run([]string{"import-debezium", "../../internal/debezium/testdata/refused.json"}, &stdout, &stderr)
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if code != exitUsage || stdout.Len() > 0 || len(lines) < 15 || !strings.HasPrefix(lines[len(lines)-1], "outboxd: the connector's file has ") {
		t.Errorf("exit code %d, stdout %q, stderr:\n%s", code, &stdout, &stderr)
	}
	stderr.Reset()
	if code := run([]string{"import-debezium", "no such file"}, &stdout, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "no such file") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	stderr.Reset()
	if code := run([]string{"import-debezium"}, &stdout, &stderr); code != exitUsage {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}
