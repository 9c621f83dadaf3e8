package main

import (
	"context"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"outboxd/internal/config"
)

// manual are the README and all pages of docs/, by path.
func manual(t *testing.T) map[string]string {
	t.Helper()
	pages := make(map[string]string)
	for _, pattern := range []string{"../../README.md", "../../docs/*.md", "../../docs/*/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			pages[path] = string(text)
		}
	}
	if len(pages) < 15 {
		t.Fatalf("only %d pages were found", len(pages))
	}
	return pages
}

var (
	fenced  = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// anchors are what links into a page may name: its headings, as GitHub spells them.
func anchors(page string) map[string]bool {
	there := make(map[string]bool)
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		there[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	return there
}

// Every link inside the repository leads to a file, and its anchor to a heading.
func TestLinks(t *testing.T) {
	pages, found := manual(t), 0
	for path, text := range pages {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			file, anchor, named := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			content, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr == nil && info.IsDir() {
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			} else if named && !anchors(string(content))[anchor] {
				t.Errorf("%s: %s: there is no such heading", path, m[1])
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d links were found", found)
	}
}

// Commands that pages name exist, and have the flags that they are given.
func TestCommandsOfTheManual(t *testing.T) {
	root, found := rootCommand(context.Background()), 0
	root.InitDefaultCompletionCmd() // as running it does
	for path, text := range manual(t) {
		for _, m := range regexp.MustCompile("(?m)(?:`|^ *|\\| |… )(?:outboxd|bin/outboxd) ([a-z][a-z-]*)([^`\n|]*)").FindAllStringSubmatch(text, -1) {
			line, _, _ := strings.Cut(m[2], "#")
			command, _, err := root.Find(append([]string{m[1]}, strings.Fields(line)...))
			if err != nil || command == root {
				if strings.HasPrefix(m[0], "`") {
					t.Errorf("%s: %q: there is no such command", path, m[0])
				}
				continue // a sentence
			}
			found++
			for _, flag := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(line, -1) {
				if command.Flags().Lookup(flag[1]) == nil && command.InheritedFlags().Lookup(flag[1]) == nil {
					t.Errorf("%s: %q: there is no --%s", path, m[0], flag[1])
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d commands were found", found)
	}
}

// Keys that pages name in code are keys of the annotated example.
func TestKeysOfTheManual(t *testing.T) {
	example, err := os.ReadFile("../../internal/config/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	keys, path := make(map[string]bool), []string(nil)
	for line := range strings.Lines(string(example)) {
		if m := regexp.MustCompile(`^( *)([a-z_]+):`).FindStringSubmatch(line); m != nil {
			path = append(path[:len(m[1])/2], m[2])
			keys[strings.Join(path, ".")] = true
		}
	}
	found := 0
	for page, text := range manual(t) {
		for _, m := range regexp.MustCompile("`(postgres|outbox|route|value|kafka|delivery|errors|retention|reconcile|http|monitor|tuning|log)(\\.[a-z_.]+[a-z])").FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(m[2], ".event") {
				continue // a topic
			}
			found++
			if key := m[1] + m[2]; !keys[key] && !others[key] {
				t.Errorf("%s: there is no key %s", page, key)
			}
		}
	}
	if found < 80 {
		t.Errorf("only %d keys were found", found)
	}
}

// others look like keys, and are Debezium's, Kafka's, and how a topic begins.
var others = map[string]bool{"route.topic.regex": true, "retention.ms": true, "outbox.dead": true}

// The configurations that pages show are accepted.
func TestConfigurationsOfTheManual(t *testing.T) {
	dir, found := t.TempDir(), 0
	for path, text := range manual(t) {
		for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
			found++
			block := m[1]
			secret := filepath.Join(dir, "secret")
			if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			block = regexp.MustCompile(`\$\{file:[^}]*\}`).ReplaceAllString(block, "${file:"+secret+"}")
			for section, rest := range map[string]string{"postgres": "{dsn: postgres://localhost/shop}", "kafka": "{brokers: [localhost]}"} {
				if !strings.Contains(block, section+":\n") {
					block += section + ": " + rest + "\n"
				}
			}
			file := filepath.Join(dir, "outboxd.yaml")
			if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(file, nil); err != nil {
				t.Errorf("%s:\n%s\n%v", path, block, err)
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d configurations were found", found)
	}
}

// Python compiles the Python of the manual. Java is compiled with its libraries by e2e's
// TestJavaOfTheManual.
func TestPythonOfTheManual(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing: apt-get install python3")
	}
	found := 0
	for path, text := range manual(t) {
		for _, m := range regexp.MustCompile("(?ms)^```python\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
			found++
			c := exec.CommandContext(t.Context(), python, "-W", "error", "-c", "import sys; compile(sys.stdin.read(), 'manual', 'exec')")
			c.Stdin = strings.NewReader(m[1])
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", path, err, out, m[1])
			}
		}
	}
	if found < 7 {
		t.Errorf("only %d pieces of Python were found", found)
	}
}

// The Go of the manual is Go.
func TestGoOfTheManual(t *testing.T) {
	found := 0
	for path, text := range manual(t) {
		for _, m := range regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
			found++
			if _, err := format.Source([]byte(m[1])); err != nil {
				t.Errorf("%s: %v\n%s", path, err, m[1])
			}
		}
	}
	if found < 2 {
		t.Errorf("only %d pieces of Go were found", found)
	}
}
