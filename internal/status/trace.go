package status

import "github.com/prometheus/client_golang/prometheus"

// UseTraces says that spans are sent, of which counts tells. Any goroutine may call
// counts.
func (s *Status) UseTraces(counts func() (sent, dropped int64)) {
	s.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "outboxd_trace_spans_sent_total", Help: "Spans that the collector has taken."},
			func() float64 { sent, _ := counts(); return float64(sent) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "outboxd_trace_spans_dropped_total", Help: "Spans that were not sent, or that the collector rejected."},
			func() float64 { _, dropped := counts(); return float64(dropped) }))
}
