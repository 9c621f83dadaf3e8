package status

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Topics that rows name do not make the metrics grow without end; every event is
// counted.
func TestTopicsBeyondTheBoundShareACounter(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	now := time.Now()
	for range 2 {
		for i := range maxTopics + 500 {
			s.Acked(fmt.Sprint("topic-", i), now, now)
		}
	}
	_, metrics := get("/metrics")
	if n := strings.Count(metrics, "outboxd_events_published_total{"); n != maxTopics+1 {
		t.Errorf("%d series, want %d", n, maxTopics+1)
	}
	for _, want := range []string{`outboxd_events_published_total{topic="topic-0"} 2`, `outboxd_events_published_total{topic="topic-999"} 2`, `outboxd_events_published_total{topic="other"} 1000`} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}
