package status

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// docs/metrics.md explains each metric that there is, in a row of its own, and no page
// names one that there is not.
func TestMetricsAreDocumented(t *testing.T) {
	s := New(time.Minute)
	s.UseStore()
	s.UseRegistry()
	s.UseReconcile([]string{"missing"})
	s.Tuning(Tuning{})
	s.UseOutbox(func() Outbox { return Outbox{} })
	s.Build("1", "2", "3")
	s.WatchLag()
	s.UseTraces(func() (sent, dropped int64) { return 0, 0 })
	described := make(chan *prometheus.Desc)
	go func() {
		defer close(described)
		s.registry.Describe(described)
	}()
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	there := make(map[string]bool)
	for d := range described {
		m := name.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatal(d)
		}
		there[m[1]] = true
	}
	if len(there) < 15 {
		t.Fatalf("only %d metrics were found", len(there))
	}

	metrics := "../../docs/metrics.md"
	page, err := os.ReadFile(metrics)
	if err != nil {
		t.Fatal(err)
	}
	for name := range there {
		if strings.HasPrefix(name, "outboxd_") && !regexp.MustCompile("(?m)^\\| `"+name+"[`{]").Match(page) {
			t.Errorf("docs/metrics.md has no row for %s", name)
		}
	}

	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	runbooks, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, path := range append(append(pages, runbooks...), "../../README.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\boutboxd_[a-z_]+`).FindAllString(string(text), -1) {
			// In a regular expression a name ends with an underscore.
			if !there[m] && !there[suffix.ReplaceAllString(m, "")] && !strings.HasSuffix(m, "_") {
				t.Errorf("%s: there is no metric %s", path, m)
			}
		}
	}
}
