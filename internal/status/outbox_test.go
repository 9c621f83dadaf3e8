package status

import (
	"strings"
	"testing"
	"time"
)

// What is not known of the table is left out, and not 0.
func TestOutbox(t *testing.T) {
	s := New(time.Minute)
	known := Outbox{Rows: -1, OldestRow: -1}
	s.UseOutbox(func() Outbox { return known })
	get := serve(t, s)
	_, body := get("/metrics")
	metric(t, body, "outboxd_retention_removed_total", "0")
	if strings.Contains(body, "\noutboxd_outbox_") {
		t.Error("something is said of a table that was not measured")
	}
	known = Outbox{Rows: 5, OldestRow: 90 * time.Second, Removed: 7}
	_, body = get("/metrics")
	metric(t, body, "outboxd_outbox_rows", "5")
	metric(t, body, "outboxd_outbox_oldest_row_seconds", "90")
	metric(t, body, "outboxd_retention_removed_total", "7")
}
