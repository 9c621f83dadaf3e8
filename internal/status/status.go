// Package status is what a running connector says of itself: metrics, readiness
// and the state as JSON. The stages report to it; it never reaches back.
package status

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
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
	// Alive is when the goroutine that does the work was last seen at it.
	Alive func() time.Time
}

// Slot is what the replication slot costs its server, as last asked for.
type Slot struct {
	Retained  int64 // bytes of WAL that are kept for it
	Safe      int64 // bytes that may be written before it can lose WAL; -1: no limit
	WALStatus string
	Confirmed string // the LSN before which nothing can be read again
}

// walStatuses are those of pg_replication_slots.
var walStatuses = []string{"reserved", "extended", "unreserved", "lost"}

// Status is safe for any goroutine, but for Acked, which belongs to one.
type Status struct {
	registry *prometheus.Registry

	published     *prometheus.CounterVec
	publishErrors *prometheus.CounterVec
	retries       *prometheus.CounterVec
	commitToAck   prometheus.Histogram

	// The counter of the topic that was counted last.
	lastTopic   string
	lastCounter prometheus.Counter

	gauges   atomic.Pointer[Gauges]
	slot     atomic.Pointer[Slot]
	backfill atomic.Pointer[backfill]

	mu            sync.Mutex
	started       time.Time
	connected     bool
	postgresFault error
	kafkaFault    error
	registryFault error
	confirmedAt   time.Time // when everything was confirmed, or something more
	confirmedLSN  pglogrepl.LSN
	readyWithin   time.Duration
}

// New returns the status of a connector that is starting. It is ready while the
// last confirmation is younger than readyWithin.
func New(readyWithin time.Duration) *Status {
	s := &Status{
		registry: prometheus.NewRegistry(),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_events_published_total", Help: "Events that Kafka has acknowledged.",
		}, []string{"topic"}),
		publishErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_publish_errors_total", Help: "Deliveries that failed, by kind.",
		}, []string{"kind"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_retries_total", Help: "Sessions begun again after a fault, by the side that had it.",
		}, []string{"side"}),
		commitToAck: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outboxd_commit_to_ack_seconds", Help: "Time from a transaction's commit to Kafka's acknowledgement of its events.",
			Buckets: []float64{.001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
		}),
		started:     time.Now(),
		readyWithin: readyWithin,
	}
	s.registry.MustRegister(s.published, s.publishErrors, s.retries, s.commitToAck,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.gauge("in_flight_events", "Events handed to Kafka and not yet acknowledged.", func(g *Gauges) float64 { return float64(g.InFlightEvents()) })
	s.gauge("in_flight_bytes", "Memory held by events that are not yet acknowledged.", func(g *Gauges) float64 { return float64(g.InFlightBytes()) })
	s.gauge("oldest_unacked_seconds", "How long Kafka has acknowledged nothing although something is in flight.", func(g *Gauges) float64 { return g.OldestUnacked().Seconds() })
	s.gauge("received_lsn", "Newest position that the server named on this stream.", func(g *Gauges) float64 { return float64(g.ReceivedLSN()) })
	s.gauge("confirmed_lsn", "Position up to which everything is acknowledged by Kafka.", func(g *Gauges) float64 { return float64(g.Confirmed()) })
	s.slotGauge("slot_retained_bytes", "WAL that PostgreSQL keeps for the slot.", nil, func(slot *Slot) float64 { return float64(slot.Retained) })
	s.slotGauge("slot_safe_bytes", "WAL that may be written before the slot can lose some; +Inf without a limit.", nil, func(slot *Slot) float64 {
		if slot.Safe < 0 {
			return math.Inf(1)
		}
		return float64(slot.Safe)
	})
	for _, status := range walStatuses {
		s.slotGauge("slot_wal_status", "1 for the slot's wal_status of now.", prometheus.Labels{"status": status}, func(slot *Slot) float64 {
			if slot.WALStatus == status {
				return 1
			}
			return 0
		})
	}
	for state, read := range map[string]func(*backfill) int64{
		"expected":  func(b *backfill) int64 { return b.expected },
		"published": func(b *backfill) int64 { return b.published() },
	} {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "outboxd_backfill_rows", Help: "Rows from before the slot, of the backfill that this process has begun.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 {
			if b := s.backfill.Load(); b != nil {
				return float64(read(b))
			}
			return 0
		}))
	}
	for _, side := range []string{"postgres", "kafka"} {
		s.registerSide(side)
	}
	return s
}

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

