package main

import (
	"strings"
	"testing"
)

// A word of the DSN that is refused is exit code 2, with key and line, whatever the
// command, and shows nothing of the password.
func TestDSNIsChecked(t *testing.T) {
	path := write(t, good)
	bad := write(t, `postgres:
  dsn: postgres://app:hush-hush@127.0.0.1:1/shop?nonsense=1
kafka:
  brokers: [127.0.0.1:1]
`)
	for _, args := range [][]string{{"run"}, {"replay", "--dry-run"}, {"init"}, {"init", "--apply"}} {
		o := outboxd(t, append(args, "--config", bad)...)
		if o.code != exitUsage || !strings.HasPrefix(o.stderr, bad+":2: postgres.dsn: the value has nonsense") || strings.Contains(o.stderr, "hush-hush") {
			t.Errorf("%v: exit code %d: %s", args, o.code, o.stderr)
		}
	}
	if o := outboxd(t, "init", "--config", path); o.code != 0 {
		t.Errorf("a good one: exit code %d: %s", o.code, o.stderr)
	}
}
