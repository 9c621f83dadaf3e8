package walheld

import (
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

const mib = 1 << 20

func TestWhy(t *testing.T) {
	since := time.Date(2026, 3, 1, 2, 3, 4, 0, time.UTC)
	writer := &Transaction{PID: "4711", Application: "batch", User: "shop", Database: "shop", State: "idle in transaction", Since: since, Open: 2 * time.Hour}
	tests := []struct {
		name  string
		facts Facts
		want  string
	}{
		{"no slot", Facts{Slot: "outboxd", Missing: true, Oldest: writer}, "no WAL is held: there is no slot \"outboxd\"; `outboxd init` or `outboxd run` make it"},
		{"lost", Facts{Slot: "outboxd", Lost: "wal_removed", Oldest: writer}, `no WAL is held: PostgreSQL has invalidated slot "outboxd" (wal_removed); it cannot be streamed from again`},
		{"idle", Facts{Restart: 1000, Confirmed: 1056, Written: 1056, Active: true}, Nothing},
		{"busy, all well", Facts{Restart: 1, Confirmed: 20 * mib, Written: 21 * mib, Active: true, Oldest: &Transaction{PID: "1", Open: 20 * time.Millisecond}}, Nothing},
		{"nobody streams", Facts{Slot: "out'd", Restart: 1, Confirmed: 1, Written: 2, Inactive: since},
			"nobody streams from the slot since 2026-03-01 02:03:04 UTC; start `outboxd run` (if it stopped by itself, its last line says why), or, if no event waits for it any more, drop the slot: SELECT pg_drop_replication_slot('out''d')"},
		{"nobody streams, and outboxd says why", Facts{Slot: "outboxd", Restart: 1, Confirmed: 1, Written: 2, Waits: "not streaming yet"}, "nobody streams from the slot: not streaming yet"},
		{"Kafka", Facts{Restart: 1, Confirmed: 1, Written: 1000 * mib, Active: true, Waits: "topic \"a\" does not exist", Oldest: writer}, `outboxd waits: topic "a" does not exist`},
		{"Kafka, with events in flight", Facts{Restart: 1, Confirmed: 1, Written: 1000 * mib, Active: true, Waits: "topic \"a\" does not exist", Unacked: since},
			`Kafka acknowledges nothing since 2026-03-01 02:03:04 UTC: topic "a" does not exist`},
		{"Kafka, with events of a topic in flight", Facts{Restart: 1, Confirmed: 1, Written: 1000 * mib, Active: true, Waits: "no broker answers", Unacked: since, Topics: []string{"a"}},
			`Kafka acknowledges nothing on topic "a" since 2026-03-01 02:03:04 UTC: no broker answers`},
		{"Kafka, with events of topics in flight", Facts{Restart: 1, Confirmed: 1, Written: 1000 * mib, Active: true, Waits: "no broker answers", Unacked: since, Topics: []string{"a", "b", "c"}},
			`Kafka acknowledges nothing on topic "a" and 2 more since 2026-03-01 02:03:04 UTC: no broker answers`},
		{"standby slot", Facts{Restart: 1, Confirmed: 1, Written: 9, Active: true, StandbySlot: "s1"},
			`PostgreSQL sends nothing before the standby behind slot "s1" has it (synchronized_standby_slots); start that standby, or take the slot out of the setting`},
		{"rewind", Facts{Restart: 1, Confirmed: 0x10, Written: 0x100000000, Active: true, Rewind: "24h0m0s", Stored: 0x99},
			"delivery.rewind 24h0m0s holds it back on purpose: everything up to 0/99 is delivered"},
		{"rewind that holds nothing back", Facts{Restart: 1, Confirmed: 0x99, Written: 0x99, Active: true, Rewind: "24h0m0s", Stored: 0x99}, Nothing},
		{"rewind, but Kafka is down", Facts{Restart: 1, Confirmed: 1, Written: 9, Active: true, Rewind: "1h", Stored: 5, Waits: "no broker"}, "outboxd waits: no broker"},
		{"decoding", Facts{Restart: 1, Confirmed: 1, Written: 100 * mib, Active: true, Busy: "PostgreSQL decodes"}, "PostgreSQL decodes"},
		{"behind", Facts{Restart: mib, Confirmed: mib, Written: 101 * mib, Active: true}, "outboxd has not delivered it yet: it is 100.0 MiB behind, or inside a large transaction"},
		{"open transaction", Facts{Restart: 1, Confirmed: 900 * mib, Written: 901 * mib, Active: true, Oldest: writer},
			"a transaction is open since 2026-03-01 02:03:04 UTC by pid 4711 (application batch, user shop, database shop, idle in transaction); end it: SELECT pg_terminate_backend(4711)"},
		{"the larger part is named", Facts{Restart: 1, Confirmed: 2 * mib, Written: 900 * mib, Active: true, Oldest: writer}, "outboxd has not delivered it yet: it is 898.0 MiB behind, or inside a large transaction"},
		{"open transaction, nobody streams, more before", Facts{Restart: 1, Confirmed: 900 * mib, Written: 901 * mib, Oldest: &Transaction{Prepared: "a'b", Since: since, Open: time.Minute, Database: "shop", User: "u"}},
			"the prepared transaction 'a''b' since 2026-03-01 02:03:04 UTC (user u, database shop) has not ended; end it: COMMIT PREPARED or ROLLBACK PREPARED 'a''b'"},
		{"a transaction this role may not see", Facts{Restart: 1, Confirmed: 900 * mib, Written: 901 * mib, Active: true, Oldest: &Transaction{PID: "7"}},
			"a transaction is open by pid 7 (since when, this role may not see: grant it pg_read_all_stats); end it: SELECT pg_terminate_backend(7)"},
		{"a transaction this role may not see, and little", Facts{Restart: 1, Confirmed: mib, Written: mib, Active: true, Oldest: &Transaction{PID: "7"}}, Nothing},
		{"a young transaction", Facts{Restart: 1, Confirmed: 900 * mib, Written: 901 * mib, Active: true, Oldest: &Transaction{PID: "7", Open: time.Second}},
			"transactions that were open at 0/1, or a snapshot of them that is not taken yet: 900.0 MiB before the confirmed position; PostgreSQL releases them after its next checkpoint"},
		{"standby", Facts{Restart: 1, Confirmed: 900 * mib, Written: 901 * mib, Active: true, Standby: true},
			"the primary has not logged its running transactions for a while: PostgreSQL keeps WAL until it does; SELECT pg_log_standby_snapshot() on the primary does so at once"},
		{"a small open transaction of long ago", Facts{Restart: 100, Confirmed: 300, Written: 300, Active: true, Oldest: writer},
			"a transaction is open since 2026-03-01 02:03:04 UTC by pid 4711 (application batch, user shop, database shop, idle in transaction); end it: SELECT pg_terminate_backend(4711)"},
		{"only the positions", Facts{}, "nobody streams from the slot; start `outboxd run` (if it stopped by itself, its last line says why), or, if no event waits for it any more, drop the slot: SELECT pg_drop_replication_slot('')"},
	}
	seen := make(map[Cause]bool)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := Why(test.facts)
			if got.Text != test.want {
				t.Errorf("got  %s\nwant %s", got.Text, test.want)
			}
			if !slices.Contains(Causes(), got.Cause) {
				t.Errorf("%q is not among the causes", got.Cause)
			}
			seen[got.Cause] = true
		})
	}
	for _, cause := range Causes() {
		if !seen[cause] {
			t.Errorf("no case has the cause %q", cause)
		}
	}
}

