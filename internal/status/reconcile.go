package status

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reconciled is the last comparison of the outbox with Kafka. It is safe for any
// goroutine.
type reconciled struct {
	mu         sync.Mutex
	rows       int64
	mismatches map[string]int64
	at         time.Time // zero: none has ended yet
	missed     int       // rounds since then
	why        string    // why the last of them was missed
}

// UseReconcile says that the outbox is compared with Kafka now and then, with the kinds
// of mismatches that there can be. It is called before anything is served.
func (s *Status) UseReconcile(kinds []string) {
	r := &reconciled{}
	s.reconciled = r
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return read()
		}))
	}
	for _, kind := range kinds {
		gauge("outboxd_reconcile_mismatches", "What the last comparison of the outbox with Kafka found.", prometheus.Labels{"kind": kind},
			func() float64 { return float64(r.mismatches[kind]) })
	}
	gauge("outboxd_reconcile_last_seconds", "How long ago the last comparison of the outbox with Kafka ended; +Inf before the first.", nil, func() float64 {
		if r.at.IsZero() {
			return math.Inf(1)
		}
		return time.Since(r.at).Seconds()
	})
	gauge("outboxd_reconcile_missed", "Comparisons that were due since the last one and could not be made.", nil,
		func() float64 { return float64(r.missed) })
}

// Reconciled takes the result of a comparison that has just ended: how many rows were
// compared, and what was found, by kind.
func (s *Status) Reconciled(rows int64, mismatches map[string]int64) {
	r := s.reconciled
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows, r.mismatches, r.at, r.missed, r.why = rows, mismatches, time.Now(), 0, ""
}

// ReconcileMissed says why a comparison that was due could not be made. The last result
// stays, and grows old.
func (s *Status) ReconcileMissed(why string) {
	r := s.reconciled
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed++
	r.why = why
}

// ForgetReconcile says that another process compares. What this one found would
// otherwise stay for as long as it stands by.
func (s *Status) ForgetReconcile() {
	r := s.reconciled
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows, r.mismatches, r.at, r.missed, r.why = 0, nil, time.Time{}, 0, ""
}

// ReconcileReport is the verdict of the last comparison, as /status has it.
type ReconcileReport struct {
	Verdict    string           `json:"verdict"` // agree, differ, or none yet
	AgeSeconds float64          `json:"age_seconds,omitempty"`
	Rows       int64            `json:"rows"`
	Mismatches map[string]int64 `json:"mismatches,omitempty"`
	// Missed are the comparisons that were due since then and could not be made, Error
	// why the last of them was not.
	Missed int    `json:"missed"`
	Error  string `json:"error,omitempty"`
}

// Reconcile returns the verdict of the last comparison; nil: there are none.
func (s *Status) Reconcile() *ReconcileReport {
	r := s.reconciled
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	report := &ReconcileReport{Verdict: "none yet", Rows: r.rows, Mismatches: r.mismatches, Missed: r.missed, Error: r.why}
	if r.at.IsZero() {
		return report
	}
	report.Verdict, report.AgeSeconds = "agree", time.Since(r.at).Seconds()
	for _, n := range r.mismatches {
		if n > 0 {
			report.Verdict = "differ"
		}
	}
	return report
}
