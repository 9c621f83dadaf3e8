package status

import (
	"time"

	"outboxd/internal/walheld"
)

// Report is the answer of /status, and what `outboxd status` prints: what a process says
// of itself, or who looked at PostgreSQL says of the slot. What is not known is absent.
type Report struct {
	// Role is that of the process; or, where none answers, streaming or stopped, by
	// what PostgreSQL says of the slot; or unknown.
	Role   string `json:"role"`
	Ready  *bool  `json:"ready,omitempty"` // only the process knows
	Reason string `json:"reason,omitempty"`

	*Process

	Slot       string `json:"slot,omitempty"`
	SlotExists *bool  `json:"slot_exists,omitempty"`
	SlotLSN    string `json:"slot_confirmed_lsn,omitempty"`
	RestartLSN string `json:"slot_restart_lsn,omitempty"`
	WALStatus  string `json:"slot_wal_status,omitempty"`
	StoredLSN  string `json:"stored_lsn,omitempty"`
	// Retained is the WAL that is kept for the slot, in bytes; Before and After are its
	// parts before and behind the confirmed position.
	Retained *int64 `json:"slot_retained_bytes,omitempty"`
	Before   *int64 `json:"slot_wal_before_confirmed_bytes,omitempty"`
	After    *int64 `json:"slot_wal_after_confirmed_bytes,omitempty"`
	// Safe is how much may be written before the slot can lose some.
	Safe      *int64 `json:"slot_safe_bytes,omitempty"`
	Unlimited bool   `json:"slot_unlimited,omitempty"`
	// LostIn is when the slot is invalidated at the present rate, in seconds.
	LostIn *float64 `json:"slot_lost_in_seconds,omitempty"`
	// HeldBy is the cause, and Why the sentence.
	HeldBy walheld.Cause `json:"wal_held_by,omitempty"`
	Why    string        `json:"why_wal_is_held,omitempty"`

	Unseen []string `json:"not_seen,omitempty"`
}

// Process is what only a process knows of itself.
type Process struct {
	Version        string  `json:"version,omitempty"`
	UptimeSeconds  float64 `json:"uptime_seconds"`
	Streaming      bool    `json:"streaming"`
	ReceivedLSN    string  `json:"received_lsn,omitempty"`
	ConfirmedLSN   string  `json:"confirmed_lsn,omitempty"`
	InFlightEvents int64   `json:"in_flight_events"`
	InFlightBytes  int64   `json:"in_flight_bytes"`
	OldestUnacked  float64 `json:"oldest_unacked_seconds"`
	// UnackedTopics are the topics of what is in flight, once that has lasted a second.
	UnackedTopics []string `json:"unacked_topics,omitempty"`
	// SlotAge is how long ago the slot was looked at.
	SlotAge *float64 `json:"slot_seen_seconds_ago,omitempty"`
	// What the operator should know of the server, in words.
	WaitsFor    string `json:"waits_for,omitempty"`
	Synchronous string `json:"synchronous_standby,omitempty"`

	Backfill *BackfillReport `json:"backfill,omitempty"`
	// Reconcile is the last comparison with Kafka, where they are made.
	Reconcile *ReconcileReport `json:"reconcile,omitempty"`

	// Published is how many events Kafka has acknowledged since the start, EventsRate
	// how many a second of late, and P50 and P99 the time that this took from their
	// commit on; absent without events.
	Published  int64         `json:"published"`
	EventsRate float64       `json:"events_per_second"`
	P50        *float64      `json:"commit_to_ack_p50_seconds,omitempty"`
	P99        *float64      `json:"commit_to_ack_p99_seconds,omitempty"`
	Topics     []TopicReport `json:"topics,omitempty"`
	MoreTopics int           `json:"more_topics,omitempty"`
	Lag        []LagReport   `json:"consumer_lag,omitempty"`
	// DeadLetters are the events of each kind that this process has set aside.
	DeadLetters map[string]int64 `json:"dead_letters,omitempty"`
	LastErrors  []ErrorReport    `json:"last_errors,omitempty"`
	Check       *CheckReport     `json:"check,omitempty"`
}

