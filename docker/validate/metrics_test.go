package validate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/teststorage"
)

var (
	// pending are metrics that alerts and panels ask for and that the binary may
	// not have yet. Once a run has them they are held to the same as all others.
	pending []string
	// late are counters with labels, which have no series before something happens
	// that does not in a run in which all is well. Their names are looked for in
	// the source.
	late = []string{"outboxd_publish_errors_total", "outboxd_events_discarded_total", lostIn}
)

// lostIn is a gauge that is absent in a run in which all is well, and a panel of it empty.
const lostIn = "outboxd_slot_lost_in_seconds"

// scrapeEvery is how far apart the scrapes of a run are taken to be.
const scrapeEvery = 30 * time.Second

// metrics are the scrapes of a run, as Prometheus stores them.
type metrics struct {
	storage *teststorage.TestStorage
	engine  *promql.Engine
	names   map[string]bool
	series  []labels.Labels
	end     time.Time
}

func newMetrics(t *testing.T, scrapes []string) *metrics {
	t.Helper()
	m := &metrics{
		storage: teststorage.New(t),
		engine:  promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute}),
		names:   map[string]bool{"up": true},
		end:     time.Unix(1_800_000_000, 0),
	}
	t.Cleanup(func() { _ = m.engine.Close() })
	for i, text := range scrapes {
		at := m.end.Add(-scrapeEvery * time.Duration(len(scrapes)-1-i))
		app := m.storage.Appender(t.Context())
		add := func(l labels.Labels, value float64) {
			if _, err := app.Append(0, l, at.UnixMilli(), value); err != nil {
				t.Fatal(err)
			}
		}
		for p := textparse.NewPromParser([]byte(text), labels.NewSymbolTable(), false); ; {
			entry, err := p.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if entry != textparse.EntrySeries {
				continue
			}
			var l labels.Labels
			p.Labels(&l)
			_, _, value := p.Series()
			l = labels.NewBuilder(l).Set("job", "outboxd").Set("instance", "a").Labels()
			m.names[l.Get(labels.MetricName)] = true
			m.series = append(m.series, l)
			add(l, value)
		}
		add(labels.FromStrings(labels.MetricName, "up", "job", "outboxd", "instance", "a"), 1)
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range pending {
		if m.names[name] {
			t.Logf("%s exists: it can leave the list of pending metrics", name)
		}
	}
	return m
}

// selectors checks that every selector of a query finds a series of the run, so
// that a metric, label or value with a wrong name is noticed. It returns whether
// the query needs a pending metric.
func (m *metrics) selectors(t *testing.T, query string) (needsPending bool) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return false
	}
	for _, matchers := range parser.ExtractSelectors(expr) {
		name := ""
		for _, matcher := range matchers {
			if matcher.Name == labels.MetricName {
				name = matcher.Value
			}
		}
		switch {
		case name == "up":
			continue
		case slices.Contains(late, name) && !m.names[name] && m.inSource(t, name):
			needsPending = needsPending || name == lostIn
			continue
		case slices.Contains(pending, name) && !m.names[name]:
			needsPending = true
			continue
		}
		found := slices.ContainsFunc(m.series, func(l labels.Labels) bool {
			return !slices.ContainsFunc(matchers, func(matcher *labels.Matcher) bool { return !matcher.Matches(l.Get(matcher.Name)) })
		})
		if !found {
			t.Errorf("%s: a run has no series for %v", query, matchers)
		}
	}
	return needsPending
}

// inSource tells whether the program knows a metric of that name.
func (m *metrics) inSource(t *testing.T, name string) bool {
	t.Helper()
	sources, err := filepath.Glob("../../internal/status/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no source of the metrics: %v", err)
	}
	return slices.ContainsFunc(sources, func(path string) bool {
		return !strings.HasSuffix(path, "_test.go") && strings.Contains(read(t, "validate/"+path), `"`+name+`"`)
	})
}

