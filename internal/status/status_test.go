package status

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// serve answers for s until the test ends, and returns how to ask it.
func serve(t *testing.T, s *Status) (get func(path string) (code int, body string)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
	})
	client := &http.Client{Timeout: 30 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	return func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

var someGauges = &Gauges{
	InFlightEvents: func() int64 { return 12 },
	InFlightBytes:  func() int64 { return 3400 },
	ReceivedLSN:    func() pglogrepl.LSN { return 0x1_00000200 },
	Confirmed:      func() pglogrepl.LSN { return 0x1_00000100 },
	OldestUnacked:  func() time.Duration { return 1500 * time.Millisecond },
	Alive:          time.Now,
}

// metric returns a sample as the text format has it: name and labels, value.
func metric(t *testing.T, body, sample, want string) {
	t.Helper()
	if !strings.Contains(body, "\n"+sample+" "+want+"\n") {
		t.Errorf("no %s %s in:\n%s", sample, want, regexp.MustCompile(`(?m)^(#|go_|process_).*\n`).ReplaceAllString(body, ""))
	}
}

// A registry is a side only where there is one, and its fault lasts until it has
// answered.
func TestRegistry(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	if _, body := get("/metrics"); strings.Contains(body, "registry") {
		t.Error("there is no registry, and /metrics speaks of one")
	}
	s.UseRegistry()
	_, body := get("/metrics")
	metric(t, body, `outboxd_connected{side="registry"}`, "1")
	metric(t, body, `outboxd_retries_total{side="registry"}`, "0")

	s.Fault("registry", errors.New("registry answers 503"))
	s.Streaming(someGauges)
	code, body := get("/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "answers 503") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	_, body = get("/metrics")
	metric(t, body, `outboxd_connected{side="registry"}`, "0")
	metric(t, body, `outboxd_retries_total{side="registry"}`, "1")
	if strings.Contains(body, "outboxd_publish_errors_total{") {
		t.Error("a fault of the registry counts as a failed delivery")
	}

	s.RegistryAnswered()
	s.Kafka(nil)
	if code, body := get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz after the answer: %d %s", code, body)
	}
}

func TestMetrics(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)

	code, body := get("/metrics")
	if code != http.StatusOK {
		t.Fatalf("code %d", code)
	}
	// Before a session everything is there already, so that no alert misses it.
	for sample, want := range map[string]string{
		"outboxd_in_flight_events":               "0",
		"outboxd_in_flight_bytes":                "0",
		"outboxd_oldest_unacked_seconds":         "0",
		"outboxd_received_lsn":                   "0",
		"outboxd_confirmed_lsn":                  "0",
		`outboxd_connected{side="postgres"}`:     "0",
		`outboxd_connected{side="kafka"}`:        "1",
		`outboxd_retries_total{side="postgres"}`: "0",
		`outboxd_retries_total{side="kafka"}`:    "0",
		"outboxd_commit_to_ack_seconds_count":    "0",
	} {
		metric(t, body, sample, want)
	}

	s.Streaming(someGauges)
	now := time.Now()
	for _, topic := range []string{"orders", "orders", "invoices", "orders"} {
		s.Acked(topic, now.Add(-20*time.Millisecond), now)
	}
	s.Fault("postgres", errors.New("gone"))
	s.Fault("kafka", errors.New("gone"))
	s.Fault("kafka", errors.New("gone"))
	_, body = get("/metrics")
	for sample, want := range map[string]string{
		"outboxd_in_flight_events":                         "12",
		"outboxd_in_flight_bytes":                          "3400",
		"outboxd_oldest_unacked_seconds":                   "1.5",
		"outboxd_received_lsn":                             "4.294967808e+09",
		"outboxd_confirmed_lsn":                            "4.294967552e+09",
		`outboxd_connected{side="postgres"}`:               "1",
		`outboxd_connected{side="kafka"}`:                  "0",
		`outboxd_events_published_total{topic="orders"}`:   "3",
		`outboxd_events_published_total{topic="invoices"}`: "1",
		`outboxd_retries_total{side="postgres"}`:           "1",
		`outboxd_retries_total{side="kafka"}`:              "2",
		`outboxd_publish_errors_total{kind="delivery"}`:    "2",
		"outboxd_commit_to_ack_seconds_count":              "4",
		`outboxd_commit_to_ack_seconds_bucket{le="0.01"}`:  "0",
		`outboxd_commit_to_ack_seconds_bucket{le="0.025"}`: "4",
		`outboxd_commit_to_ack_seconds_bucket{le="+Inf"}`:  "4",
	} {
		metric(t, body, sample, want)
	}
	s.Stopped()
	_, body = get("/metrics")
	metric(t, body, `outboxd_connected{side="postgres"}`, "0")
}

