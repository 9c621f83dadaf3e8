package status

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What the making of a slot waits for is told, and is no retry.
func TestWaiting(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	s.Waiting(errors.New(`making replication slot "outboxd" waits for the transaction of process 7`))
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "process 7") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	_, body := get("/metrics")
	metric(t, body, `outboxd_retries_total{side="postgres"}`, "0")
	s.Waiting(nil)
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || strings.Contains(body, "process 7") {
		t.Errorf("/readyz after the wait: %d %s", code, body)
	}
}