// Slot notes the slot's health.
func (s *Status) Slot(slot Slot) { s.slot.Store(&slot) }

func (s *Status) side(side string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if side == "postgres" && s.connected || side == "kafka" && s.kafkaFault == nil || side == "registry" && s.registryFault == nil {
		return 1
	}
	return 0
}

// Acked counts an event that Kafka has acknowledged. It belongs to the Kafka
// client's goroutine.
func (s *Status) Acked(topic string, committed, acked time.Time) {
	if topic != s.lastTopic || s.lastCounter == nil {
		s.lastTopic, s.lastCounter = topic, s.published.WithLabelValues(topic)
	}
	s.lastCounter.Inc()
	s.commitToAck.Observe(acked.Sub(committed).Seconds())
}

// Streaming says that a session has begun.
func (s *Status) Streaming(g *Gauges) {
	s.gauges.Store(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected, s.postgresFault, s.confirmedAt = true, nil, time.Now()
}

// backfill is how far the rows from before the slot are.
type backfill struct {
	expected int64
	progress func() int64
	done     atomic.Bool
}

func (b *backfill) running() bool { return b != nil && !b.done.Load() }

func (b *backfill) published() int64 {
	if b.done.Load() {
		return b.expected
	}
	return b.progress()
}

// Backfill says that rows from before the slot are being published, expected of
// them. Until Backfilled the connector is not ready.
func (s *Status) Backfill(expected int64, published func() int64) {
	s.backfill.Store(&backfill{expected: expected, progress: published})
}

// Backfilled says that Kafka has them all.
func (s *Status) Backfilled() {
	if b := s.backfill.Load(); b != nil {
		b.done.Store(true)
	}
}

// Stopped says that the session has ended.
func (s *Status) Stopped() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected = false
}

// Fault says why the next session has to wait. side is postgres, kafka or
// registry.
func (s *Status) Fault(side string, err error) {
	s.retries.WithLabelValues(side).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch side {
	case "kafka":
		s.publishErrors.WithLabelValues("delivery").Inc()
		s.kafkaFault = err
	case "registry":
		s.registryFault = err
	default:
		s.postgresFault = err
	}
}

// Kafka says why Kafka acknowledges nothing, or with nil that it does.
func (s *Status) Kafka(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kafkaFault = err
}

// RegistryAnswered says that the schema registry has given what was asked for.
func (s *Status) RegistryAnswered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registryFault = nil
}

// Confirmed notes a round of confirmation. all says that nothing is waiting.
func (s *Status) Confirmed(lsn pglogrepl.LSN, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lsn > s.confirmedLSN || all {
		s.confirmedLSN = max(lsn, s.confirmedLSN)
		s.confirmedAt = time.Now()
	}
}

// stuckAfter is how long the working goroutine may not be seen while it streams.
const stuckAfter = time.Minute

// stuck reports whether the process makes no progress, so that only a restart
// helps. A fault of PostgreSQL or Kafka is none: it is waited for.
func (s *Status) stuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gauges.Load()
	return s.connected && g != nil && time.Since(g.Alive()) > stuckAfter
}

// notReady returns why the connector is not ready, or nil. The caller holds mu.
func (s *Status) notReady() error {
	switch {
	case s.kafkaFault != nil:
		return s.kafkaFault
	case s.registryFault != nil:
		return s.registryFault
	case s.postgresFault != nil:
		return s.postgresFault
	case !s.connected:
		return errStarting
	case s.backfill.Load().running():
		b := s.backfill.Load()
		return fmt.Errorf("backfill: %d of %d rows published", b.published(), b.expected)
	case time.Since(s.confirmedAt) > s.readyWithin:
		return errUnconfirmed
	}
	return nil
}
