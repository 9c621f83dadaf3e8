package main

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"outboxd/internal/config"
)

// Metrics, alerts, targets of make, environment variables and files that pages name exist.
func TestNamesOfTheManual(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile("../../" + path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	metrics, alerts := read("docs/metrics.md"), read("docker/helm/outboxd/rules.yaml") // each is held by a test of its own
	targets, variables := read("Makefile"), read("docs/configuration-reference.md")+" OUTBOXD_CONFIG OUTBOXD_CACHE "
	found := make(map[string]int)
	for path, page := range manual(t) {
		for kind, name := range map[string]*regexp.Regexp{
			"metric":   regexp.MustCompile(`\boutboxd_[a-z_]+[a-z]\b`),
			"alert":    regexp.MustCompile(`\bOutboxd[A-Z]\w+`),
			"target":   regexp.MustCompile(`(?m)(?:^|` + "`" + `|   )make ([a-z][a-z-]*)`),
			"variable": regexp.MustCompile(`\bOUTBOXD_[A-Z_]+[A-Z]\b`),
			"file":     regexp.MustCompile("`((?:cmd|decoder|docker|docs|e2e|internal|offsets|router|sink)/[\\w./-]*)`"),
		} {
			for _, m := range name.FindAllStringSubmatch(page, -1) {
				n := m[len(m)-1]
				there := false
				switch kind {
				case "metric":
					series := regexp.MustCompile(`_(sum|count|bucket)$`).ReplaceAllString(n, "")
					there = strings.Contains(metrics, "| `"+series)
				case "alert":
					there = strings.Contains(alerts, "alert: "+n+"\n")
				case "target":
					there = strings.Contains(targets, "\n"+n+":")
				case "variable":
					there = regexp.MustCompile(`\b` + n + `\b`).MatchString(variables)
				case "file":
					n = strings.TrimSuffix(n, "/NAME") // of one to be written
					_, err := os.Stat(filepath.Join("../..", n))
					there = err == nil
				}
				found[kind]++
				if !there {
					t.Errorf("%s: there is no %s %s", path, kind, n)
				}
			}
		}
	}
	for kind, least := range map[string]int{"metric": 70, "alert": 15, "target": 15, "variable": 100, "file": 10} {
		if found[kind] < least {
			t.Errorf("only %d names of a %s were found", found[kind], kind)
		}
	}
}

// The index of the manual has every page, and names the versions of the servers that the
// tests run.
func TestIndexOfTheManual(t *testing.T) {
	pages := manual(t)
	index := pages["../../docs/README.md"]
	for path := range pages {
		page, err := filepath.Rel("../../docs", path)
		if err != nil {
			t.Fatal(err)
		}
		if page != "README.md" && page != "../README.md" && !strings.Contains(index, "]("+filepath.ToSlash(page)+")") {
			t.Errorf("docs/README.md has no link to %s", page)
		}
	}
	servers, err := os.ReadFile("../../internal/testbed/fetch.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]string{"KafkaVersion": "| Kafka | %s |", "RegistryVersion": "| schema registry | Apicurio Registry %s,", "DebeziumVersion": "own | %s |"} {
		m := regexp.MustCompile(`const ` + name + ` = "(\d+\.\d+(?:\.[1-9]\d*)?)`).FindSubmatch(servers)
		if m == nil {
			t.Fatalf("internal/testbed has no %s", name)
		}
		if want := fmt.Sprintf(row, m[1]); !strings.Contains(index, want) {
			t.Errorf("docs/README.md does not say %q", want)
		}
	}
	var majors []string
	for _, m := range regexp.MustCompile(`(?m)^\t"(\d\d)": "`).FindAllSubmatch(servers, -1) {
		majors = append(majors, string(m[1]))
	}
	if want := "| PostgreSQL | " + strings.Join(majors, ", ") + " |"; !strings.Contains(index, want) {
		t.Errorf("docs/README.md does not say %q", want)
	}
}

// lacksAnother are problems of a setting that needs another one, or a later version.
var lacksAnother = regexp.MustCompile(`: needs | needs it|, unless | is not built yet`)

// A key with its value, such as `delivery.store: kafka`, is one that the configuration
// accepts, as far as it does not lack another.
func TestSettingsOfTheManual(t *testing.T) {
	setting := regexp.MustCompile("`((?:postgres|outbox|route|value|kafka|delivery|errors|retention|reconcile|http|monitor|tuning|log)(?:\\.[a-z_]+)+): ([^`…]+)`")
	file, found := filepath.Join(t.TempDir(), "outboxd.yaml"), 0
	for path, page := range manual(t) {
		for _, m := range setting.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
			found++
			text := ""
			for depth, name := range strings.Split(m[1], ".") {
				text += fmt.Sprintf("%s%s%s:", map[bool]string{true: "\n", false: ""}[depth > 0], strings.Repeat("  ", depth), name)
			}
			text += " " + m[2] + "\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := config.LoadWithout(file, nil, "postgres.dsn", "kafka.brokers")
			if err == nil {
				continue
			}
			for problem := range strings.SplitSeq(err.Error(), "\n") {
				if about := strings.Contains(problem, ": "+m[1]+": "); about && !lacksAnother.MatchString(problem) || strings.Contains(problem, "unknown key") {
					t.Errorf("%s: %s: %s", path, m[0], problem)
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d settings were found", found)
	}
}

// The manual has the words of PostgreSQL's and Kafka's own, and no figure of speech that an
// operator has to guess. What is quoted in code is not the manual's.
func TestWordsOfTheManual(t *testing.T) {
	not := map[string]string{
		`go(?:es|ing)? on (?:from|there|with)`:               "resumes at, continues",
		`(?:begins?|made|starts?) anew`:                      "restarts, is recreated",
		`put(?:s|ting)? (?:it |them )?right|mends?`:          "fixes",
		`tak(?:es?|ing) (?:its|their|the) place`:             "takes over, was replaced by",
		`st(?:ands?|ood) still`:                              "is paused",
		`tak(?:es?|ing) itself for`:                          "still believes it is",
		`(?:is|are|was) told (?:a|the|only) positions?`:      "is confirmed",
		`(?:forgets?|forgotten) (?:the|its) WAL`:             "recycles the WAL",
		`for ever`:                                           "without end, until",
		`keeps (?:all |the )?WAL`:                            "retains WAL",
		`as it comes|on a quiet morning|gives? (?:us|it) up`: "the plain fact",
	}
	for path, page := range manual(t) {
		page = regexp.MustCompile("``?[^`]+``?|\"[^\"\n]*\"").ReplaceAllString(fenced.ReplaceAllString(page, ""), "")
		for words, better := range not {
			for _, m := range regexp.MustCompile(`(?i)\b(?:`+words+`)\b`).FindAllString(strings.Join(strings.Fields(page), " "), -1) {
				t.Errorf("%s has %q: say what it is (%s)", path, m, better)
			}
		}
	}
}

// The table of the lines of outboxd check in docs/operations.md has each of them.
func TestLinesOfCheckAreDocumented(t *testing.T) {
	_, table, _ := strings.Cut(manual(t)["../../docs/operations.md"], "\n| line | what is looked at |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := make(map[string]bool)
	for row := range strings.Lines(table) {
		for name := range strings.SplitSeq(strings.Split(row, "|")[1], ",") {
			documented[strings.TrimSpace(strings.ReplaceAll(name, "…", ""))] = true
		}
	}
	found := 0
	for folder, files := range readSources(t).packages {
		if name := filepath.Base(folder); name != "check" && name != "replication" && name != "retention" && name != "avro" {
			continue
		}
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				subject := ""
				switch n := n.(type) {
				case *ast.ValueSpec: // const subject = "…"
					if n.Names[0].Name == "subject" && len(n.Values) == 1 {
						subject = literalText(n.Values[0])
					}
				case *ast.KeyValueExpr: // Subject: "…"
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Subject" {
						subject = literalText(n.Value)
					}
				}
				if subject != "" {
					found++
					if !documented[subject] {
						t.Errorf("docs/operations.md has no row for the line %q of outboxd check", subject)
					}
				}
				return true
			})
		}
	}
	if found < 10 {
		t.Errorf("only %d lines were found", found)
	}
}

// literalText is what a literal says, "" of anything else.
func literalText(x ast.Expr) string {
	literal, ok := x.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, _ := strconv.Unquote(literal.Value)
	return s
}
