package status

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// LagReport is how many records a consumer group has yet to read of a topic; or, without
// a topic, why that is not known.
type LagReport struct {
	Group   string `json:"group,omitempty"`
	Topic   string `json:"topic,omitempty"`
	Records int64  `json:"records"`
	Error   string `json:"error,omitempty"`
}

// maxLagReports bounds those of a Report: the largest.
const maxLagReports = 100

// WatchLag says that the lag of consumer groups is watched.
func (s *Status) WatchLag() { s.registry.MustRegister(lagCollector{s}) }

// Lag notes how far the groups are behind; nil: nobody knows.
func (s *Status) Lag(lags []LagReport) { s.lag.Store(&lags) }

// PublishedTopics returns the topics of which Kafka has acknowledged events.
func (s *Status) PublishedTopics() []string {
	var names []string
	for name := range s.topicTotals() {
		if name != otherTopics {
			names = append(names, name)
		}
	}
	return names
}

// lagReports returns what is not known first, then the groups that are furthest behind.
func (s *Status) lagReports() []LagReport {
	lags := s.lag.Load()
	if lags == nil {
		return nil
	}
	all := slices.Clone(*lags)
	slices.SortStableFunc(all, func(a, b LagReport) int {
		return cmp.Or(cmp.Compare(b.Error, a.Error), cmp.Compare(b.Records, a.Records))
	})
	return all[:min(len(all), maxLagReports)]
}

var lagDesc = prometheus.NewDesc("outboxd_consumer_lag", "Records that a consumer group has yet to read of a topic; absent where that is not known.", []string{"group", "topic"}, nil)

type lagCollector struct{ s *Status }

func (lagCollector) Describe(descs chan<- *prometheus.Desc) { descs <- lagDesc }

func (c lagCollector) Collect(metrics chan<- prometheus.Metric) {
	lags := c.s.lag.Load()
	if lags == nil {
		return
	}
	for _, l := range *lags {
		if l.Topic != "" {
			metrics <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(l.Records), l.Group, l.Topic)
		}
	}
}