// While rows from before the slot are published it is not ready, and says how far
// it is.
func TestBackfill(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	_, body := get("/metrics")
	metric(t, body, `outboxd_backfill_rows{state="expected"}`, "0")
	if _, body := get("/status"); strings.Contains(body, "backfill") {
		t.Errorf("a backfill in %s", body)
	}
	s.Streaming(someGauges)
	s.Kafka(nil)
	s.Backfill(1000, func() int64 { return 12 })
	_, body = get("/metrics")
	metric(t, body, `outboxd_backfill_rows{state="expected"}`, "1000")
	metric(t, body, `outboxd_backfill_rows{state="published"}`, "12")
	if code, body := get("/readyz"); code == http.StatusOK || !strings.Contains(body, "12 of 1000") {
		t.Errorf("%d %s", code, body)
	}
	if _, body := get("/status"); !strings.Contains(body, `"published_rows": 12`) || !strings.Contains(body, `"expected_rows": 1000`) || !strings.Contains(body, `"done": false`) {
		t.Error(body)
	}
	s.Backfilled()
	if code, body := get("/readyz"); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
	_, body = get("/metrics")
	metric(t, body, `outboxd_backfill_rows{state="published"}`, "1000")
}

// Dashboards are built on the names: each is one that users were promised.
func TestMetricNames(t *testing.T) {
	promised := strings.Fields(`events_published_total events_dead_lettered_total publish_errors_total
		retries_total in_flight_events in_flight_bytes commit_to_ack_seconds oldest_unacked_seconds received_lsn confirmed_lsn
		slot_retained_bytes slot_safe_bytes slot_wal_status connected outbox_rows outbox_oldest_row_seconds
		retention_removed_total reconcile_mismatches backfill_rows role events_discarded_total
		slot_lost_in_seconds slot_wal_before_confirmed_bytes slot_wal_after_confirmed_bytes slot_wal_held_by build_info`)
	s := New(time.Minute)
	s.Acked("orders", time.Now(), time.Now())
	s.Fault("kafka", errors.New("gone"))
	s.Build("1", "2", "3")
	_, body := serve(t, s)("/metrics")
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total"} {
		if !strings.Contains(body, "\n"+name+" ") {
			t.Errorf("no %s: what the process takes is on the dashboard", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# HELP (\S+) (.*)$`).FindAllStringSubmatch(body, -1) {
		name, ours := strings.CutPrefix(m[1], "outboxd_")
		if ours && !slices.Contains(promised, name) {
			t.Errorf("%s is not among the promised names", m[1])
		}
		if !ours && !strings.HasPrefix(m[1], "go_") && !strings.HasPrefix(m[1], "process_") {
			t.Errorf("%s has none of the prefixes outboxd_, go_, process_", m[1])
		}
		if ours && m[2] == "" {
			t.Errorf("%s has no help text", m[1])
		}
	}
}

func TestReadiness(t *testing.T) {
	s := New(time.Hour)
	get := serve(t, s)
	ready := func(reason string) {
		t.Helper()
		code, body := get("/readyz")
		if reason == "" && (code != http.StatusOK || body != "ok\n") {
			t.Errorf("not ready: %d %s", code, body)
		}
		if reason != "" && (code != http.StatusServiceUnavailable || !strings.Contains(body, reason)) {
			t.Errorf("code %d, %q; want %d because %s", code, body, http.StatusServiceUnavailable, reason)
		}
		// The process itself works all the while.
		if code, body := get("/healthz"); code != http.StatusOK || body != "ok\n" {
			t.Errorf("healthz: %d %s", code, body)
		}
	}
	ready("not streaming yet")
	s.Fault("postgres", errors.New("connect: connection refused"))
	ready("connection refused")
	s.Streaming(someGauges)
	ready("Kafka has not answered yet")
	s.Kafka(nil)
	ready("")
	s.Store(errors.New("the position cannot be stored"))
	ready("the position cannot be stored")
	s.Store(nil)
	ready("")
	s.Kafka(errors.New(`topic "orders" does not exist`))
	ready(`topic "orders" does not exist`)
	s.Kafka(nil)
	ready("")
	s.Stopped()
	s.Fault("postgres", errors.New("the server ended it"))
	ready("the server ended it")
	s.Streaming(someGauges)
	ready("")
	s.Stopped()
	s.Fault("kafka", errors.New("MESSAGE_TOO_LARGE"))
	ready("MESSAGE_TOO_LARGE")
	s.Kafka(nil)
	ready("not streaming yet")
}

// Readiness is bound to confirmation: streaming alone is not enough. The clock is
// set back instead of waiting.
func TestReadyOnlyWhileConfirmed(t *testing.T) {
	s := New(time.Minute)
	s.Streaming(someGauges)
	s.Kafka(nil)
	reason := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.notReady()
	}
	late := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.confirmedAt = time.Now().Add(-2 * time.Minute)
	}
	steps := []struct {
		what  string
		lsn   pglogrepl.LSN
		all   bool
		ready bool
	}{
		{"something is confirmed", 100, false, true},
		{"no progress, and events are waiting", 100, false, false},
		{"progress", 101, false, true},
		{"no progress, and nothing is waiting", 101, true, true},
		{"an older position", 50, false, false},
	}
	for _, step := range steps {
		late()
		if err := reason(); !errors.Is(err, errUnconfirmed) {
			t.Fatalf("before %q: %v, want %v", step.what, err, errUnconfirmed)
		}
		s.Confirmed(step.lsn, step.all)
		if err := reason(); (err == nil) != step.ready {
			t.Errorf("after %q: %v", step.what, err)
		}
	}
	// A new session starts the clock again.
	late()
	s.Streaming(someGauges)
	if err := reason(); err != nil {
		t.Errorf("at the beginning of a session: %v", err)
	}
}

