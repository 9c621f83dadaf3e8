package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

var httpAddress = regexp.MustCompile(`"address":"([^"]+)"`)

// page asks the connector's HTTP server, which listens where it logged.
func (c *connector) page(path string) (code int, body string) {
	c.t.Helper()
	m := httpAddress.FindStringSubmatch(c.tail(1 << 20))
	if m == nil {
		c.t.Fatalf("no HTTP address in:\n%s", c.tail(10))
	}
	resp, err := http.Get("http://" + m[1] + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// metric returns a sample's value, by its name and labels as they are printed.
func (c *connector) metric(sample string) float64 {
	c.t.Helper()
	_, body := c.page("/metrics")
	for line := range strings.Lines(body) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == sample {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				c.t.Fatalf("%s: %v", line, err)
			}
			return v
		}
	}
	c.t.Fatalf("no sample %s", sample)
	return 0
}

func (c *connector) waitReady(t *testing.T, ready bool, says ...string) {
	t.Helper()
	waitFor(t, 60*time.Second, func() (string, bool) {
		code, body := c.page("/readyz")
		fits := (code == http.StatusOK) == ready
		for _, s := range says {
			fits = fits && strings.Contains(body, s)
		}
		return fmt.Sprintf("/readyz says %d %q, want ready %t and %q", code, body, ready, says), fits
	})
}

// What an operator watches: metrics count what really happened, and readiness
// says what is wrong while it is.
func TestHTTP(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	kafka := ownKafka(t, testbed.KafkaOptions{})
	s := newScenario(t, postgres, kafka)
	s.env = []string{"OUTBOXD_HTTP_LISTEN=127.0.0.1:0"}
	s.extra = "delivery: {confirm_interval: 100ms}"
	c := s.startStreaming()
	s.events(1, 20)
	s.waitConfirmed(30 * time.Second)
	c.waitReady(t, true)
	waitFor(t, 30*time.Second, func() (string, bool) {
		return "the slot's health is not known", c.metric(`outboxd_slot_wal_status{status="reserved"}`) == 1
	})
	for sample, want := range map[string]float64{
		`outboxd_events_published_total{topic="` + s.topic + `.t0"}`: 20,
		"outboxd_commit_to_ack_seconds_count":                        20,
		"outboxd_in_flight_events":                                   0,
		"outboxd_in_flight_bytes":                                    0,
		"outboxd_oldest_unacked_seconds":                             0,
		`outboxd_connected{side="postgres"}`:                         1,
		`outboxd_connected{side="kafka"}`:                            1,
	} {
		if got := c.metric(sample); got != want {
			t.Errorf("%s %v, want %v", sample, got, want)
		}
	}
	if at := s.confirmed(); c.metric("outboxd_confirmed_lsn") < float64(at) {
		t.Errorf("confirmed_lsn %v, the slot is at %d", c.metric("outboxd_confirmed_lsn"), at)
	}
	if code, body := c.page("/status"); code != http.StatusOK || !strings.Contains(body, `"ready": true`) || !strings.Contains(body, `"slot_retained_bytes": `) {
		t.Errorf("/status says %d %s", code, body)
	}
	if code, _ := c.page("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz says %d", code)
	}

	// Kafka stands still.
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	s.events(21, 25)
	c.waitReady(t, false, "brokers")
	if c.metric("outboxd_in_flight_events") != 5 || c.metric("outboxd_oldest_unacked_seconds") == 0 || c.metric(`outboxd_connected{side="kafka"}`) != 0 {
		t.Errorf("in flight %v, oldest %v s, connected %v", c.metric("outboxd_in_flight_events"), c.metric("outboxd_oldest_unacked_seconds"), c.metric(`outboxd_connected{side="kafka"}`))
	}
	_, page := c.page("/status")
	if want := `Kafka acknowledges nothing on topic \"` + s.topic + `.t0\" since `; !strings.Contains(page, want) {
		t.Errorf("/status does not name the topic that is waited for: %s", page)
	}
	if err := kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	c.waitReady(t, true)

	// PostgreSQL is down.
	if err := postgres.StopFast(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.waitReady(t, false, "PostgreSQL")
	if c.metric(`outboxd_connected{side="postgres"}`) != 0 || c.metric(`outboxd_retries_total{side="postgres"}`) == 0 {
		t.Error("a database that is down is not in the metrics")
	}
	if code, _ := c.page("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz says %d while PostgreSQL is down: the process itself is well", code)
	}
	if err := postgres.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.waitReady(t, true)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.verify()
}
