package status

import "github.com/prometheus/client_golang/prometheus"

// Tuning is what the process's optimisations do now, each read when someone asks. See
// tuning in the configuration.
type Tuning struct {
	ReadDelays  func() int64   // reads from PostgreSQL that were delayed
	SendDelays  func() int64   // events that waited for others before they were sent
	RawSockets  func() int64   // open connections
	Processors  func() int     // that run Go code
	MemoryLimit func() float64 // of the Go runtime, in bytes; +Inf: none
}

// Tuning registers the metrics of the optimisations. It is called once.
func (s *Status) Tuning(t Tuning) {
	counter := func(name, help string, read func() int64) {
		s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "outboxd_" + name, Help: help},
			func() float64 { return float64(read()) }))
	}
	gauge := func(name, help string, read func() float64) {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "outboxd_" + name, Help: help}, read))
	}
	counter("read_delays_total", "Reads from PostgreSQL that were delayed (tuning.delay_reads).", t.ReadDelays)
	counter("send_delays_total", "Late events that waited for others before they were sent (tuning.delay_sends).", t.SendDelays)
	gauge("raw_sockets", "Open connections that do without the Go scheduler (tuning.raw_sockets).", func() float64 { return float64(t.RawSockets()) })
	gauge("processors", "Processors that run Go code (tuning.processors).", func() float64 { return float64(t.Processors()) })
	gauge("memory_limit_bytes", "Memory of the Go runtime above which it collects garbage at once; +Inf: no limit (tuning.memory_limit).", t.MemoryLimit)
}
