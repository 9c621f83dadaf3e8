package main

import (
	"strings"
	"testing"
)

// Without a configuration init prints the SQL for the defaults; of a file it needs
// nothing of Kafka, nor the DSN unless it is to connect.
func TestInitNeedsLittle(t *testing.T) {
	t.Chdir(t.TempDir())
	o := outboxd(t, "init")
	if o.code != 0 || o.stderr != "" || !strings.Contains(o.stdout, `CREATE TABLE IF NOT EXISTS "public"."outbox"`) {
		t.Fatalf("without a file: %+v", o)
	}
	if want := outboxd(t, "init", "--config", write(t, good)); o != want {
		t.Errorf("the defaults' SQL is not that of a file with the defaults:\n%s\n%s", o.stdout, want.stdout)
	}
	for _, text := range []string{
		"postgres: {slot: orders}\n",
		"postgres: {slot: orders, dsn: '${NOT_SET}'}\nkafka: {brokers: '${NOT_SET}', sasl: {mechanism: PLAIN, username: a, password: '${file:/not/there}'}}\nhttp: {token: '${NOT_SET}'}\n",
	} {
		o := outboxd(t, "init", "--config", write(t, text))
		if o.code != 0 || !strings.Contains(o.stdout, `pg_create_logical_replication_slot('orders', 'pgoutput'`) {
			t.Errorf("%s: %+v", text, o)
		}
	}

	o = outboxd(t, "init", "--apply")
	if o.code != exitUsage || !strings.Contains(o.stderr, "OUTBOXD_POSTGRES_DSN") || strings.Contains(o.stderr, "KAFKA") {
		t.Errorf("--apply without a DSN: exit code %d: %s", o.code, o.stderr)
	}
	// Nobody listens on port 1.
	o = outboxdWith(t, []string{"OUTBOXD_POSTGRES_DSN=postgres://app@127.0.0.1:1/shop"}, "init", "--apply")
	if last := o.last(t); o.code != exitFailed || !strings.HasPrefix(last, "outboxd: connect to PostgreSQL: ") {
		t.Errorf("--apply with a DSN: exit code %d: %s", o.code, o.stderr)
	}
}

func TestInitHelp(t *testing.T) {
	o := outboxd(t, "init", "--help")
	for _, want := range []string{"as a superuser", `\password outboxd`, "PostgreSQL retains all WAL", "outboxd init | psql"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("the help does not say %q", want)
		}
	}
}