// Inside a transaction nothing is confirmed, however long it is: that Kafka
// acknowledges, or that a rule discards what is read, is progress.
func TestReadyInsideALargeTransaction(t *testing.T) {
	s := New(time.Minute)
	s.Streaming(someGauges)
	s.Kafka(nil)
	late := time.Now().Add(-2 * time.Minute)
	s.confirmedAt = late
	s.Acked("orders", late, late)
	if err := s.notReady(); !errors.Is(err, errUnconfirmed) {
		t.Errorf("without an acknowledgement: %v", err)
	}
	s.Acked("orders", late, time.Now())
	if err := s.notReady(); err != nil {
		t.Errorf("with an acknowledgement: %v", err)
	}
	s.Acked("orders", late, late)
	s.Discarded()
	s.Confirmed(0, false)
	if err := s.notReady(); err != nil {
		t.Errorf("with an event discarded: %v", err)
	}
	s.confirmedAt = late
	s.Confirmed(0, false)
	if err := s.notReady(); !errors.Is(err, errUnconfirmed) {
		t.Errorf("with nothing since: %v", err)
	}
}

// A process that stands by is ready to take over, if Kafka answers it, and is no
// fault of anybody's.
func TestStandby(t *testing.T) {
	s := New(time.Minute)
	s.UseStore()
	get := serve(t, s)
	role := func(want string, ready bool) {
		t.Helper()
		if code, body := get("/readyz"); (code == http.StatusOK) != ready {
			t.Errorf("as %s /readyz says %d %s", want, code, body)
		}
		_, body := get("/metrics")
		for _, r := range roles {
			value := "0"
			if r == want {
				value = "1"
			}
			metric(t, body, `outboxd_role{role="`+r+`"}`, value)
		}
		if _, body := get("/status"); !strings.Contains(body, `"role": "`+want+`"`) {
			t.Errorf("not %s: %s", want, body)
		}
	}
	role(Waiting, false)
	s.Fault("store", errors.New("the topic cannot be read"))
	role(Waiting, false)
	s.StandBy(errors.New("the slot is in use"))
	role(Standby, false)
	s.Kafka(nil)
	role(Standby, true)
	if _, body := get("/status"); !strings.Contains(body, "the slot is in use") {
		t.Errorf("does not say why: %s", body)
	}
	_, body := get("/metrics")
	metric(t, body, `outboxd_retries_total{side="postgres"}`, "0")
	metric(t, body, `outboxd_retries_total{side="store"}`, "1")
	metric(t, body, `outboxd_connected{side="store"}`, "1")
	s.Kafka(errors.New("no broker answers"))
	role(Standby, false)
	s.Kafka(nil)
	s.Fault("postgres", errors.New("connection refused"))
	role(Waiting, false)
	s.Streaming(someGauges)
	role(Streaming, true)
	s.Backfill(10, func() int64 { return 1 })
	role(Backfill, false)
}