// evaluate returns the values that a query gives at the end of the run.
func (m *metrics) evaluate(t *testing.T, query string) (values []float64) {
	t.Helper()
	q, err := m.engine.NewInstantQuery(t.Context(), m.storage, nil, query, m.end)
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return nil
	}
	defer q.Close()
	result := q.Exec(t.Context())
	vector, err := result.Vector()
	if err != nil {
		t.Errorf("%s: %v", query, err)
	}
	for _, sample := range vector {
		values = append(values, sample.F)
	}
	return values
}

// A run in which all is well raises no alert, and has what the alerts look at.
func checkAlerts(t *testing.T, m *metrics) {
	for _, r := range alerts(t) {
		m.selectors(t, r.Expr)
		if n := len(m.evaluate(t, r.Expr)); n != 0 {
			t.Errorf("%s: %d series in a run in which all is well", r.Alert, n)
		}
	}
}

type panel struct {
	ID      int
	Type    string
	Title   string
	Targets []struct{ Expr, LegendFormat string }
	GridPos struct{ H, W, X, Y int }
	Panels  []panel
}

type dashboard struct {
	Title, UID    string
	SchemaVersion int
	Panels        []panel
	Templating    struct {
		List []struct{ Name, Type string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "helm/outboxd/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The verdict of the last comparison is what was found, and none where nobody has
// compared yet: no comparison is not agreement.
func TestDashboardShowsTheLastComparison(t *testing.T) {
	queries := make(map[string]string)
	for _, p := range readDashboard(t).Panels {
		if len(p.Targets) > 0 {
			queries[p.Title] = strings.ReplaceAll(p.Targets[0].Expr, "$job", ".+")
		}
	}
	for _, test := range []struct {
		missing, late, age string
		found, seconds     []float64
	}{
		{"0", "0", "+Inf", nil, nil},
		{"0", "0", "60", []float64{0}, []float64{60}},
		{"3", "1", "3600", []float64{4}, []float64{3600}},
	} {
		m := newMetrics(t, []string{fmt.Sprintf("outboxd_reconcile_mismatches{kind=\"missing\"} %s\noutboxd_reconcile_mismatches{kind=\"late\"} %s\noutboxd_reconcile_last_seconds %s\n",
			test.missing, test.late, test.age)})
		for title, want := range map[string][]float64{"Last comparison found": test.found, "Age of the last comparison": test.seconds} {
			if got := m.evaluate(t, queries[title]); !slices.Equal(got, want) {
				t.Errorf("%+v: panel %q shows %v, want %v", test, title, got, want)
			}
		}
	}
}

// Every panel of the dashboard shows something of a real run, by what Grafana of
// today can draw.
func checkDashboard(t *testing.T, m *metrics) {
	dashboard := readDashboard(t)
	if dashboard.SchemaVersion < 39 || dashboard.UID == "" { // Grafana 11
		t.Errorf("schema version %d, uid %q", dashboard.SchemaVersion, dashboard.UID)
	}
	variables := []string{"$job", ".+", "$__rate_interval", "1m"}
	for _, v := range dashboard.Templating.List {
		if !strings.Contains("datasource job", v.Name) {
			t.Errorf("the test does not know the variable %s", v.Name)
		}
	}
	ids, drawn := make(map[int]bool), 0
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: id %d twice, or a place %+v that is not there", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if !slices.Contains([]string{"timeseries", "stat", "state-timeline"}, p.Type) {
			t.Errorf("panel %q: type %s is not one that the test knows to exist", p.Title, p.Type)
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			query := strings.NewReplacer(variables...).Replace(target.Expr)
			if strings.Contains(query, "$") {
				t.Errorf("%s has a variable that the test does not know", query)
			}
			if m.selectors(t, query) {
				continue
			}
			if len(m.evaluate(t, query)) == 0 {
				t.Errorf("panel %q: no data for %s", p.Title, query)
			}
			drawn++
		}
	}
	if drawn < 15 {
		t.Errorf("only %d queries were tried", drawn)
	}
}
