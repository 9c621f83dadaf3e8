package status

import (
	"errors"
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
	s.Reconciled(map[string]int64{"missing": 3, "late": 0}, nil)
	s.Reconciled(nil, errors.New("no broker"))
	m := metrics()
	if m["outboxd_reconcile_mismatches/missing"] != 3 || m["outboxd_reconcile_mismatches/late"] != 0 || m["outboxd_reconcile_last_seconds"] > 60 {
		t.Errorf("%v", m)
	}
	if r := s.Reconcile(); r.Verdict != "differ" || r.Error != "no broker" {
		t.Errorf("%+v", r)
	}
	s.Reconciled(map[string]int64{"missing": 0}, nil)
	if r := s.Reconcile(); r.Verdict != "agree" || r.Error != "" {
		t.Errorf("%+v", r)
	}
}