func TestStatusJSON(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	report := func() (r map[string]any) {
		t.Helper()
		code, body := get("/status")
		if err := json.Unmarshal([]byte(body), &r); err != nil || code != http.StatusOK {
			t.Fatalf("code %d, %v: %s", code, err, body)
		}
		if up, ok := r["uptime_seconds"].(float64); !ok || up < 0 {
			t.Errorf("uptime_seconds is %v", r["uptime_seconds"])
		}
		return r
	}
	check := func(r map[string]any, want map[string]any) {
		t.Helper()
		for key, v := range want {
			if r[key] != v {
				t.Errorf("%s is %v, want %v", key, r[key], v)
			}
		}
	}
	r := report()
	check(r, map[string]any{"ready": false, "reason": "not streaming yet", "streaming": false, "in_flight_events": 0.0})
	if _, there := r["confirmed_lsn"]; there {
		t.Errorf("confirmed_lsn is %v before anything is known", r["confirmed_lsn"])
	}
	s.Streaming(someGauges)
	s.Kafka(nil)
	r = report()
	check(r, map[string]any{"ready": true, "role": "streaming", "streaming": true, "received_lsn": "1/200", "confirmed_lsn": "1/100",
		"in_flight_events": 12.0, "in_flight_bytes": 3400.0, "oldest_unacked_seconds": 1.5})
	if _, there := r["reason"]; there {
		t.Errorf("ready, with the reason %v", r["reason"])
	}
	s.Stopped()
	s.Fault("postgres", errors.New("gone"))
	check(report(), map[string]any{"ready": false, "reason": "gone", "streaming": false})
}

func TestUnknownPathsAndMethods(t *testing.T) {
	get := serve(t, New(time.Minute))
	if code, _ := get("/metric"); code != http.StatusNotFound {
		t.Errorf("an unknown path answers %d", code)
	}
}

func TestBadListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := New(time.Minute).Serve(context.Background(), l); err == nil || !strings.Contains(err.Error(), "serve HTTP") {
		t.Errorf("a closed listener: %v", err)
	}
}

func TestAckedDoesNotAllocate(t *testing.T) {
	s := New(time.Minute)
	now := time.Now()
	s.Acked("orders", now, now)
	if n := testing.AllocsPerRun(1000, func() { s.Acked("orders", now, now) }); n != 0 {
		t.Errorf("%v allocations an event", n)
	}
}

func TestSlotHealth(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	_, body := get("/metrics")
	metric(t, body, "outboxd_slot_retained_bytes", "0")
	metric(t, body, `outboxd_slot_wal_status{status="reserved"}`, "0")
	if _, body := get("/status"); strings.Contains(body, "slot_") {
		t.Errorf("a slot that was not asked about: %s", body)
	}

	s.Slot(Slot{Retained: 4096, Safe: -1, WALStatus: "reserved"})
	_, body = get("/metrics")
	metric(t, body, "outboxd_slot_retained_bytes", "4096")
	metric(t, body, "outboxd_slot_safe_bytes", "+Inf")
	metric(t, body, `outboxd_slot_wal_status{status="reserved"}`, "1")
	metric(t, body, `outboxd_slot_wal_status{status="lost"}`, "0")

	s.Slot(Slot{Retained: 8192, WALStatus: "lost", Synchronous: "commits wait"})
	_, body = get("/metrics")
	metric(t, body, "outboxd_slot_safe_bytes", "0")
	if _, body := get("/status"); !strings.Contains(body, `"synchronous_standby": "commits wait"`) {
		t.Errorf("/status: %s", body)
	}

	s.Slot(Slot{Retained: 8192, Safe: 100, WALStatus: "unreserved"})
	_, body = get("/metrics")
	metric(t, body, "outboxd_slot_safe_bytes", "100")
	metric(t, body, `outboxd_slot_wal_status{status="reserved"}`, "0")
	metric(t, body, `outboxd_slot_wal_status{status="unreserved"}`, "1")
	if _, body := get("/status"); !strings.Contains(body, `"slot_retained_bytes": 8192`) || !strings.Contains(body, `"slot_safe_bytes": 100`) || !strings.Contains(body, `"slot_wal_status": "unreserved"`) {
		t.Errorf("/status: %s", body)
	}
}

func TestHealth(t *testing.T) {
	s := New(time.Minute)
	get := serve(t, s)
	healthy := func(want int) {
		t.Helper()
		if code, body := get("/healthz"); code != want {
			t.Errorf("/healthz says %d %q, want %d", code, body, want)
		}
	}
	healthy(http.StatusOK)
	g := *someGauges
	s.Streaming(&g)
	healthy(http.StatusOK)
	g.Alive = func() time.Time { return time.Now().Add(-2 * stuckAfter) }
	s.Streaming(&g)
	healthy(http.StatusServiceUnavailable)
	// Between connections nothing is read, and that is no reason to restart.
	s.Stopped()
	s.Fault("postgres", errors.New("down"))
	healthy(http.StatusOK)
}
