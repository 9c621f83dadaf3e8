package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/debezium"
	"outboxd/internal/status"
)

var reference = regexp.MustCompile(`(^|[^$])\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// FuzzImport: what import-debezium prints is a configuration that loads, once its
// variables are set; whatever it cannot honour it refuses itself.
func FuzzImport(f *testing.F) {
	files, err := filepath.Glob("../../internal/debezium/testdata/*.[jp]*")
	if err != nil || len(files) < 3 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	const base = `{"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "plugin.name": "pgoutput", "database.hostname": "db",
		"database.user": "u", "database.dbname": "d", "topic.prefix": "p", "table.include.list": "public.outbox", "transforms": "o",
		"transforms.o.type": "io.debezium.transforms.outbox.EventRouter", "key.converter": "org.apache.kafka.connect.storage.StringConverter",
		"value.converter": "org.apache.kafka.connect.storage.StringConverter"`
	for _, more := range []string{
		`, "slot.name": "\u0000"}`, `, "publication.name": "a\nb"}`, `, "name\nb: c": 1, "poll.interval.ms\nx": 1}`, `, "producer.override.linger.ms": "120000"}`,
		`, "producer.override.client.id": "${env:A}"}`, `, "transforms.o.table.fields.additional.placement": "a:header:b,c:envelope:d,e:partition"}`,
		`, "database.password": "${file:/a:b} 'x'"}`, `, "producer.override.bootstrap.servers": "k:9092,[::1]:1"}`, `, "transforms.o.route.by.field": ""}`,
	} {
		f.Add([]byte(base + more))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		out, err := debezium.Import(file)
		if err != nil {
			return
		}
		text := string(out)
		if strings.Contains(text, "${file:") || strings.Contains(text, "sslrootcert") || strings.Contains(text, "sslcert") || strings.Contains(text, "sslkey") {
			t.Skip("it names files")
		}
		env := []string{"KAFKA_BROKERS=k1"}
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			if m[2] != "KAFKA_BROKERS" {
				env = append(env, m[2]+"=x")
			}
		}
		path := filepath.Join(t.TempDir(), "outboxd.yaml")
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path, env)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if cfg.Kafka.TLS.Enabled {
			return // with files
		}
		if _, err := connectorOptions(cfg, status.New(time.Minute), zerolog.Nop()); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	})
}
