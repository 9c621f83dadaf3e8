// Package arrows holds the test that keeps the program's shape: which package
// may import which. Data flows replication, decoder, router, format, sink; no stage
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
	"regexp"
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

const aFormat = "a format is one folder: it knows what formats have in common, and neither another one nor where records go"

// rooms lists the packages of the program. One without a row fails the test: say
// what it may import before it imports something.
var rooms = map[string]room{
	"decoder": {[]string{"internal/event", "internal/poison"}, "the decoder is pure: it turns bytes into events and knows nobody"},
	"router":  {[]string{"decoder", "internal/poison", "internal/record", "internal/template", "internal/topicname"}, "the router is a function of event and rules; where records go to is the sink's matter"},
	"sink":    {[]string{"decoder", "internal/poison", "internal/event", "internal/record", "internal/topicname", "internal/rawconn", "internal/tlsdial", "internal/remedy", "internal/finding", "internal/uptime"}, "the sink answers for each record and knows neither its format, nor positions, nor PostgreSQL"},
	"offsets": {[]string{"internal/event"}, "what is safe to confirm is decided in one place, which depends on nothing that could ask it to confirm more"},

	"internal/event":     {nil, "it names an event, and whoever meets one imports it"},
	"internal/template":  {nil, "it reads a text, whosever it is"},
	"internal/topicname": {nil, "it is Kafka's rule"},
	"internal/record":    {[]string{"internal/event"}, "it is what the router, formats and the sink hand on, and knows none of them"},

	"internal/format":             {[]string{"decoder", "internal/poison", "internal/record", "internal/mask"}, "it is what formats have in common, and knows none of them"},
	"internal/format/json":        {[]string{"decoder", "internal/format", "internal/record"}, aFormat},
	"internal/format/cloudevents": {[]string{"decoder", "internal/poison", "internal/format", "internal/record"}, aFormat},
	"internal/format/avro":        {[]string{"decoder", "internal/poison", "internal/format", "internal/record", "internal/template", "internal/tlsdial", "internal/finding", "internal/remedy"}, aFormat},
	"internal/format/debezium":    {[]string{"decoder", "internal/format", "internal/record"}, aFormat},
	"internal/format/formattest":  {[]string{"decoder", "internal/format", "internal/record"}, "it is for the tests of formats"},

	"internal/uptime":      {nil, "it is a clock"},
	"internal/pace":        {nil, "it counts what others do"},
	"internal/finding":     {nil, "it is the word that those who judge a set-up have in common"},
	"internal/memory":      {nil, "it counts bytes; whose they are is said by those who add them"},
	"internal/replication": {[]string{"offsets", "internal/memory", "internal/rawconn", "internal/finding", "internal/walheld", "internal/uptime"}, "the replication connection knows bytes and positions, not events; it takes a Confirmed and cannot make one"},
	"internal/flow":        {[]string{"decoder", "internal/record", "sink", "offsets", "internal/poison"}, "the flow is the way of one event, whoever yields it: it knows no connection, no store and no guarantee"},
	"internal/guarantee":   {[]string{"decoder", "sink", "offsets"}, "a guarantee says when a position counts; it knows neither PostgreSQL nor how events are made"},
	"internal/backfill":    {[]string{"decoder", "sink", "internal/flow", "internal/replication"}, "the backfill yields rows in the memory of the stream's frames; what becomes of them is the flow's matter"},
	"internal/replay":      {[]string{"sink", "internal/flow", "internal/replication"}, "a replay yields a window of the WAL; what becomes of it is the flow's matter"},
	"internal/poison":      {nil, "it is the word that those who find a bad event have in common"},
	"internal/records":     {nil, "it reads a topic; what its records mean is others' matter"},
	"internal/deadletter":  {[]string{"decoder", "router", "sink", "internal/record", "internal/format", "internal/poison", "internal/records", "internal/remedy"}, "a dead letter is a record and its event; the run that sets events aside hands them to it"},
	"internal/table":       {[]string{"decoder", "internal/format", "internal/replication"}, "it reads rows as the events that the stream made of them; what becomes of them is others' matter"},
	"internal/reconcile": {[]string{"decoder", "router", "internal/format", "internal/pace", "internal/record", "internal/records", "offsets", "internal/replication", "internal/table", "internal/remedy"},
		"a comparison reads both sides by other means than the connector's, and shares only what says what a row should have become"},
	"internal/republish": {[]string{"decoder", "router", "internal/format", "internal/pace", "internal/record", "sink", "internal/replication", "internal/table"}, "it publishes rows and touches no slot, publication or position"},
	"internal/recovery": {[]string{"offsets", "internal/positions", "internal/replication", "internal/table", "internal/reconcile", "internal/republish"},
		"it puts together what others do: a snapshot, a comparison, publishing, a position"},
	"internal/positions": {[]string{"offsets", "internal/remedy", "internal/records"}, "a store holds a position and does not judge it; what is in a transaction with it is the sink's matter"},
	"internal/connector": {[]string{"decoder", "router", "internal/format", "sink", "offsets", "internal/positions", "internal/replication", "internal/flow", "internal/guarantee", "internal/backfill", "internal/replay", "internal/status", "internal/walheld", "internal/record", "internal/deadletter", "internal/uptime"},
		"the connector joins the stages and runs them; what the user configured is handed to it"},
	"internal/check": {[]string{"sink", "offsets", "internal/deadletter", "internal/finding", "internal/positions", "internal/records", "internal/replication", "internal/remedy", "internal/retention"},
		"a check asks those who start, and judges nothing that they judge"},
	"internal/config": {[]string{"internal/template", "internal/topicname"}, "the configuration is read without the stages; cmd turns it into their options"},
	"internal/retention": {[]string{"internal/finding", "internal/replication", "internal/status"},
		"retention is told what is delivered, and cannot ask for more; the connector does not wait for it"},
	"internal/debezium":    {nil, "it turns one file into another; what comes out is read like any configuration"},
	"internal/status":      {[]string{"internal/walheld", "internal/uptime"}, "the stages report to status; it never reaches back"},
	"internal/consumerlag": {[]string{"internal/remedy"}, "it watches other programs' groups; how its results are shown is others' matter"},
	"internal/trace":       {[]string{"internal/event", "internal/finding", "internal/record"}, "it knows records; who delivers them, and when they count, is others' matter"},
	"internal/systemd":     {nil, "it says what it is told to"},
	"internal/walheld":     {nil, "it is a sentence made of facts; who knows them is others' matter"},
	"internal/mask":        {nil, "it knows payloads, and neither events nor formats"},
	"internal/remedy":      {nil, "it explains errors to whoever has them"},
	"internal/leak":        {nil, "it looks at goroutines, whosever they are"},
	"internal/arrows":      {nil, "it is a test"},
	"internal/tlsdial":     {nil, "it makes a connection a TLS one, whoever's it is"},
	rawconn:                {nil, "it is a socket: what goes through it is others' matter"},

	"internal/simulate": {[]string{"decoder", "router", "sink", "offsets", "internal/backfill", "internal/deadletter", "internal/positions", "internal/replication", "internal/connector", "internal/guarantee", "internal/status"},
		"it runs the connector as the command does, and nothing of the program knows it"},
	"internal/simulate/plants": {nil, "it changes the program's text, and runs it"},

	"internal/testbed": {nil, "servers for tests: it knows nothing of the program"},
	"cmd/outboxd": {[]string{"decoder", "router", "sink", "offsets", "internal/positions", "internal/replication", "internal/connector", "internal/config", "internal/debezium",
		"internal/status", "internal/check", "internal/walheld", "internal/rawconn", "internal/record", "internal/template", "internal/mask", "internal/format", "internal/format/json",
		"internal/format/cloudevents", "internal/format/avro", "internal/format/debezium", "internal/retention", "internal/consumerlag", "internal/remedy", "internal/deadletter", "internal/poison", "internal/systemd",
		"internal/finding", "internal/table", "internal/reconcile", "internal/republish", "internal/recovery", "internal/trace"},
		"the program has no use for the tests' servers"},
}

