package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"outboxd/offsets"
)

// An error of a command's work is told apart by what the operator can do.
func TestExitCodes(t *testing.T) {
	refused := &offsets.RefusedError{Reason: offsets.ErrSlotGone, Detail: "slot\n\"outboxd\"", Hint: "use --accept-gap"}
	tests := []struct {
		err  error
		code int
		last string
	}{
		{nil, 0, ""},
		{failed(nil), 0, ""},
		{failed(errors.New("poison event")), 1, "outboxd: poison event\n"},
		{failed(fmt.Errorf("one\n\ttwo\r\n  three ")), 1, "outboxd: one two three\n"}, // supervisors show one line
		{failed(fmt.Errorf("start: %w", refused)), 3, "outboxd: start: position refused: the replication slot is gone: slot \"outboxd\"; use --accept-gap\n"},
		{errors.New("unknown flag"), 2, "outboxd: unknown flag; see `outboxd --help`\n"},
	}
	for _, test := range tests {
		var stderr bytes.Buffer
		if code := report(test.err, &stderr); code != test.code || stderr.String() != test.last {
			t.Errorf("%v: exit code %d, stderr %q; want %d, %q", test.err, code, stderr.String(), test.code, test.last)
		}
	}
}

// What is wrong on this machine ends `run` before it reaches for a server.
func TestRunEndsBeforeItStreams(t *testing.T) {
	occupied, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer occupied.Close()
	stored := filepath.Join(t.TempDir(), "position.json")
	if err := os.WriteFile(stored, []byte("this is no position"), 0o600); err != nil {
		t.Fatal(err)
	}
	const servers = "postgres: {dsn: \"postgres://app:hush-hush@127.0.0.1:1/shop\"}\nkafka: {brokers: [\"127.0.0.1:1\"]}\n"
	tests := []struct {
		name, config string
		code         int
		says         []string
	}{
		{"occupied address", fmt.Sprintf("http: {listen: %q}\n", occupied.Addr()), 1, []string{"http.listen", occupied.Addr().String(), "another address"}},
		{"stored position that cannot be read", fmt.Sprintf("http: {listen: \"\"}\ndelivery: {store: file, file: %q}\n", stored), 1, []string{"read stored position", stored}},
		{"feature that is not built", "http: {listen: \"\"}\nscale: {shards: 2}\n", 2, []string{"scale.shards", "1 problem"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "outboxd.yaml")
			if err := os.WriteFile(path, []byte(servers+test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			if code := run([]string{"run", "--config", path}, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, part := range test.says {
				if !strings.Contains(stderr.String(), part) {
					t.Errorf("stderr does not say %q:\n%s", part, stderr.String())
				}
			}
			if strings.Contains(stderr.String(), "hush-hush") {
				t.Errorf("the password is on stderr:\n%s", stderr.String())
			}
		})
	}
}

func TestVersionOfARelease(t *testing.T) {
	defer func(v, c string) { version, commit = v, c }(version, commit)
	version, commit = "1.2.3", "abc1234"
	var stdout, stderr bytes.Buffer
	code := run([]string{"version"}, &stdout, &stderr)
	if want := "outboxd 1.2.3 commit abc1234 " + runtime.Version() + "\n"; code != 0 || stdout.String() != want || stderr.Len() > 0 {
		t.Errorf("exit code %d, stdout %q, stderr %q; want %q", code, stdout.String(), stderr.String(), want)
	}
}
