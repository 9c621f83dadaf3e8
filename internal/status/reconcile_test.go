package status

import (
	"math"
	"testing"
	"time"
)

// The last verdict stays until another follows, and says how old it is.
func TestReconcileVerdict(t *testing.T) {
	s := New(time.Minute)
	if s.Reconcile() != nil {
		t.Error("a verdict without comparisons")
	}
	s.UseReconcile([]string{"missing", "late"})
	metrics := func() map[string]float64 {
		families, err := s.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := make(map[string]float64)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += "/" + l.GetValue()
				}
				values[name] = m.GetGauge().GetValue()
			}
		}
		return values
	}
	if m := metrics(); !math.IsInf(m["outboxd_reconcile_last_seconds"], 1) || s.Reconcile().Verdict != "none yet" {
		t.Errorf("before the first: %v, %+v", m, s.Reconcile())
	}
	if _, ok := metrics()["outboxd_reconcile_missed"]; !ok {
		t.Error("before the first there is no outboxd_reconcile_missed")
	}
	s.Reconciled(7, map[string]int64{"missing": 3, "late": 0})
	s.ReconcileMissed("no broker")
	s.ReconcileMissed("no broker")
	m := metrics()
	if m["outboxd_reconcile_mismatches/missing"] != 3 || m["outboxd_reconcile_mismatches/late"] != 0 || m["outboxd_reconcile_last_seconds"] > 60 || m["outboxd_reconcile_missed"] != 2 {
		t.Errorf("%v", m)
	}
	if r := s.Reconcile(); r.Verdict != "differ" || r.Error != "no broker" || r.Rows != 7 || r.Missed != 2 {
		t.Errorf("%+v", r)
	}
	s.Reconciled(8, map[string]int64{"missing": 0})
	if r := s.Reconcile(); r.Verdict != "agree" || r.Error != "" || r.Rows != 8 || r.Missed != 0 || metrics()["outboxd_reconcile_mismatches/missing"] != 0 {
		t.Errorf("%+v", r)
	}
	// Another process compares: what this one found is of no concern any more.
	s.Reconciled(8, map[string]int64{"missing": 1})
	s.ReconcileMissed("late")
	s.ForgetReconcile()
	if m, r := metrics(), s.Reconcile(); r.Verdict != "none yet" || r.Error != "" || m["outboxd_reconcile_mismatches/missing"] != 0 || m["outboxd_reconcile_missed"] != 0 || !math.IsInf(m["outboxd_reconcile_last_seconds"], 1) {
		t.Errorf("%+v, %v", r, m)
	}
	s.Reconciled(8, map[string]int64{"missing": 0})
	s.ReconcileMissed("errors are for the report")
	if errors := s.Report().LastErrors; len(errors) != 0 {
		t.Errorf("last errors %+v", errors)
	}
}
