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
	mismatches map[string]int64
	at         time.Time // zero: none has ended yet
	failed     string    // why the one after it failed
}

// UseReconcile says that the outbox is compared with Kafka now and then, with the kinds
// of mismatches that there can be. It is called before anything is served.
func (s *Status) UseReconcile(kinds []string) {
	r := &reconciled{}
	s.reconciled = r
	for _, kind := range kinds {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "outboxd_reconcile_mismatches", Help: "What the last comparison of the outbox with Kafka found.", ConstLabels: prometheus.Labels{"kind": kind},
		}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return float64(r.mismatches[kind])
		}))
	}
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outboxd_reconcile_last_seconds", Help: "How long ago the last comparison of the outbox with Kafka ended; +Inf before the first.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.at.IsZero() {
			return math.Inf(1)
		}
		return time.Since(r.at).Seconds()
	}))
}

// Reconciled takes the result of a comparison that has just ended, or why it failed:
// then the last result stays, and grows old.
func (s *Status) Reconciled(mismatches map[string]int64, err error) {
	r := s.reconciled
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = err.Error()
		return
	}
	r.mismatches, r.at, r.failed = mismatches, time.Now(), ""
}

// ReconcileReport is the verdict of the last comparison, as /status has it.
type ReconcileReport struct {
	Verdict    string           `json:"verdict"` // agree, differ, or none yet
	AgeSeconds float64          `json:"age_seconds,omitempty"`
	Mismatches map[string]int64 `json:"mismatches,omitempty"`
	Error      string           `json:"error,omitempty"`
}

// Reconcile returns the verdict of the last comparison; nil: there are none.
func (s *Status) Reconcile() *ReconcileReport {
	r := s.reconciled
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	report := &ReconcileReport{Verdict: "none yet", Mismatches: r.mismatches, Error: r.failed}
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
