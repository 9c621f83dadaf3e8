// Command plants shows that the simulator bites: it plants known mistakes into the
// program, one at a time and in a copy, and says after how many seeds each is found.
// Run it with `make simulate-plants`.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// plant is a mistake: each text that is replaced stands once in its file.
type plant struct {
	name  string
	edits []edit
}

type edit struct{ file, old, new string }

func main() {
	seeds := flag.Int("seeds", 20_000, "how many seeds a mistake is looked for in")
	first := flag.Uint64("seed", 1, "the first of them")
	only := flag.String("only", "", "a part of the mistake's name")
	limit := flag.Duration("limit", 10*time.Minute, "for how long a mistake is looked for")
	flag.Parse()
	failed := false
	for _, p := range plants {
		if !strings.Contains(p.name, *only) {
			continue
		}
		n, how, err := try(p, *first, *seeds, *limit)
		switch {
		case err != nil:
			fmt.Printf("%-70s %v\n", p.name, err)
			failed = true
		case n == 0:
			fmt.Printf("%-70s not found in %s seeds\n", p.name, how)
			failed = true
		default:
			fmt.Printf("%-70s after %6d seeds: %s\n", p.name, n, how)
		}
	}
	if failed {
		os.Exit(1)
	}
}

// found is the line by which the simulator names the seed that failed.
var found = regexp.MustCompile(`seed (\d+): (.*)`)

var ran = regexp.MustCompile(`(\d+) seeds in .* processor time`)

// try runs the simulator with a mistake planted, and returns after how many seeds it
// failed, and how; or 0 and how many seeds there were.
func try(p plant, first uint64, seeds int, limit time.Duration) (after int, how string, err error) {
	dir, err := os.MkdirTemp("", "plant")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	overlay, err := p.overlay(dir)
	if err != nil {
		return 0, "", err
	}
	binary := filepath.Join(dir, "simulate.test")
	build := exec.Command("go", "test", "-tags", "synctests", "-c", "-overlay", overlay, "-o", binary, "./internal/simulate")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, "", fmt.Errorf("build: %w\n%s", err, out)
	}
	run := exec.Command(binary, "-test.run", "^TestSeeds$", "-for", limit.String(),
		"-seed", strconv.FormatUint(first, 10), "-seeds", strconv.Itoa(seeds))
	out, err := run.CombinedOutput()
	if exit := new(exec.ExitError); err == nil || !errors.As(err, &exit) {
		if m := ran.FindSubmatch(out); m != nil && err == nil {
			return 0, string(m[1]), nil
		}
		return 0, "", err
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if m := found.FindStringSubmatch(lines.Text()); m != nil {
			seed, err := strconv.ParseUint(m[1], 10, 64)
			return int(seed - first + 1), m[2], err
		}
		if strings.HasPrefix(lines.Text(), "panic: ") {
			return 1, lines.Text(), nil
		}
	}
	return 0, "", fmt.Errorf("the simulator failed without naming a seed:\n%s", out)
}

// overlay writes the files with the mistake, and what tells the compiler to take them
// in place of the others.
func (p plant) overlay(dir string) (string, error) {
	changed := make(map[string]string) // content, by file
	for _, e := range p.edits {
		text, ok := changed[e.file]
		if !ok {
			b, err := os.ReadFile(e.file)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("%s has this text %d times, and not once; adapt the plant:\n%s", e.file, n, e.old)
		}
		changed[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := make(map[string]string)
	for file, text := range changed {
		path, err := filepath.Abs(file)
		if err != nil {
			return "", err
		}
		planted := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(planted, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = planted
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, data, 0o600)
}