// rawconn alone may import unsafe, without which no system call takes a buffer. It has
// no position in its reach.
const rawconn = "internal/rawconn"

// unix is what makes system calls through Go's scheduler. One that is made once a message
// wakes the runtime's monitoring thread each time, and belongs into rawconn.
const unix = "golang.org/x/sys/unix"

// rare are the packages that make such calls, and seldom.
var rare = []string{rawconn, "internal/replication", "internal/config", "internal/check"}

// e2e may import the tests' servers and nothing else of ours: it drives the
// binary as a user does.
const e2e = "e2e"

var e2eRoom = room{[]string{"internal/testbed"}, "e2e drives the built binary from outside, so that it proves what users get"}

// folders are the top level: the owner's list, internal, and what a build makes.
var folders = []string{"bin", "cmd", "decoder", "docker", "docs", "e2e", "internal", "offsets", "router", "sink"}

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
	for _, dir := range []string{"", e2e} { // two modules
		cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Standard", "./...")
		cmd.Dir = filepath.Join("..", "..", dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var p listed
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if !p.Standard && strings.HasPrefix(p.ImportPath, module) {
				ours = append(ours, p)
			}
		}
	}
	return ours
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
		if imported == unix && !inE2E && !slices.Contains(rare, name) {
			problems = append(problems, name+" imports "+unix+": a system call of each message is one of "+rawconn+"'s")
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

// A file that holds more holds several things.
func TestFilesAreNotLong(t *testing.T) {
	const most = 400
	each(t, func(name string, source []byte) {
		if n := bytes.Count(source, []byte("\n")); n > most && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s has %d lines, more than %d", name, n, most)
		}
	})
}

