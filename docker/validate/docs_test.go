package validate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"outboxd/internal/testbed"
)

// pages are what docs/ says of packaging and operation.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, path := range append(paths, "../../docs/install.md") {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(content)
	}
	return all
}

var codeBlock = regexp.MustCompile("(?ms)^ *```(.*?)\n(.*?)^ *```$")

// elsewhere are the programs whose commands cannot be run here: they need an engine, or
// change the host.
var elsewhere = regexp.MustCompile(`^(docker|kubectl|helm|systemctl|install) `)

// deadLetter are the commands that are about a dead letter.
var deadLetter = regexp.MustCompile(`outboxd dead-letters (retry|discard|show)`)

// checkCommands runs every command of the pages beside a running connector. A block
// marked untested has only commands that need a container engine or a cluster.
func checkCommands(t *testing.T, c *container, postgres *testbed.Postgres, broker, collector, address string) {
	dir := t.TempDir()
	dsn := filepath.Join(dir, "dsn")
	programs := filepath.Join(dir, "programs")
	for path, content := range map[string]string{
		dsn:                                postgres.DSN("shop"),
		filepath.Join(dir, "outboxd.yaml"): strings.ReplaceAll(read(t, "outboxd.yaml"), "/run/secrets/dsn", dsn),
		filepath.Join(programs, "outboxd"): fmt.Sprintf("#!/bin/sh\nexec %q \"$@\"\n", filepath.Join(c.root, "outboxd")),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ran := map[string]int{}
	for path, text := range pages(t) {
		for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
			language, code := block[1], block[2]
			ran[language]++
			switch language {
			case "sql":
				for statement := range strings.SplitSeq(code, ";\n") {
					if strings.TrimSpace(statement) == "" {
						continue
					}
					if err := postgres.Exec(t.Context(), "shop", statement); err != nil {
						t.Errorf("%s: %s: %v", path, statement, err)
					}
				}
			case "sh":
				code = strings.ReplaceAll(code, "localhost:9188", address)
				// The image is made, for one architecture, by a test of its own.
				code = strings.ReplaceAll(code, "make image", "make --dry-run image")
				code = strings.ReplaceAll(code, "make release", "make --dry-run release")
				if deadLetter.MatchString(code) {
					continue // there is none here; cmd/outboxd's TestDeadLetterCommandsOfTheManual runs them
				}
				cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", code)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), "OUTBOXD_KAFKA_BROKERS="+broker, "OUTBOXD_MONITOR_TRACE_ENDPOINT="+collector, "PATH="+programs+":"+os.Getenv("PATH"))
				if strings.HasPrefix(code, "make ") {
					cmd.Dir = "../.."
				}
				if out, err := cmd.CombinedOutput(); err != nil || len(out) == 0 {
					t.Errorf("%s: %s: %v\n%s", path, code, err, out)
				}
			case "sh untested":
				for line := range strings.Lines(code) {
					if !strings.HasPrefix(line, " ") && !elsewhere.MatchString(line) {
						t.Errorf("%s: %q can be run here", path, line)
					}
				}
			default:
				t.Errorf("%s: nothing is known of blocks of %q", path, language)
			}
		}
	}
	if ran["sql"] < 8 || ran["sh"] < 8 {
		t.Errorf("only %v blocks were found", ran)
	}

	// Commands inside sentences: there is such a command, and it has such flags.
	command := regexp.MustCompile("`outboxd ([a-z-]+)([^`]*)`")
	found := 0
	for path, text := range pages(t) {
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			found++
			out, err := exec.CommandContext(t.Context(), filepath.Join(c.root, "outboxd"), m[1], "--help").CombinedOutput()
			if err != nil {
				t.Errorf("%s: %s: %v", path, m[0], err)
			}
			for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(m[2], -1) {
				if !strings.Contains(string(out), flag+" ") && !strings.Contains(string(out), flag+"\n") {
					t.Errorf("%s: %s: there is no %s", path, m[0], flag)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no command of outboxd was found in a sentence")
	}
}

// Links lead somewhere, and keys of the configuration that pages name exist.
func TestPages(t *testing.T) {
	keys := keysOf(t)
	for path, text := range pages(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		for _, m := range regexp.MustCompile("`(postgres|outbox|route|value|kafka|delivery|errors|http|log)(\\.[a-z_.]+)").FindAllStringSubmatch(text, -1) {
			if !keys[m[1]+m[2]] {
				t.Errorf("%s: there is no key %s", path, m[1]+m[2])
			}
		}
	}
}

// keysOf returns the keys of the annotated example, groups included.
func keysOf(t *testing.T) map[string]bool {
	t.Helper()
	keys := make(map[string]bool)
	var path []string
	for line := range strings.Lines(read(t, "../internal/config/example.yaml")) {
		m := regexp.MustCompile(`^( *)([a-z_]+):`).FindStringSubmatch(line)
		if m == nil {
			continue
		}
		path = append(path[:len(m[1])/2], m[2])
		keys[strings.Join(path, ".")] = true
	}
	if !keys["postgres.dsn"] || !keys["route.create_topics.enabled"] {
		t.Fatal("the example's keys were not found")
	}
	return keys
}
