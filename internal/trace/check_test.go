package trace

import (
	"net/http"
	"strings"
	"testing"

	"outboxd/internal/finding"
)

// A collector is asked with a request without spans; one that does not take it is named
// with the key, and is no reason not to start.
func TestCheck(t *testing.T) {
	c := newCollector(t)
	if found := New(Options{Endpoint: c.URL}).Check(t.Context()); len(found) != 1 || found[0].Level != finding.OK {
		t.Errorf("%+v", found)
	}
	c.answers(status(http.StatusNotFound))
	for endpoint, says := range map[string]string{c.URL: "404 Not Found", "http://127.0.0.1:1": "connection refused"} {
		found := New(Options{Endpoint: endpoint}).Check(t.Context())
		if len(found) != 1 || found[0].Level != finding.Warn || !strings.Contains(found[0].Text, says) || !strings.Contains(found[0].Fix, "monitor.trace.endpoint") {
			t.Errorf("%s: %+v", endpoint, found)
		}
	}
}