// CheckReport is what the check of the start warned of.
type CheckReport struct {
	At       time.Time `json:"at"`
	Warnings []Warning `json:"warnings"`
}

// Warning is one of a check.
type Warning struct {
	Check string `json:"check"` // what was looked at
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"`
}

// Checked notes what the check of the start warned of.
func (s *Status) Checked(warnings []Warning) {
	s.checked.Store(&CheckReport{time.Now(), append([]Warning{}, warnings...)})
}

// BackfillReport is how far the rows from before the slot are.
type BackfillReport struct {
	Expected  int64 `json:"expected_rows"`
	Published int64 `json:"published_rows"`
	Done      bool  `json:"done"`
}

// Report returns what this process says of itself.
func (s *Status) Report() Report {
	p := &Process{}
	r := Report{Process: p}
	s.mu.Lock()
	p.UptimeSeconds, p.Streaming, r.Role = time.Since(s.started).Seconds(), s.connected, s.role()
	err := s.notReady()
	ready := err == nil
	if r.Ready = &ready; err != nil {
		r.Reason = err.Error()
	} else if s.standby != nil {
		r.Reason = s.standby.Error()
	}
	s.mu.Unlock()
	if g := s.gauges.Load(); g != nil {
		p.ReceivedLSN = g.ReceivedLSN().String()
		p.ConfirmedLSN = g.Confirmed().String()
		p.InFlightEvents = g.InFlightEvents()
		p.InFlightBytes = g.InFlightBytes()
		unacked := g.OldestUnacked()
		p.OldestUnacked, p.UnackedTopics = unacked.Seconds(), g.waitingFor(unacked)
		if g.Busy != nil {
			p.WaitsFor = g.Busy()
		}
	}
	if slot := s.slot.Load(); slot != nil {
		r.AddSlot(*slot)
		p.Synchronous = slot.Synchronous
		s.held.mu.Lock()
		age := time.Since(s.held.seen).Seconds()
		s.held.mu.Unlock()
		p.SlotAge = &age
		if in, ok := s.LostIn(); ok {
			seconds := in.Seconds()
			r.LostIn = &seconds
		}
		r.SetWhy(s.Why())
	}
	if b := s.backfill.Load(); b != nil {
		p.Backfill = &BackfillReport{b.expected, b.published(), b.done.Load()}
	}
	p.Reconcile = s.Reconcile()
	s.addTraffic(p)
	p.Check = s.checked.Load()
	p.Lag, p.LastErrors = s.lagReports(), s.errors.report()
	return r
}

// addTraffic says what was delivered.
func (s *Status) addTraffic(p *Process) {
	p.Version = s.build
	totals := s.topicTotals()
	for _, n := range totals {
		p.Published += int64(n)
	}
	p.DeadLetters = s.deadLetters()
	p.Topics, p.MoreTopics = s.history.topicReports(time.Now(), totals)
	if last := s.history.last(); !last.at.IsZero() {
		p.EventsRate, p.P50, p.P99 = rounded(last.events), known(last.p50), known(last.p99)
	}
}

// AddSlot takes over what PostgreSQL says of a slot that exists.
func (r *Report) AddSlot(slot Slot) {
	r.Slot, r.SlotLSN, r.WALStatus = slot.Held.Slot, slot.Confirmed, slot.WALStatus
	if slot.Held.Restart != 0 {
		before, after := slot.Held.Before(), slot.Held.After()
		r.RestartLSN, r.Before, r.After = slot.Held.Restart.String(), &before, &after
	}
	if r.Retained, r.Safe, r.Unlimited = &slot.Retained, nil, slot.Safe < 0; slot.Safe >= 0 {
		r.Safe = &slot.Safe
	}
}

// SetWhy says why WAL is held.
func (r *Report) SetWhy(why walheld.Reason) { r.HeldBy, r.Why = why.Cause, why.Text }
