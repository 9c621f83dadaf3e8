package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/deadletter"
	"outboxd/internal/poison"
)

// deadLetters runs the command against a cluster that holds three dead letters: 1 and 3
// can be delivered today, 2 cannot.
func deadLetters(t *testing.T, guarantee string) (command func(args ...string) (code int, out, errs string), cluster *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "outbox.dead-letter", "orders.paid"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for n := 1; n <= 3; n++ {
		id, typ := fmt.Sprint(n), "paid"
		aggregate := []byte("k" + id)
		if n == 2 {
			aggregate = nil
		}
		l := &deadletter.Letter{
			Kind: []poison.Kind{poison.NullKey, poison.TooLarge}[n%2], Reason: "why\x1b[2J", Topic: "orders.paid", Time: time.Now(),
			Position: decoder.Position{CommitLSN: 0x1507C60, Number: uint32(n)},
			Event: deadletter.Event{Slot: "outboxd", Database: "shop", Table: "public.outbox", CommittedAt: time.Now(), ID: &id, Type: &typ, Columns: []deadletter.Column{
				{Name: "id", Type: "int8"}, {Name: "aggregatetype", Type: "text"}, {Name: "aggregateid", Type: "text"}, {Name: "type", Type: "text"}, {Name: "payload", Type: "jsonb"}}},
			Values: [][]byte{[]byte(id), []byte("order"), aggregate, []byte(typ), fmt.Appendf(nil, `{"n": %d}`, n)},
		}
		if err := client.ProduceSync(t.Context(), l.Encode(deadletter.Form{Topic: "outbox.dead-letter", Limit: deadletter.MaxBytes})).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "outboxd.yaml")
	text := fmt.Sprintf("postgres: {dsn: postgres://127.0.0.1:1/shop}\nkafka: {brokers: [%q]}\nroute: {topic: 'orders.{type}'}\ndelivery: {guarantee: %s}\nhttp: {listen: \"\"}\n", c.ListenAddrs()[0], guarantee)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(append([]string{"dead-letters", "--config", file}, args...), &out, &errs)
		return code, out.String(), errs.String()
	}, c
}

const second = "0000000001507C60-00000002"

// An operator sees what was set aside, takes back what can be delivered, and gives up
// the rest. PostgreSQL is not needed.
func TestDeadLettersCommand(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			command, _ := deadLetters(t, guarantee)
			expect := func(code int, says []string, args ...string) {
				t.Helper()
				got, out, errs := command(args...)
				if got != code {
					t.Errorf("%v: exit code %d, want %d: %s%s", args, got, code, out, errs)
				}
				for _, want := range says {
					if !strings.Contains(out+errs, want) {
						t.Errorf("%v: %q is not in\n%s%s", args, want, out, errs)
					}
				}
				if strings.Contains(out, "\x1b") {
					t.Errorf("%v: a row's content reaches the terminal: %q", args, out)
				}
			}
			expect(0, []string{"POSITION", second, "null_key", "orders.paid", "3 unresolved dead letters in topic \"outbox.dead-letter\""})
			expect(0, []string{"1 unresolved dead letter in"}, "list", "--kind", "null_key")
			expect(0, []string{"0 unresolved"}, "list", "--since", "1h", "--until", "30m")
			expect(0, []string{"column aggregateid", "NULL", `{"n": 2}`, "null_key"}, "show", second)
			expect(1, []string{"no dead letter", "outboxd dead-letters list"}, "show", "0000000001507C60-00000009")
			for _, wrong := range [][]string{{"retry"}, {"discard"}, {"show"}, {"show", "x"}, {"list", "--kind", "odd"}, {"list", "--since", "monday"}, {"retry", "x"}, {"list", "x"}} {
				expect(2, []string{"outboxd:"}, wrong...)
			}
			expect(1, []string{"2 events would be retried", second + "  failed", "1 event still cannot be delivered"}, "retry", "--all", "--dry-run")
			expect(0, []string{"3 unresolved"})
			expect(1, []string{"2 events retried", "route.key", "1 event still cannot be delivered"}, "retry", "--all")
			expect(0, []string{"1 unresolved dead letter"})
			expect(0, []string{"1 event would be discarded"}, "discard", "--id", "2", "--dry-run")
			expect(0, []string{"1 event discarded"}, "discard", second)
			expect(0, []string{"0 unresolved"})
			expect(0, []string{"resolved", "discarded"}, "show", second)
		})
	}
}

// Each command that the manual shows is one that an operator can give: none is refused.
func TestDeadLetterCommandsOfTheManual(t *testing.T) {
	found := 0
	for _, page := range []string{"../../docs/dead-letters.md", "../../docs/runbooks/dead-letters.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)^ *outboxd dead-letters(.*)$").FindAllStringSubmatch(string(text), -1) {
			found++
			command, _ := deadLetters(t, "at_least_once")
			args := strings.Fields(m[1])
			code, out, errs := command(args...)
			// The dead letters of the test are not those of the page: some commands find none.
			if code != 0 && !(code == 1 && (strings.Contains(errs, "no dead letter") || strings.Contains(errs, "still cannot be delivered"))) {
				t.Errorf("%s: outboxd dead-letters%s: exit code %d: %s%s", page, m[1], code, out, errs)
			}
		}
	}
	if found < 12 {
		t.Errorf("only %d commands were found", found)
	}
}

// What a program reads is JSON.
func TestDeadLettersJSON(t *testing.T) {
	command, _ := deadLetters(t, "at_least_once")
	read := func(v any, code int, args ...string) {
		t.Helper()
		got, out, errs := command(args...)
		if err := json.Unmarshal([]byte(out), v); err != nil || got != code {
			t.Fatalf("%v: code %d, %v: %s%s", args, got, err, out, errs)
		}
	}
	var all []map[string]any
	read(&all, 0, "--json")
	if len(all) != 3 || all[1]["position"] != second || all[1]["kind"] != "null_key" || all[1]["id"] != "2" || all[1]["aggregate_id"] != nil {
		t.Errorf("%v", all)
	}
	var one map[string]any
	read(&one, 0, "show", second, "--json")
	if row := one["row"].(map[string]any); row["payload"] != `{"n": 2}` || row["aggregateid"] != nil {
		t.Errorf("%v", one)
	}
	for _, args := range [][]string{{"--all", "--json"}, {"list", "--all", "--dry-run", "--json"}, {"--since", "2026-01-01", "--json"}} {
		all = nil
		if read(&all, 0, args...); len(all) != 3 {
			t.Errorf("%v: %v", args, all)
		}
	}
	all = nil
	read(&all, 0, "--json", "--id", "99")
	if all == nil || len(all) != 0 {
		t.Errorf("nothing is %v", all)
	}
	read(&all, 1, "retry", "--all", "--json")
	if len(all) != 3 || all[0]["outcome"] != "retried" || all[1]["outcome"] != "failed" || !strings.Contains(fmt.Sprint(all[1]["error"]), "NULL") {
		t.Errorf("%v", all)
	}
}
