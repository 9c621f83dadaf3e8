package status

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	// sampleEvery is how far apart the samples of the last hour are.
	sampleEvery = 10 * time.Second
	samples     = int(time.Hour / sampleEvery)
	// ratedOver is over how many samples the rate of a topic is taken: a minute.
	ratedOver = 6
	// maxTopicReports bounds the topics of a Report: those with the most events.
	maxTopicReports = 50
)

// history is the last hour, for the page. It is filled while the page is served.
type history struct {
	mu    sync.Mutex
	ring  [samples]moment
	next  int // where the next one goes
	taken int

	before  totals                         // when the last sample was taken
	topics  map[string]*[ratedOver]float64 // totals at the last samples, by turns
	sampled [ratedOver]time.Time           // when they were taken
	turn    int
}

// moment is what happened between two samples.
type moment struct {
	at       time.Time
	events   float64 // a second
	p50, p99 float64 // seconds from commit to acknowledgement; NaN without events
}

// totals are counters since the start.
type totals struct {
	at      time.Time
	count   uint64
	buckets []bucket // cumulative
}

type bucket struct {
	upTo  float64
	count uint64
}

// keepHistory takes samples until ctx ends.
func (s *Status) keepHistory(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	s.history.add(s.totals(time.Now()), s.topicTotals())
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.history.add(s.totals(now), s.topicTotals())
		}
	}
}

// totals reads the counters.
func (s *Status) totals(now time.Time) totals {
	var m dto.Metric
	if s.commitToAck.Write(&m) != nil {
		return totals{at: now}
	}
	t := totals{at: now, count: m.Histogram.GetSampleCount()}
	for _, b := range m.Histogram.Bucket {
		t.buckets = append(t.buckets, bucket{b.GetUpperBound(), b.GetCumulativeCount()})
	}
	return t
}

// topicTotals reads how many events of each topic were acknowledged.
func (s *Status) topicTotals() map[string]float64 { return countsOf(s.published) }

// countsOf reads counters by their only label.
func countsOf(vec *prometheus.CounterVec) map[string]float64 {
	metrics := make(chan prometheus.Metric, maxTopics+1)
	go func() {
		defer close(metrics)
		vec.Collect(metrics)
	}()
	all := make(map[string]float64)
	for metric := range metrics {
		var m dto.Metric
		if metric.Write(&m) == nil {
			all[m.Label[0].GetValue()] = m.Counter.GetValue()
		}
	}
	return all
}

// add takes a sample.
func (h *history) add(now totals, topics map[string]float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.before.at.IsZero() && now.at.After(h.before.at) {
		m := moment{at: now.at, events: float64(now.count-h.before.count) / now.at.Sub(h.before.at).Seconds()}
		m.p50, m.p99 = quantile(0.5, h.before, now), quantile(0.99, h.before, now)
		h.ring[h.next] = m
		h.next = (h.next + 1) % samples
		h.taken = min(h.taken+1, samples)
	}
	h.before = now
	if h.topics == nil {
		h.topics = make(map[string]*[ratedOver]float64)
	}
	for name, total := range topics {
		if h.topics[name] == nil {
			h.topics[name] = new([ratedOver]float64)
		}
		h.topics[name][h.turn] = total
	}
	h.sampled[h.turn] = now.at
	h.turn = (h.turn + 1) % ratedOver
}

// quantile estimates, as Prometheus' histogram_quantile does, below which latency the
// share q of the events between two totals lies; NaN without events.
func quantile(q float64, before, now totals) float64 {
	in := func(i int) float64 {
		n := now.buckets[i].count
		if i < len(before.buckets) {
			n -= before.buckets[i].count
		}
		return float64(n)
	}
	all := float64(now.count - before.count)
	if all == 0 || len(now.buckets) == 0 {
		return math.NaN()
	}
	rank, lower, below := q*all, 0.0, 0.0
	for i, b := range now.buckets {
		if n := in(i); n >= rank {
			return lower + (b.upTo-lower)*(rank-below)/(n-below)
		} else {
			lower, below = b.upTo, n
		}
	}
	return lower // beyond the last bucket
}

// HistoryReport is the last hour, oldest first. Where no event was acknowledged, a
// latency is null.
type HistoryReport struct {
	EverySeconds float64    `json:"every_seconds"`
	Until        time.Time  `json:"until"`
	Events       []float64  `json:"events_per_second"`
	P50          []*float64 `json:"commit_to_ack_p50_seconds"`
	P99          []*float64 `json:"commit_to_ack_p99_seconds"`
}

// report returns the last hour.
func (h *history) report() HistoryReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := HistoryReport{EverySeconds: sampleEvery.Seconds(), Until: h.before.at, Events: []float64{}, P50: []*float64{}, P99: []*float64{}}
	for i := range h.taken {
		m := h.ring[(h.next-h.taken+i+samples)%samples]
		r.Events = append(r.Events, rounded(m.events))
		r.P50, r.P99 = append(r.P50, known(m.p50)), append(r.P99, known(m.p99))
	}
	return r
}

// last returns the newest sample, zero before there is one.
func (h *history) last() moment {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ring[(h.next-1+samples)%samples]
}

// TopicReport is what was delivered to a topic.
type TopicReport struct {
	Topic     string  `json:"topic"`
	Published int64   `json:"published"`  // since the start of the process
	PerSecond float64 `json:"per_second"` // over the last minute
}

// topicReports returns the topics with the most events of late, and how many more there
// are.
func (h *history) topicReports(now time.Time, totals map[string]float64) (reports []TopicReport, more int) {
	h.mu.Lock()
	oldest := h.turn // which is overwritten next; or the first there is
	if h.sampled[oldest].IsZero() {
		oldest = 0
	}
	over := now.Sub(h.sampled[oldest]).Seconds()
	for name, total := range totals {
		r := TopicReport{Topic: name, Published: int64(total)}
		if over > 0 && !h.sampled[oldest].IsZero() {
			was := 0.0
			if counts := h.topics[name]; counts != nil {
				was = counts[oldest]
			}
			r.PerSecond = rounded((total - was) / over)
		}
		reports = append(reports, r)
	}
	h.mu.Unlock()
	slices.SortFunc(reports, func(a, b TopicReport) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(b.Published, a.Published), cmp.Compare(a.Topic, b.Topic))
	})
	if more = len(reports) - maxTopicReports; more > 0 {
		return reports[:maxTopicReports], more
	}
	return reports, 0
}

// rounded keeps what a plot can show.
func rounded(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

func known(x float64) *float64 {
	if math.IsNaN(x) {
		return nil
	}
	x = rounded(x)
	return &x
}