// A package of the program that starts goroutines has a TestMain that finds those that its
// tests leave.
func TestGoroutinesAreSeenToEnd(t *testing.T) {
	starts, looks := make(map[string]bool), make(map[string]bool)
	each(t, func(name string, source []byte) {
		dir := filepath.Dir(name)
		switch {
		case strings.HasSuffix(name, "_test.go"):
			looks[dir] = looks[dir] || bytes.Contains(source, []byte("leak.Main(m, "))
		case startsGoroutine.Match(source):
			starts[dir] = true
		}
	})
	for dir := range starts {
		switch name := filepath.ToSlash(dir); {
		case strings.HasPrefix(name, "../../e2e"), strings.HasPrefix(name, "../../docker"):
			// are not the program
		case name == "../../internal/testbed": // has servers that outlive a test
		case name == "../../internal/simulate": // synctest sees them
		case !looks[dir]:
			t.Errorf("%s starts goroutines, and its tests do not see whether they end", name)
		}
	}
	if len(starts) < 5 {
		t.Errorf("only %d packages start goroutines", len(starts))
	}
}

var startsGoroutine = regexp.MustCompile(`(?m)^\s*(go (func\(|\w[\w.]*\()|\w[\w.]*\.Go\()`)

// each gives the source files of this repository to f.
func each(t *testing.T, f func(name string, source []byte)) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join("..", ".."), func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() != ".." && strings.HasPrefix(e.Name(), "."):
			return fs.SkipDir
		case filepath.Ext(name) != ".go":
			return nil
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		f(name, b)
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
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
		{"router", "internal/format", "the sink's matter"},
		{"sink", "internal/format", "neither its format"},
		{"internal/format", "internal/format/json", "knows none of them"},
		{"internal/format/json", "internal/format/avro", "a format is one folder"},
		{"offsets", "sink", "depends on nothing"},
		{"internal/replication", "offsets", ""},
		{"internal/replication", "decoder", "not events"},
		{"internal/flow", "internal/replication", "knows no connection"},
		{"internal/flow", "internal/guarantee", "no guarantee"},
		{"internal/guarantee", "internal/replication", "neither PostgreSQL"},
		{"internal/config", "cmd/outboxd", "outermost"},
		{"internal/status", "internal/connector", "never reaches back"},
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
	for from, bad := range map[string]bool{"sink": true, "internal/connector": true, "internal/replication": false, rawconn: false} {
		if got := wrong(listed{ImportPath: module + from, Imports: []string{unix}}); bad != (len(got) > 0) {
			t.Errorf("%s makes system calls: %q", from, got)
		}
	}
}
