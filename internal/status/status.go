// Package status is what a running connector says of itself: metrics, readiness
// and the state as JSON. The stages report to it; it never reaches back.
package status

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"
)

// Status is safe for any goroutine, but for Acked, which belongs to one.
type Status struct {
	reconciled *reconciled // nil: the outbox is not compared

	registry *prometheus.Registry

	published     *prometheus.CounterVec
	publishErrors *prometheus.CounterVec
	retries       *prometheus.CounterVec
	commitToAck   prometheus.Histogram
	discarded     prometheus.Counter
	unmasked      *prometheus.CounterVec
	deadLettered  *prometheus.CounterVec
	discards      atomic.Int64

	// The counters of topics, and that of the topic that was counted last.
	topics      map[string]prometheus.Counter
	lastTopic   string
	lastCounter prometheus.Counter

	ackedAt  atomic.Int64 // as of uptime.Of; 0: never
	gauges   atomic.Pointer[Gauges]
	slot     atomic.Pointer[Slot]
	backfill atomic.Pointer[backfill]
	held     held
	history  history
	errors   lastErrors
	lag      atomic.Pointer[[]LagReport]
	checked  atomic.Pointer[CheckReport]

	build string // the version, set before anything is served

	mu            sync.Mutex
	started       time.Time
	connected     bool
	postgresFault error
	kafkaFault    error
	registryFault error
	unobserved    error // why nobody knows whether the outbox is still published
	storeFault    error
	standby       error     // why another process does the work; nil: this one does
	kafkaSeen     bool      // the cluster has answered
	confirmedAt   time.Time // when everything was confirmed, or something more
	discardsThen  int64
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
			Buckets: []float64{.0005, .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600},
		}),
		topics: make(map[string]prometheus.Counter),
		unmasked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_mask_unmatched_total", Help: "Payloads in which a path of value.mask selects nothing.",
		}, []string{"path"}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outboxd_events_discarded_total", Help: "Events that a rule with an empty topic has discarded.",
		}),
		started:      time.Now(),
		readyWithin:  readyWithin,
		deadLettered: newDeadLettered(),
	}
	s.registry.MustRegister(s.deadLettered, s.published, s.publishErrors, s.retries, s.commitToAck, s.discarded, s.unmasked)
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
	s.registerHeld()
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
	for _, role := range roles {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "outboxd_role", Help: "1 for what this process does now.", ConstLabels: prometheus.Labels{"role": role},
		}, func() float64 {
			if s.Role() == role {
				return 1
			}
			return 0
		}))
	}
	return s
}

// Streaming says that a session has begun.
func (s *Status) Streaming(g *Gauges) {
	s.gauges.Store(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connected, s.postgresFault, s.unobserved, s.storeFault, s.standby, s.confirmedAt = true, nil, nil, nil, nil, time.Now()
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

// StandBy says that another process has the slot, and that this one takes over when
// it ends. That is no fault.
func (s *Status) StandBy(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standby, s.postgresFault, s.storeFault = reason, nil, nil
}

// Discarded counts an event that is not published because a rule says so.
func (s *Status) Discarded() {
	s.discarded.Inc()
	s.discards.Add(1)
}

// Fault says why the next session has to wait. side is postgres, kafka, registry or
// store: who really failed.
func (s *Status) Fault(side string, err error) {
	s.retries.WithLabelValues(side).Inc()
	s.errors.add(side, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standby = nil
	switch side {
	case "store":
		s.storeFault = err
	case "kafka":
		s.publishErrors.WithLabelValues("delivery").Inc()
		s.kafkaFault = err
	case "registry":
		s.registryFault = err
	default:
		s.postgresFault = err
	}
}

// Waiting says what a start waits for in PostgreSQL, or with nil that it no longer
// does. It counts no retry.
func (s *Status) Waiting(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.postgresFault = err
}

// Kafka says why Kafka acknowledges nothing or does not answer, or with nil that it
// does. Until it has answered once, nothing is known of it.
func (s *Status) Kafka(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors.addChanged("kafka", s.kafkaFault, err)
	s.kafkaFault = err
	s.kafkaSeen = s.kafkaSeen || err == nil
}

// Store says why positions cannot be stored, or with nil that they are.
func (s *Status) Store(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors.addChanged("store", s.storeFault, err)
	s.storeFault = err
}

// Unobserved says why positions wait although events are acknowledged, or with nil
// that they do not.
func (s *Status) Unobserved(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors.addChanged("postgres", s.unobserved, err)
	s.unobserved = err
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
	if n := s.discards.Load(); n != s.discardsThen {
		s.discardsThen, s.confirmedAt = n, time.Now()
	}
}
