package main

import (
	"strings"
	"testing"

	"outboxd/internal/config"
)

// config shows what is in force and where it comes from, and no secret; what it
// prints loads, but runs nothing until the secrets are put back.
func TestConfigCommand(t *testing.T) {
	path := write(t, good+"kafka_: 1\n")
	if o := outboxd(t, "config", "--config", path); o.code != exitUsage || o.stdout != "" {
		t.Errorf("a bad file: %+v", o)
	}
	path = write(t, strings.Replace(good, "kafka:\n", "kafka:\n  sasl: {mechanism: PLAIN, username: app, password: '${KAFKA_PASSWORD}'}\n", 1))
	o := outboxdWith(t, []string{"KAFKA_PASSWORD=hush-hush-2", "OUTBOXD_LOG_LEVEL=debug", "OUTBOXD_HTTP_TOKEN=hush-hush-3"}, "config", "--config", path)
	if o.code != 0 || o.stderr != "" {
		t.Fatalf("%+v", o)
	}
	for _, want := range []string{
		"dsn: postgres://app@127.0.0.1:1/shop  # password hidden; file " + path + " line 2\n",
		"slot: outboxd  # default\n", "level: debug  # environment OUTBOXD_LOG_LEVEL\n",
		"password: " + config.Placeholder + "  # hidden; file " + path + " line 4: ${KAFKA_PASSWORD}\n",
		"token: " + config.Placeholder + "  # hidden; environment OUTBOXD_HTTP_TOKEN\n",
	} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %s in:\n%s", want, o.stdout)
		}
	}
	if strings.Contains(o.stdout, "hush") {
		t.Errorf("a secret shows:\n%s", o.stdout)
	}
	printed := write(t, o.stdout)
	if o := outboxd(t, "config", "--config", printed); o.code != 0 {
		t.Errorf("what was printed does not load: %s", o.stderr)
	}
	for _, args := range [][]string{{"run"}, {"replay"}} {
		o := outboxd(t, append(args, "--config", printed)...)
		if o.code != exitUsage || !strings.Contains(o.stderr, "kafka.sasl.password: the value is what `outboxd config` prints") || !strings.Contains(o.stderr, "http.token: ") {
			t.Errorf("%v: exit code %d: %s", args, o.code, o.stderr)
		}
	}
}

// The example needs no configuration, and is one.
func TestConfigExample(t *testing.T) {
	t.Chdir(t.TempDir())
	o := outboxd(t, "config", "--example")
	if o.code != 0 || o.stdout != string(config.Example) {
		t.Fatalf("exit code %d, %s%s", o.code, o.stdout, o.stderr)
	}
	if o := outboxd(t, "config", "--config", write(t, o.stdout)); o.code != 0 {
		t.Error(o.stderr)
	}
}
