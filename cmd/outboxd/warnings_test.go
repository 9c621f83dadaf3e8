package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
)

func TestWarnings(t *testing.T) {
	// Not in memory, where modes say nothing.
	dir, err := os.MkdirTemp(".", "warnings-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open := file("open", "secret", 0o644)
	closed := file("closed", "secret", 0o640)
	const (
		exposed  = "every user of this host can read"
		registry = "the password of the schema registry"
		token    = "the token of the status page"
		plain    = "PLAIN without kafka.tls.enabled sends the password unencrypted"
		bearer   = "OAUTHBEARER without kafka.tls.enabled sends the token unencrypted"
		client   = "the client's secret (kafka.sasl.password) and the token are sent without encryption"
	)
	avro := "kafka: {brokers: [k]}\npostgres: {dsn: host=db}\nvalue: {format: avro, avro: {username: u, password: '${P}', registry: "
	for name, c := range map[string]struct {
		text  string
		mode  os.FileMode
		warns []string
	}{
		"password, 0644":               {"kafka: {brokers: [k]}\npostgres: {dsn: 'postgres://app:secret@db/shop'}", 0o644, []string{exposed}},
		"password as a pair, 0644":     {"kafka: {brokers: [k]}\npostgres: {dsn: 'host=db password=secret'}", 0o644, []string{exposed}},
		"password of Kafka, 0644":      {"kafka: {brokers: [k], sasl: {mechanism: PLAIN, username: u, password: secret}}\npostgres: {dsn: host=db}", 0o644, []string{exposed, plain}},
		"password, 0640":               {"kafka: {brokers: [k]}\npostgres: {dsn: 'postgres://app:secret@db/shop'}", 0o640, nil},
		"no password, 0644":            {"kafka: {brokers: [k]}\npostgres: {dsn: 'postgres://app@db/shop?passfile=x'}", 0o644, nil},
		"password of a variable, 0644": {"kafka: {brokers: [k]}\npostgres: {dsn: 'postgres://app:${P}@db/shop'}", 0o644, nil},
		"password of an open file":     {"kafka: {brokers: [k]}\npostgres: {dsn: 'postgres://app:${file:" + open + "}@db/shop'}", 0o644, []string{exposed}},
		"password of a closed file":    {"kafka: {brokers: [k]}\npostgres: {dsn: 'postgres://app:${file:" + closed + "}@db/shop'}", 0o644, nil},
		"two secrets of one file":      {"kafka: {brokers: [k], sasl: {mechanism: PLAIN, username: u, password: '${file:" + open + "}'}}\npostgres: {dsn: 'postgres://app:${file:" + open + "}@db/shop'}", 0o644, []string{exposed, plain}},
		"PLAIN over TLS":               {"kafka: {brokers: [k], tls: {enabled: true}, sasl: {mechanism: PLAIN, username: u, password: '${P}'}}\npostgres: {dsn: host=db}", 0o644, nil},
		"PLAIN here":                   {"kafka: {brokers: ['127.0.0.1:9092', '[::1]:9092', localhost], sasl: {mechanism: PLAIN, username: u, password: '${P}'}}\npostgres: {dsn: host=db}", 0o644, nil},
		"PLAIN there, too":             {"kafka: {brokers: ['127.0.0.1:9092', '10.0.0.1:9092'], sasl: {mechanism: PLAIN, username: u, password: '${P}'}}\npostgres: {dsn: host=db}", 0o644, []string{plain}},
		"SCRAM":                        {"kafka: {brokers: [k], sasl: {mechanism: SCRAM-SHA-512, username: u, password: '${P}'}}\npostgres: {dsn: host=db}", 0o644, nil},
		"a bearer's token":             {"kafka: {brokers: [k], sasl: {mechanism: OAUTHBEARER, token: '${P}'}}\npostgres: {dsn: host=db}", 0o644, []string{bearer}},
		"tokens over http":             {"kafka: {brokers: [k], tls: {enabled: true}, sasl: {mechanism: OAUTHBEARER, token_url: 'http://idp/token', username: u, password: '${P}'}}\npostgres: {dsn: host=db}", 0o644, []string{client}},
		"tokens over https":            {"kafka: {brokers: [k], tls: {enabled: true}, sasl: {mechanism: OAUTHBEARER, token_url: 'https://idp/token', username: u, password: '${P}'}}\npostgres: {dsn: host=db}", 0o644, nil},
		"registry over http":           {avro + "'http://r:8081'}}", 0o644, []string{registry}},
		"registry over https":          {avro + "'https://r:8081'}}", 0o644, nil},
		"registry's token over http":   {strings.Replace(avro, "username: u, password:", "token:", 1) + "'http://r:8081'}}", 0o644, []string{"the token of the schema registry (value.avro.token) is sent"}},
		"registry's token over https":  {strings.Replace(avro, "username: u, password:", "token:", 1) + "'https://r:8081'}}", 0o644, nil},
		"registry here":                {avro + "'http://localhost:8081'}}", 0o644, nil},
		"token without TLS":            {"kafka: {brokers: [k]}\npostgres: {dsn: host=db}\nhttp: {listen: ':9188', token: '${P}'}", 0o644, []string{token}},
		"token on this host":           {"kafka: {brokers: [k]}\npostgres: {dsn: host=db}\nhttp: {token: '${P}'}", 0o644, nil},
	} {
		cfg, err := config.Load(file("outboxd.yaml", c.text+"\n", c.mode), []string{"P=secret"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var out bytes.Buffer
		warn(cfg, zerolog.New(&out))
		if n := strings.Count(out.String(), "\n"); n != len(c.warns) || strings.Contains(out.String(), `secret"`) {
			t.Errorf("%s: %d lines, want %d:\n%s", name, n, len(c.warns), &out)
		}
		for _, want := range c.warns {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no warning %q:\n%s", name, want, &out)
			}
		}
	}
}
