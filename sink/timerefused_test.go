package sink

import (
	"strings"
	"testing"
	"time"

	"outboxd/internal/record"
)

// A time that the broker refuses, before its limit was known, names the key of the column
// that it is from, and no key where it is the commit's.
func TestTimeRefusedNamesItsKey(t *testing.T) {
	for clock, column := range map[record.Clock]bool{record.BusinessTime: true, record.CommitTime: false} {
		for _, off := range []time.Duration{72 * time.Hour, -72 * time.Hour} {
			d := &Delivery{Record: record.Record{Clock: clock}}
			d.Record.Context, d.Timestamp = d, time.Now().Add(off)
			text := timeRefused(&d.Record.Record)
			if strings.Contains(text, "outbox.columns.timestamp") != column || !strings.Contains(text, "72h0m0s") {
				t.Errorf("clock %d, %s: %s", clock, off, text)
			}
		}
	}
}
