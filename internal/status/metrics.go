package status

import (
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"outboxd/internal/uptime"
	"outboxd/internal/walheld"
)

// Gauges are read when someone asks.
type Gauges struct {
	InFlightEvents func() int64
	InFlightBytes  func() int64
	ReceivedLSN    func() pglogrepl.LSN
	Confirmed      func() pglogrepl.LSN
	// OldestUnacked is how long Kafka has acknowledged nothing although
	// something is in flight.
	OldestUnacked func() time.Duration
	// UnackedTopics are the topics of what is in flight; nil: not known.
	UnackedTopics func() []string
	// Alive is when the goroutine that does the work was last seen at it.
	Alive func() time.Time
	// Busy says what the server does that sends nothing, "" when it sends; nil: it is
	// not known.
	Busy func() string
}

// Slot is what the replication slot costs its server, as last asked for.
type Slot struct {
	Retained  int64 // bytes of WAL that are kept for it
	Safe      int64 // bytes that may be written before it can lose WAL; -1: no limit
	WALStatus string
	Confirmed string // the LSN before which nothing can be read again
	// Synchronous says that commits of the server wait for the connector, and what to do.
	Synchronous string
	// Held is what the server says of why it keeps that WAL.
	Held walheld.Facts
}

// walStatuses are those of pg_replication_slots.
var walStatuses = []string{"reserved", "extended", "unreserved", "lost"}

// Build says what runs, and has /metrics say what the process takes.
func (s *Status) Build(version, commit, goVersion string) {
	s.build = version
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "outboxd_build_info", Help: "1, with what was built.", ConstLabels: prometheus.Labels{"version": version, "commit": commit, "goversion": goVersion},
	})
	info.Set(1)
	s.registry.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// UseStore says that positions are stored besides the slot, a further side.
func (s *Status) UseStore() { s.registerSide("store") }

// UseRegistry says that there is a schema registry, a further side.
func (s *Status) UseRegistry() {
	s.registerSide("registry")
}

// registerSide makes a side's metrics.
func (s *Status) registerSide(side string) {
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "outboxd_connected", Help: "1 while that side works.", ConstLabels: prometheus.Labels{"side": side},
	}, func() float64 { return s.side(side) }))
	s.retries.WithLabelValues(side)
}

func (s *Status) gauge(name, help string, read func(*Gauges) float64) {
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "outboxd_" + name, Help: help}, func() float64 {
		if g := s.gauges.Load(); g != nil {
			return read(g)
		}
		return 0
	}))
}

// slotGauge is 0 until the slot was asked about.
func (s *Status) slotGauge(name, help string, labels prometheus.Labels, read func(*Slot) float64) {
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "outboxd_" + name, Help: help, ConstLabels: labels}, func() float64 {
		if slot := s.slot.Load(); slot != nil {
			return read(slot)
		}
		return 0
	}))
}

func (s *Status) side(side string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if side == "postgres" && s.connected || side == "kafka" && s.kafkaFault == nil || side == "registry" && s.registryFault == nil || side == "store" && s.storeFault == nil {
		return 1
	}
	return 0
}

// maxTopics is how many topics have a counter of their own. The others share one, so
// that rows which name topics cannot make metrics grow without end.
const (
	maxTopics   = 1_000
	otherTopics = "other"
)

// Acked counts an event that Kafka has acknowledged. It belongs to the Kafka
// client's goroutine.
func (s *Status) Acked(topic string, committed, acked time.Time) {
	if topic != s.lastTopic || s.lastCounter == nil {
		s.lastTopic = topic
		if s.topics[topic] == nil && len(s.topics) >= maxTopics {
			topic = otherTopics
		}
		if s.topics[topic] == nil {
			s.topics[topic] = s.published.WithLabelValues(topic)
		}
		s.lastCounter = s.topics[topic]
	}
	s.lastCounter.Inc()
	s.ackedAt.Store(int64(uptime.Of(acked)))
	s.commitToAck.Observe(acked.Sub(committed).Seconds())
}

// Acknowledged returns when Kafka last acknowledged an event, zero if it never did.
func (s *Status) Acknowledged() time.Time {
	at := s.ackedAt.Load()
	if at == 0 {
		return time.Time{}
	}
	return uptime.At(time.Duration(at))
}

// Metrics returns the metrics, to be read.
func (s *Status) Metrics() prometheus.Gatherer { return s.registry }
