package validate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// rule is one alert of rules.yaml.
type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.UnmarshalStrict([]byte(read(t, "helm/outboxd/rules.yaml")), &struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}{}); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(read(t, "helm/outboxd/rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no alert")
	}
	return all
}

// Each alert fires when it should, with its labels and texts, and each has a case
// in which it must not.
func TestAlerts(t *testing.T) {
	tool := promtool(t)
	output(t, tool, "check", "rules", "../helm/outboxd/rules.yaml")
	output(t, tool, "check", "config", "--syntax-only", "../prometheus/prometheus.yaml")
	args := []string{"test", "rules"}
	for _, r := range alerts(t) {
		path := "prometheus/tests/" + r.Alert + ".yaml"
		text := read(t, path)
		if !strings.Contains(text, "exp_labels:") || !strings.Contains(text, "exp_alerts: []") || strings.Count(text, "alertname: ") != strings.Count(text, "alertname: "+r.Alert+"\n") {
			t.Errorf("%s: needs a case in which %s fires and one in which it does not, and no other alert's", path, r.Alert)
		}
		args = append(args, "../"+path)
	}
	output(t, tool, args...)
	tests, err := filepath.Glob("../prometheus/tests/*.yaml")
	if err != nil || len(tests) != len(args)-2 {
		t.Errorf("%d alerts, %d files of tests: %v", len(args)-2, len(tests), err)
	}
}

// Each alert says how bad it is and links to a page that exists and names it; each
// page has the same sections, and names only alerts that exist.
func TestAlertsHaveRunbooks(t *testing.T) {
	for _, r := range alerts(t) {
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		for _, name := range []string{"summary", "description", "runbook_url"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		url := r.Annotations["runbook_url"]
		page, err := os.ReadFile(filepath.Join("../..", url))
		if err != nil {
			t.Errorf("%s: %v", r.Alert, err)
			continue
		}
		if !strings.Contains(string(page), r.Alert) {
			t.Errorf("%s does not name %s", url, r.Alert)
		}
	}
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, section := range []string{"## What you see", "## Why", "## What to do", "## How you know it is over"} {
			if !strings.Contains(string(text), "\n"+section+"\n") {
				t.Errorf("%s has no section %q", page, section)
			}
		}
		for word := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') }) {
			if strings.HasPrefix(word, "Outboxd") && !slices.ContainsFunc(alerts(t), func(r rule) bool { return r.Alert == word }) {
				t.Errorf("%s names %s, which is no alert", page, word)
			}
		}
	}
}
