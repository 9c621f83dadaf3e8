package status

import (
	"fmt"
	"time"
)

// The roles of a process. One that waits has a fault, or starts.
const (
	Streaming = "streaming"
	Standby   = "standby"
	Backfill  = "backfill"
	Waiting   = "waiting"
)

var roles = []string{Streaming, Standby, Backfill, Waiting}

// Role returns what this process does now.
func (s *Status) Role() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.role()
}

// role is Role, of a caller who holds mu.
func (s *Status) role() string {
	switch {
	case s.connected && s.backfill.Load().running():
		return Backfill
	case s.connected:
		return Streaming
	case s.standby != nil:
		return Standby
	}
	return Waiting
}

// NotReady returns why the connector does not do its job, or nil.
func (s *Status) NotReady() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notReady()
}

// stuckAfter is how long the working goroutine may not be seen while it streams.
const stuckAfter = time.Minute

// Stuck reports whether the process makes no progress, so that only a restart
// helps. A fault of PostgreSQL or Kafka is none: it is waited for.
func (s *Status) Stuck() bool {
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
	case s.storeFault != nil:
		return s.storeFault
	case s.postgresFault != nil:
		return s.postgresFault
	case s.unobserved != nil:
		return s.unobserved
	case !s.connected && s.standby == nil:
		return errStarting
	case !s.kafkaSeen && s.ackedAt.Load() == 0:
		return errKafkaUnknown
	case !s.connected:
		return nil // standing by, and able to take over
	case s.backfill.Load().running():
		b := s.backfill.Load()
		return fmt.Errorf("backfill: %d of %d rows published", b.published(), b.expected)
	case time.Since(s.confirmedAt) > s.readyWithin && time.Since(s.Acknowledged()) > s.readyWithin:
		return errUnconfirmed
	}
	return nil
}
