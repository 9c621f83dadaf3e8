// Package arrows holds the test that keeps the program's shape: which package
// may import which. Data flows replication, decoder, router, sink; no stage
// knows its follower, so that each can be read, tested and replaced alone.
package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "outboxd/"

// room is what a package may import of ours, and why not more.
type room struct {
	may    []string
	reason string
}

// rooms lists the packages of the program. One without a row fails the test: say
// what it may import before it imports something.
var rooms = map[string]room{
	"decoder": {nil, "the decoder is pure: it turns bytes into events and knows nobody"},
	"router":  {[]string{"decoder"}, "the router is a function of event and rules; where messages go to is the sink's matter"},
	"sink":    {[]string{"decoder", "router", "internal/rawconn"}, "the sink answers for each message and knows neither positions nor PostgreSQL"},
	"offsets": {nil, "what is safe to confirm is decided in one place, which depends on nothing that could ask it to confirm more"},

	"internal/replication": {[]string{"offsets", "internal/rawconn"}, "the replication connection knows bytes and positions, not events; it takes a Confirmed and cannot make one"},
	"internal/backfill":    {[]string{"internal/replication"}, "the backfill reads rows into the memory of the stream's frames; what becomes of them is the pipeline's matter"},
	"internal/positions":   {[]string{"offsets"}, "a store holds a position and does not judge it; what is in a transaction with it is the sink's matter"},
	"internal/pipeline": {[]string{"decoder", "router", "sink", "offsets", "internal/positions", "internal/replication", "internal/backfill", "internal/status"},
		"the pipeline joins the stages; what the user configured is handed to it"},
	"internal/config":   {nil, "the configuration is read without the stages; cmd turns it into their options"},
	"internal/debezium": {nil, "it turns one file into another; what comes out is read like any configuration"},
	"internal/status":   {nil, "the stages report to status; it never reaches back"},
	"internal/arrows":   {nil, "it is a test"},
	rawconn:             {nil, "it is a socket: what goes through it is others' matter"},

	"internal/testbed": {nil, "servers for tests: it knows nothing of the program"},
	"cmd/outboxd": {[]string{"decoder", "router", "sink", "offsets", "internal/positions", "internal/replication", "internal/pipeline", "internal/config", "internal/debezium", "internal/status"},
		"the program has no use for the tests' servers"},
}

// rawconn alone may import unsafe, without which no system call takes a buffer. It has
// no position in its reach.
const rawconn = "internal/rawconn"

// e2e may import the tests' servers and nothing else of ours: it drives the
// binary as a user does.
const e2e = "e2e"

var e2eRoom = room{[]string{"internal/testbed"}, "e2e drives the built binary from outside, so that it proves what users get"}

// folders are the top level: the owner's list, internal, and what a build makes.
var folders = []string{"bin", "cmd", "decoder", "docker", "e2e", "internal", "offsets", "router", "sink"}

type listed struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func packages(t *testing.T) (ours []listed) {
	t.Helper()
	// go test remembers a result until a file changes that the test itself has
	// looked at; go list's own looking does not count.
	if err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Standard", "./...")
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ours
		} else if err != nil {
			t.Fatal(err)
		}
		if !p.Standard && strings.HasPrefix(p.ImportPath, module) {
			ours = append(ours, p)
		}
	}
}

// wrong returns what is wrong with the imports of one package.
func wrong(p listed) (problems []string) {
	name := strings.TrimPrefix(p.ImportPath, module)
	r, ok := rooms[name]
	inE2E := name == e2e || strings.HasPrefix(name, e2e+"/")
	if inE2E {
		r, ok = e2eRoom, true
	}
	if !ok {
		return []string{name + " has no row in this test's table; add one with what it may import, and why not more"}
	}
	for _, imported := range p.Imports {
		if imported == "unsafe" && name != rawconn {
			problems = append(problems, name+" imports unsafe: with it a confirmed position could be forged")
		}
		to, isOurs := strings.CutPrefix(imported, module)
		switch {
		case !isOurs || slices.Contains(r.may, to):
		case inE2E && strings.HasPrefix(to, e2e+"/"):
		case strings.HasPrefix(to, "cmd/"):
			problems = append(problems, name+" imports "+to+": commands are the outermost layer, nothing imports them")
		default:
			problems = append(problems, name+" imports "+to+": "+r.reason)
		}
	}
	return problems
}

func TestArrows(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range packages(t) {
		seen[strings.TrimPrefix(p.ImportPath, module)] = true
		for _, problem := range wrong(p) {
			t.Error(problem)
		}
	}
	for name := range rooms {
		if !seen[name] {
			t.Errorf("the table has a row for %s, which does not exist", name)
		}
	}
}

// Names that say nothing about what is inside are no packages.
func TestNoEmptyNames(t *testing.T) {
	for _, p := range packages(t) {
		switch path.Base(p.ImportPath) {
		case "util", "utils", "common", "helpers", "helper", "misc", "shared", "pkg":
			t.Errorf("%s: call a package by what it is for", p.ImportPath)
		}
	}
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		// Tools keep their own folders under names with a dot.
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(folders, e.Name()) {
			t.Errorf("top-level folder %s: put it into one of %s", e.Name(), strings.Join(folders, ", "))
		}
	}
}

// The rules are seen to bite.
func TestWrongArrowsAreSeen(t *testing.T) {
	tests := []struct {
		from, to string
		reason   string // "" if allowed
	}{
		{"router", "decoder", ""},
		{"decoder", "router", "pure"},
		{"router", "sink", "the sink's matter"},
		{"offsets", "sink", "depends on nothing"},
		{"internal/replication", "offsets", ""},
		{"internal/replication", "decoder", "not events"},
		{"internal/config", "cmd/outboxd", "outermost"},
		{"internal/status", "internal/pipeline", "never reaches back"},
		{"cmd/outboxd", "internal/testbed", "tests' servers"},
		{"e2e", "internal/testbed", ""},
		{"e2e/bench", "e2e/bench/debezium", ""},
		{"e2e/bench", "sink", "from outside"},
		{"internal/unheard", "offsets", "no row"},
	}
	for _, test := range tests {
		got := strings.Join(wrong(listed{ImportPath: module + test.from, Imports: []string{"fmt", module + test.to}}), "\n")
		if test.reason == "" && got != "" || !strings.Contains(got, test.reason) {
			t.Errorf("%s imports %s: %q, want %q", test.from, test.to, got, test.reason)
		}
	}
}
