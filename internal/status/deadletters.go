package status

import "github.com/prometheus/client_golang/prometheus"

func newDeadLettered() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "outboxd_events_dead_lettered_total", Help: "Events that were set aside in the dead-letter topic, by kind.",
	}, []string{"kind"})
}

// UseDeadLetters says of which kinds events may be set aside. Each is counted from 0 on,
// so that the first is an increase.
func (s *Status) UseDeadLetters(kinds []string) {
	for _, kind := range kinds {
		s.deadLettered.WithLabelValues(kind)
	}
}

// DeadLettered counts an event that was set aside.
func (s *Status) DeadLettered(kind string) { s.deadLettered.WithLabelValues(kind).Inc() }

// deadLetters returns how many events of each kind were set aside.
func (s *Status) deadLetters() map[string]int64 {
	all := make(map[string]int64)
	for kind, n := range countsOf(s.deadLettered) {
		if n > 0 {
			all[kind] = int64(n)
		}
	}
	return all
}
