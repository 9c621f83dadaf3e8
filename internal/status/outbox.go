package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Outbox is what is known of the outbox table, as last measured.
type Outbox struct {
	Rows int64 // an estimate; -1: unknown
	// OldestRow is how old the oldest row is; 0 for an empty table, and -1 where that is
	// not known without reading the table.
	OldestRow time.Duration
	Removed   int64 // rows that this process has removed
}

// UseOutbox says that there is an outbox table, of which read tells. read may be called
// by any goroutine.
func (s *Status) UseOutbox(read func() Outbox) {
	describe := func(name, help string) *prometheus.Desc { return prometheus.NewDesc("outboxd_"+name, help, nil, nil) }
	s.registry.MustRegister(&outboxCollector{
		read:    read,
		rows:    describe("outbox_rows", "Rows of the outbox table, estimated from statistics."),
		oldest:  describe("outbox_oldest_row_seconds", "Age of the oldest row of the outbox table."),
		removed: describe("retention_removed_total", "Rows that retention has removed from the outbox table."),
	})
}

// outboxCollector leaves out what is not known: a 0 would be a lie.
type outboxCollector struct {
	read                  func() Outbox
	rows, oldest, removed *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *outboxCollector) Describe(to chan<- *prometheus.Desc) {
	to <- c.rows
	to <- c.oldest
	to <- c.removed
}

// Collect implements prometheus.Collector.
func (c *outboxCollector) Collect(to chan<- prometheus.Metric) {
	o := c.read()
	if o.Rows >= 0 {
		to <- prometheus.MustNewConstMetric(c.rows, prometheus.GaugeValue, float64(o.Rows))
	}
	if o.OldestRow >= 0 {
		to <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, o.OldestRow.Seconds())
	}
	to <- prometheus.MustNewConstMetric(c.removed, prometheus.CounterValue, float64(o.Removed))
}
