package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// within fails when a command that has to end at once goes on: a configuration that
// cannot work was accepted, and is tried again and again.
func within(t *testing.T, limit time.Duration, command func() outcome) outcome {
	t.Helper()
	done := make(chan outcome, 1)
	go func() { done <- command() }()
	select {
	case o := <-done:
		return o
	case <-time.After(limit):
		t.Fatalf("the command still runs after %s", limit)
		return outcome{}
	}
}

// What is accepted and cannot work would be tried for ever. Each is refused before
// anything connects, with exit code 2, its key and its line.
func TestConfigurationThatCannotWork(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none := filepath.Join(dir, "none.pem")
	noPEM := file("no.pem", "not a certificate")
	noSchema := file("no-schema.json", `{"type": 5}`)
	noJSON := file("no.json", `{`)
	avro := "value:\n  format: avro\n  avro: {registry: 'https://127.0.0.1:1', "
	for _, c := range []struct {
		name, text string
		// key, and its line counted from the text's first.
		key  string
		line int
	}{
		{"linger that the client refuses", "kafka:\n  linger: 2m", "kafka.linger", 2},
		{"linger without end", "kafka: {linger: 106751d}", "kafka.linger", 1},
		{"linger that overflows", "kafka: {linger: 9223372036854775808ns}", "kafka.linger", 1},
		{"negative linger", "kafka: {linger: -1ns}", "kafka.linger", 1},
		{"client id that the client refuses", "kafka: {client_id: " + strings.Repeat("x", 257) + "}", "kafka.client_id", 1},
		{"transactional id that the client refuses", "delivery:\n  guarantee: exactly_once\n  transactional_id: " + strings.Repeat("x", 16383), "delivery.transactional_id", 3},
		{"buffer that holds nothing", "kafka: {max_buffered: 1}", "kafka.max_buffered", 1},
		{"buffer of an overflow", "kafka: {max_buffered: 9223372036854775807TiB}", "kafka.max_buffered", 1},
		{"buffer larger than any machine's", "kafka: {max_buffered: 8000TiB}", "kafka.max_buffered", 1},
		{"negative buffer", "kafka: {max_buffered: -1}", "kafka.max_buffered", 1},
		{"more partitions than 32 bits", "route: {create_topics: {partitions: 4294967297}}", "route.create_topics.partitions", 1},
		{"more partitions than a request may have", "route: {create_topics: {partitions: 10001}}", "route.create_topics.partitions", 1},
		{"no partitions", "route: {create_topics: {partitions: 0}}", "route.create_topics.partitions", 1},
		{"replication factor of 16 bits", "route: {create_topics: {replication_factor: 65537}}", "route.create_topics.replication_factor", 1},
		{"confirmation that never comes", "delivery: {confirm_interval: 3650d}", "delivery.confirm_interval", 1},
		{"confirmation without a pause", "delivery: {confirm_interval: 0s}", "delivery.confirm_interval", 1},
		{"rewind without end", "delivery: {store: kafka, rewind: 106751d}", "delivery.rewind", 1},
		{"rewind of an overflow", "delivery: {store: kafka, rewind: 9223372036854775807}", "delivery.rewind", 1},
		{"negative rewind", "delivery: {store: kafka, rewind: -1s}", "delivery.rewind", 1},
		{"retry without a pause", "errors: {retry: {min: 0s}}", "errors.retry.min", 1},
		{"retry without end", "errors: {retry: {max: 106751d}}", "errors.retry.max", 1},
		{"missing CA", "kafka:\n  tls:\n    enabled: true\n    ca: " + none, "kafka.tls.ca", 4},
		{"CA that is a folder", "kafka:\n  tls: {enabled: true, ca: " + dir + "}", "kafka.tls.ca", 2},
		{"CA without a certificate", "kafka:\n  tls: {enabled: true, ca: " + noPEM + "}", "kafka.tls.ca", 2},
		{"missing certificate", "kafka:\n  tls: {enabled: true, cert: " + none + ", key: " + noPEM + "}", "kafka.tls.cert", 2},
		{"missing key", "kafka:\n  tls: {enabled: true, cert: " + noPEM + ", key: " + none + "}", "kafka.tls.key", 2},
		{"bad certificate", "kafka:\n  tls: {enabled: true, cert: " + noPEM + ", key: " + noPEM + "}", "kafka.tls.cert", 2},
		{"registry's missing CA", avro + "tls: {enabled: true, ca: " + none + "}}", "value.avro.tls.ca", 3},
		{"registry's bad certificate", avro + "tls: {enabled: true, cert: " + noPEM + ", key: " + noPEM + "}}", "value.avro.tls.cert", 3},
		{"registry's port", "value:\n  format: avro\n  avro: {registry: 'http://127.0.0.1:99999'}", "value.avro.registry", 3},
		{"registry without a host", "value:\n  format: avro\n  avro: {registry: 'http://:80'}", "value.avro.registry", 3},
		{"missing schema", "value:\n  schema:\n    paid: " + none, "value.schema.paid", 3},
		{"schema that is none", "value:\n  schema:\n    sent: " + noJSON + "\n    paid: " + noSchema, "value.schema.paid", 4},
		{"schema that is no JSON", "value:\n  schema: {paid: " + noJSON + "}", "value.schema.paid", 2},
		{"page's missing certificate", "http:\n  tls: {cert: " + none + ", key: " + none + "}", "http.tls.cert", 2},
		{"page's bad certificate", "http:\n  tls: {cert: " + noPEM + ", key: " + noPEM + "}", "http.tls.cert", 2},
		{"page's certificate without a key", "http:\n  tls: {cert: " + noPEM + "}", "http.tls.key", 2},
		{"token that no header can hold", "http:\n  token: 'a b'", "http.token", 2},
		{"expression", "route: {regex: {column: c, match: '('}}", "route.regex.match", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.text+"\n")
			t.Setenv("GOGC", "100") // so that the test's own runtime stays as it is
			t.Setenv("GOMEMLIMIT", "off")
			o := within(t, 20*time.Second, func() outcome {
				return outboxdWith(t, []string{"OUTBOXD_POSTGRES_DSN=postgres://app@127.0.0.1:1/shop", "OUTBOXD_KAFKA_BROKERS=127.0.0.1:1", "OUTBOXD_HTTP_LISTEN="},
					"run", "--config", path)
			})
			want := path + ":" + string(rune('0'+c.line)) + ": " + c.key + ": "
			if o.code != exitUsage || !strings.Contains("\n"+o.stderr, "\n"+want) {
				t.Errorf("exit code %d, and no line begins with %s\n%s", o.code, want, o.stderr)
			}
			if last := o.last(t); !strings.Contains(last, "correct it and start again") {
				t.Errorf("the last line is %q", last)
			}
		})
	}
}

// All files that cannot be used are said at once.
func TestAllFilesThatCannotBeUsed(t *testing.T) {
	path := write(t, good+`value:
  schema: {a: /none/a.json, b: /none/b.json}
`+"delivery: {store: slot}\n")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "kafka:\n", "kafka:\n  tls: {enabled: true, ca: /none/ca, cert: /none/cert, key: /none/key}\n", 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	o := within(t, 20*time.Second, func() outcome { return outboxd(t, "run", "--config", path) })
	for _, key := range []string{"value.schema.a", "value.schema.b", "kafka.tls.ca", "kafka.tls.cert", "kafka.tls.key"} {
		if !strings.Contains(o.stderr, ": "+key+": ") {
			t.Errorf("%s is not named:\n%s", key, o.stderr)
		}
	}
	if o.code != exitUsage || !strings.HasPrefix(o.last(t), "outboxd: the configuration has 5 problems") {
		t.Errorf("exit code %d, last line %q", o.code, o.last(t))
	}
	// init prints SQL; it needs none of these files.
	if o := outboxd(t, "init", "--config", path); o.code != 0 {
		t.Errorf("init: exit code %d: %s", o.code, o.stderr)
	}
}
