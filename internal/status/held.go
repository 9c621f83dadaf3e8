package status

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"outboxd/internal/walheld"
)

// held is what is remembered of the slot between two looks at it.
type held struct {
	mu     sync.Mutex
	seen   time.Time // when the slot was looked at last
	rewind string    // delivery.rewind for people, "" for none
	trend  trend
	// said is the reason that was logged last, and next one that is logged if the
	// next look finds it still.
	said, next walheld.Reason
}

// UseRewind says what delivery.rewind is, in words.
func (s *Status) UseRewind(rewind string) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	s.held.rewind = rewind
}

// Slot notes the slot's health.
func (s *Status) Slot(slot Slot) {
	s.slot.Store(&slot)
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	s.held.seen = time.Now()
	s.held.trend.add(s.held.seen, slot.Safe)
}

// caughtUpWithin is how many bytes of WAL lie between an ordinary load and what outboxd
// has confirmed of it.
const caughtUpWithin = 32 << 20

// CaughtUp reports whether the process streams, and had confirmed nearly all that the
// server had written when the slot was looked at last. Before that, it has not.
func (s *Status) CaughtUp() bool {
	slot, g := s.slot.Load(), s.gauges.Load()
	if slot == nil || slot.Held.Written == 0 || g == nil || s.Role() != Streaming {
		return false
	}
	return g.Confirmed()+caughtUpWithin >= slot.Held.Written
}

// Why returns why PostgreSQL keeps WAL for the slot, from what the server said last and
// from what this process knows now. Without a Cause nobody has asked the server yet.
func (s *Status) Why() walheld.Reason {
	slot := s.slot.Load()
	if slot == nil {
		return walheld.Reason{}
	}
	f := slot.Held
	s.held.mu.Lock()
	f.Rewind = s.held.rewind
	s.held.mu.Unlock()
	var unacked time.Duration
	if g := s.gauges.Load(); g != nil {
		f.Stored, unacked = g.Confirmed(), g.OldestUnacked()
		f.Topics = g.waitingFor(unacked)
		if g.Busy != nil {
			f.Busy = g.Busy()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Active = f.Active || s.connected // since the server was asked
	if err := s.notReady(); err != nil && s.role() != Standby {
		f.Waits = err.Error()
		if s.kafkaFault != nil && unacked >= time.Second {
			f.Unacked = time.Now().Add(-unacked)
		}
	}
	return walheld.Why(f)
}

// unackedShown is how many topics are named at most.
const unackedShown = 100

// waitingFor returns the topics on which Kafka acknowledges nothing, if it has not for a
// while.
func (g *Gauges) waitingFor(unacked time.Duration) []string {
	if g.UnackedTopics == nil || unacked < time.Second {
		return nil
	}
	names := g.UnackedTopics()
	return names[:min(len(names), unackedShown)]
}

// WhyChanged returns Why, and whether it is to be logged: it is another than was logged
// last, and was already so at the look before. A process that stands by logs nothing,
// because the one that streams does. It is for one goroutine, once after each Slot.
func (s *Status) WhyChanged() (walheld.Reason, bool) {
	why := s.Why()
	if why.Cause == "" || s.Role() == Standby {
		return why, false
	}
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	h := &s.held
	if h.said.Cause == "" {
		h.said.Cause = walheld.CauseNothing
	}
	again := why.Same(h.next)
	if h.next = why; why.Same(h.said) || !again {
		return why, false
	}
	h.said = why
	return why, true
}

// LostIn returns after how long PostgreSQL invalidates the slot, if what it may hold
// still shrinks as it did during the last minutes; false where there is no limit, where
// it does not shrink, and before that is known.
func (s *Status) LostIn() (time.Duration, bool) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	return s.held.trend.empty()
}

const (
	// trendOver is how far back the trend looks: long enough to see past the steps in
	// which restart_lsn moves, every 15 s or more.
	trendOver = 5 * time.Minute
	// trendNeeds is how much must have been seen of it.
	trendNeeds = 45 * time.Second
	// longest is beyond what a trend of minutes can say.
	longest = 365 * 24 * time.Hour
)

// trend is how the bytes that may be written before a slot can lose WAL develop.
type trend struct{ samples []sample }

type sample struct {
	at   time.Time
	safe int64
}

// add notes how many bytes are safe; negative: there is no limit.
func (t *trend) add(at time.Time, safe int64) {
	if safe < 0 {
		t.samples = nil
		return
	}
	keep := 0
	for keep < len(t.samples) && at.Sub(t.samples[keep].at) > trendOver {
		keep++
	}
	t.samples = append(t.samples[keep:len(t.samples):len(t.samples)], sample{at, safe})
}

// empty returns when nothing is safe any more, from the newest sample on, by the line
// of least squares through the samples.
func (t *trend) empty() (time.Duration, bool) {
	if len(t.samples) == 0 {
		return 0, false
	}
	last := t.samples[len(t.samples)-1]
	if last.safe == 0 {
		return 0, true
	}
	if last.at.Sub(t.samples[0].at) < trendNeeds {
		return 0, false
	}
	n := float64(len(t.samples))
	var x, y float64
	for _, s := range t.samples {
		x += last.at.Sub(s.at).Seconds() / n // ago
		y += float64(s.safe) / n
	}
	var products, squares float64
	for _, s := range t.samples {
		ago := last.at.Sub(s.at).Seconds() - x
		products += ago * (float64(s.safe) - y)
		squares += ago * ago
	}
	shrinks := products / squares // bytes a second
	seconds := float64(last.safe) / shrinks
	if shrinks <= 0 || seconds > longest.Seconds() {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// registerHeld makes the metrics of why WAL is held.
func (s *Status) registerHeld() {
	s.slotGauge("slot_wal_before_confirmed_bytes", "WAL before the slot's confirmed position: it is kept for transactions that were open there.", nil,
		func(slot *Slot) float64 { return float64(slot.Held.Before()) })
	s.slotGauge("slot_wal_after_confirmed_bytes", "WAL behind the slot's confirmed position: it is kept until outboxd has delivered it.", nil,
		func(slot *Slot) float64 { return float64(slot.Held.After()) })
	for _, cause := range walheld.Causes() {
		s.slotGauge("slot_wal_held_by", "1 for what PostgreSQL keeps WAL for; /status says it in a sentence.", prometheus.Labels{"cause": string(cause)}, func(*Slot) float64 {
			if s.Why().Cause == cause {
				return 1
			}
			return 0
		})
	}
	s.registry.MustRegister(optional{
		desc: prometheus.NewDesc("outboxd_slot_lost_in_seconds", "When PostgreSQL invalidates the slot, at the rate of the last minutes; absent when it does not.", nil, nil),
		read: func() (float64, bool) {
			in, ok := s.LostIn()
			return math.Round(in.Seconds()), ok
		},
	})
}

// optional is a gauge that is absent when there is nothing to say.
type optional struct {
	desc *prometheus.Desc
	read func() (float64, bool)
}

func (o optional) Describe(descs chan<- *prometheus.Desc) { descs <- o.desc }

func (o optional) Collect(metrics chan<- prometheus.Metric) {
	if value, ok := o.read(); ok {
		metrics <- prometheus.MustNewConstMetric(o.desc, prometheus.GaugeValue, value)
	}
}
