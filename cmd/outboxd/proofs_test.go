package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// declaredTests are the names of all tests and fuzz targets of the repository.
func declaredTests(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	names := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(source, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Tests that pages name exist, and what a command selects by -run is there.
func TestTestsOfTheManual(t *testing.T) {
	names, found := declaredTests(t), 0
	for path, text := range manual(t) {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(text, -1) {
			found++
			if !names[m[1]] {
				t.Errorf("%s names %s, which does not exist", path, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`go (?:-C e2e )?test \./?[\w/.]* -run ('[^']+'|\w+)`).FindAllStringSubmatch(text, -1) {
			for pattern := range strings.SplitSeq(strings.Trim(m[1], "'"), "|") {
				if pattern == "NAME" {
					continue // says how
				}
				found++
				selects := 0
				for name := range names {
					if strings.Contains(name, pattern) {
						selects++
					}
				}
				if selects == 0 {
					t.Errorf("%s: %s selects no test", path, m[0])
				}
			}
		}
	}
	if found < 80 {
		t.Errorf("only %d tests were found", found)
	}
}

// Every promise of docs/guarantees.md names a test.
func TestEveryGuaranteeNamesItsTest(t *testing.T) {
	page, err := os.ReadFile("../../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	_, promises, _ := strings.Cut(string(page), "\n## At least once\n")
	rows := 0
	for line := range strings.Lines(promises) {
		if !strings.HasPrefix(line, "| ") || strings.HasSuffix(line, "| test |\n") {
			continue
		}
		rows++
		if !strings.Contains(line, "`Test") && !strings.Contains(line, "`Fuzz") {
			t.Errorf("no test holds this: %s", line)
		}
	}
	if rows < 25 {
		t.Errorf("only %d promises were found", rows)
	}
}

// README's table of commands has every command.
func TestCommandsOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(readme), "\n"); lines > 200 {
		t.Errorf("README has %d lines: what is more than 200 belongs on a page of docs/", lines)
	}
	for _, command := range rootCommand(t.Context()).Commands() {
		if name := command.Name(); !command.Hidden && name != "help" && name != "completion" && !strings.Contains(string(readme), "\n| `outboxd "+name) {
			t.Errorf("README's table of commands has no row for outboxd %s: %s", name, command.Short)
		}
	}
}