// What only grows is the same reason still; another transaction is another.
func TestSame(t *testing.T) {
	since := time.Date(2026, 3, 1, 2, 3, 4, 0, time.UTC)
	held := func(written int64, pid string, waits string) Reason {
		f := Facts{Restart: 1, Confirmed: pglogrepl.LSN(written) - 8, Written: pglogrepl.LSN(written), Active: true, Waits: waits}
		if pid != "" {
			f.Oldest = &Transaction{PID: pid, Since: since, Open: time.Hour}
		}
		return Why(f)
	}
	behind := func(mibs pglogrepl.LSN) Reason {
		return Why(Facts{Restart: 1, Confirmed: 1, Written: mibs * mib, Active: true})
	}
	for _, test := range []struct {
		name string
		a, b Reason
		want bool
	}{
		{"further behind", behind(100), behind(200), true},
		{"the same transaction, more WAL", held(100*mib, "7", ""), held(200*mib, "7", ""), true},
		{"another transaction", held(100*mib, "7", ""), held(100*mib, "8", ""), false},
		{"a transaction, then none", held(100*mib, "7", ""), behind(100), false},
		{"another fault", held(100*mib, "", "no broker"), held(100*mib, "", "no topic"), false},
	} {
		if got := test.a.Same(test.b); got != test.want {
			t.Errorf("%s: %t: %+v, %+v", test.name, got, test.a, test.b)
		}
	}
}

func TestSplit(t *testing.T) {
	f := Facts{Restart: 100, Confirmed: 150, Written: 400}
	if f.Before() != 50 || f.After() != 250 {
		t.Errorf("%d before, %d after", f.Before(), f.After())
	}
	// Of a slot that is being made nothing is known yet.
	if f := (Facts{Restart: 100, Written: 400}); f.Before() != 0 || f.After() != 0 {
		t.Errorf("%d before, %d after", f.Before(), f.After())
	}
}

// The runbook says what to do about each cause.
func TestRunbookNamesEachCause(t *testing.T) {
	page, err := os.ReadFile("../../docs/runbooks/wal-growing.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, cause := range Causes() {
		if !regexp.MustCompile("(?m)^\\| (`[a-z]+`, )?`" + string(cause) + "`").Match(page) {
			t.Errorf("docs/runbooks/wal-growing.md has no row for %s", cause)
		}
	}
}
