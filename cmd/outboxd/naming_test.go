package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"outboxd/internal/check"
	"outboxd/internal/finding"
	"outboxd/internal/reconcile"
)

// A command that a message tells the user to run works as it stands: it names the
// configuration file that this process was started with.
func TestMessagesNameTheConfiguration(t *testing.T) {
	for _, test := range []struct{ file, text, want string }{
		{"", "see `outboxd recover`", "see `outboxd recover`"},
		{"a.yaml", "see `outboxd recover`", "see `outboxd recover --config a.yaml`"},
		{"/etc/outboxd/a.yaml", "`outboxd run --from-lsn 0/1 --accept-gap` skips, `outboxd recover` does not",
			"`outboxd run --from-lsn 0/1 --accept-gap --config /etc/outboxd/a.yaml` skips, `outboxd recover --config /etc/outboxd/a.yaml` does not"},
		{"it's here.yaml", "`outboxd dead-letters list`", "`outboxd dead-letters list --config 'it'\\''s here.yaml'`"},
		{"a.yaml", "see `outboxd --help` and `outboxd init --help`, `outboxd version`", "see `outboxd --help` and `outboxd init --help`, `outboxd version`"},
		{"a.yaml", "`outboxd run --config b.yaml`", "`outboxd run --config b.yaml`"},
		{"a$1.yaml", "`outboxd run`", "`outboxd run --config 'a$1.yaml'`"},
	} {
		if got := nameConfig(test.text, test.file); got != test.want {
			t.Errorf("%q with %q: %q, want %q", test.text, test.file, got, test.want)
		}
	}
}

// The last line of a command that fails does, whether the file is named by the flag or
// by the environment.
func TestLastLineNamesTheConfiguration(t *testing.T) {
	t.Setenv("OUTBOXD_CONFIG", "")
	root := rootCommand(t.Context())
	if got := configFile(root); got != "" {
		t.Errorf("without a file: %q", got)
	}
	t.Setenv("OUTBOXD_CONFIG", "e.yaml")
	if got := configFile(root); got != "e.yaml" {
		t.Errorf("by the environment: %q", got)
	}
	root.SetArgs([]string{"version", "--config", "f.yaml"})
	root.SetOut(new(bytes.Buffer))
	if err := root.Execute(); err != nil || configFile(root) != "f.yaml" {
		t.Errorf("by the flag: %q, %v", configFile(root), err)
	}
	var stderr bytes.Buffer
	err := named(failed(printResult(new(bytes.Buffer), &reconcile.Result{Mismatches: map[string]int64{reconcile.Missing: 1}}, false, "")), "f.yaml")
	if code := report(err, &stderr); code != 1 || stderr.String() != "outboxd: outbox and Kafka differ; `outboxd reconcile --repair --config f.yaml` publishes what is missing\n" {
		t.Errorf("exit code %d, %s", code, stderr.String())
	}
	if named(nil, "f.yaml") != nil || named(errors.New("x"), "").Error() != "x" {
		t.Error("an error is made up, or changed")
	}
}

// So does what check finds.
func TestFoundCommandsNameTheConfiguration(t *testing.T) {
	report := check.Report{
		Groups:   []check.Group{{Findings: []finding.Finding{{Text: "`outboxd run` makes it", Fix: "create it (`outboxd init` prints the SQL)"}}}},
		Promises: []check.Promise{{Text: "`outboxd replay` can go back", Change: "`outboxd recover` makes a new slot"}},
	}
	nameInReport(report, "f.yaml")
	f, p := report.Groups[0].Findings[0], report.Promises[0]
	for _, text := range []string{f.Text, f.Fix, p.Text, p.Change} {
		if !strings.Contains(text, " --config f.yaml`") {
			t.Errorf("%q does not name it", text)
		}
	}
}
