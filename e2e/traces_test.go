package e2e

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// traceCollector takes OTLP over HTTP.
type traceCollector struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*otlp.Span
	asked   int
	failing bool
}

func startCollector(t *testing.T) *traceCollector {
	c := &traceCollector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		request := &collector.ExportTraceServiceRequest{}
		if err == nil {
			err = proto.Unmarshal(body, request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked++; c.failing {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for _, rs := range request.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *traceCollector) fail(failing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing = failing
}

// got are the spans so far, and how often it was asked.
func (c *traceCollector) got() (spans []*otlp.Span, asked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans), c.asked
}

func (c *traceCollector) wait(t *testing.T, n int) []*otlp.Span {
	t.Helper()
	waitFor(t, 30*time.Second, func() (string, bool) {
		spans, _ := c.got()
		return fmt.Sprintf("%d spans, want %d", len(spans), n), len(spans) >= n
	})
	spans, _ := c.got()
	return spans
}

// texts are the attributes of a span, as texts.
func texts(all []*common.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, a := range all {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		default:
			m[a.Key] = a.Value.String()
		}
	}
	return m
}

// checkSpans compares spans with the records in Kafka: one for each record whose
// traceparent is valid and sampled, with all that is known of it. CloudEvents' headers have
// a prefix.
func (s *scenario) checkSpans(spans []*otlp.Span, cloudEvents bool) {
	t := s.t
	t.Helper()
	ids := make(map[string]bool)
	byPlace := make(map[string]*otlp.Span)
	for _, span := range spans {
		a := texts(span.Attributes)
		byPlace[a["messaging.destination.name"]+"/"+a["messaging.destination.partition.id"]+"@"+a["messaging.kafka.offset"]] = span
		ids[hex.EncodeToString(span.SpanId)] = true
	}
	if len(byPlace) != len(spans) || len(ids) != len(spans) {
		t.Errorf("%d spans of %d records, with %d ids", len(spans), len(byPlace), len(ids))
	}
	want := 0
	header := headerOf
	if cloudEvents {
		header = func(r record, name string) string { return headerOf(r, "ce_"+name) }
	}
	for _, r := range s.readWith(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords()) {
		place := fmt.Sprintf("%s/%d@%d", r.topic, r.partition, r.offset)
		span, parent := byPlace[place], header(r, "traceparent")
		if !strings.HasPrefix(parent, "00-aaaa") || !strings.HasSuffix(parent, "-01") { // see tracedRows
			if span != nil {
				t.Errorf("%s: a span for traceparent %q", place, parent)
			}
			continue
		}
		want++
		if span == nil {
			t.Errorf("%s: no span for traceparent %s", place, parent)
			continue
		}
		ours := fmt.Sprintf("00-%x-%x-01", span.TraceId, span.ParentSpanId)
		if ours != parent || span.Name != "send "+r.topic || span.Kind != otlp.Span_SPAN_KIND_CLIENT || len(span.Links) != 1 || fmt.Sprintf("00-%x-%x-01", span.Links[0].TraceId, span.Links[0].SpanId) != parent {
			t.Errorf("%s: traceparent %s and span %v", place, parent, span)
		}
		if got, want := texts(span.Attributes), map[string]string{
			"messaging.system": "kafka", "messaging.operation.name": "send", "messaging.operation.type": "send", "messaging.client.id": "outboxd",
			"messaging.destination.name": r.topic, "messaging.destination.partition.id": fmt.Sprint(r.partition), "messaging.kafka.offset": fmt.Sprint(r.offset),
			"messaging.kafka.message.key": r.key, "messaging.message.id": header(r, "id"), "outboxd.position": cmp.Or(r.position, header(r, "sequence")),
		}; !maps.Equal(got, want) {
			t.Errorf("%s: attributes %v\nwant %v", place, got, want)
		}
		// The record's timestamp is the commit in milliseconds; both clocks are this host's.
		start, end := time.Unix(0, int64(span.StartTimeUnixNano)), time.Unix(0, int64(span.EndTimeUnixNano))
		if start.Truncate(time.Millisecond).UnixMilli() != r.timestamp.UnixMilli() || !end.After(start) || end.After(time.Now()) {
			t.Errorf("%s: committed at %s, the span is from %s to %s", place, r.timestamp, start, end)
		}
	}
	if want == 0 || want != len(spans) {
		t.Errorf("%d spans, want %d", len(spans), want)
	}
}

func headerOf(r record, name string) string {
	for _, h := range r.headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// tracedRows are 60 rows in two transactions: every sixth is sampled, others have another
// traceparent or none.
const tracedRows = `INSERT INTO outbox (aggregateid, type, payload, trace) SELECT 'k' || i %% 5, 't0', jsonb_build_object('n', i), CASE i %% 6
	WHEN 0 THEN '00-aaaa' || lpad(to_hex(i + %[1]d), 28, '0') || '-00000000000000b7-01'
	WHEN 1 THEN '00-aaaa' || lpad(to_hex(i + %[1]d), 28, '0') || '-00000000000000b7-00'
	WHEN 2 THEN '00-00000000000000000000000000000000-00000000000000b7-01'
	WHEN 3 THEN '00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01'
	WHEN 4 THEN 'nonsense'
	END FROM generate_series(1, 30) i`

// Each sampled event has one span, from its commit to its acknowledgement, and each other
// one has none; the record is not changed.
func TestTraces(t *testing.T) {
	t.Parallel()
	for name, extra := range map[string]string{
		"plain":        "",
		"exactly once": "delivery: {guarantee: exactly_once}",
		"cloudevents":  "value: {headers: cloudevents}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCollector(t)
			s := newScenario(t, nil, nil)
			s.exec("ALTER TABLE outbox ADD trace text")
			s.extra = "outbox: {columns: {traceparent: trace}}\nmonitor: {trace: {endpoint: '" + c.URL + "'}}\n" + extra
			run := s.startStreaming()
			s.exec(fmt.Sprintf(tracedRows, 0))
			c.wait(t, 5)
			s.exec(fmt.Sprintf(tracedRows, 1000))
			s.waitConfirmed(30 * time.Second)
			run.stop() // which sends the rest
			spans, _ := c.got()
			if len(spans) != 10 {
				t.Errorf("%d spans", len(spans))
			}
			s.checkSpans(spans, name == "cloudevents")
		})
	}
}

// A collector that hangs, or is away, delays neither delivery nor the stop; it is said
// once, and what waited is sent when it is back.
func TestTracesWithoutACollector(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ADD trace text")
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer hanging.Close()
	endpoint := func(url string) {
		s.extra = "outbox: {columns: {traceparent: trace}}\nmonitor: {trace: {endpoint: '" + url + "'}}"
	}
	endpoint(hanging.URL)
	run := s.startStreaming()
	insert := func(sampled int) {
		t.Helper()
		s.exec(fmt.Sprintf(`INSERT INTO outbox (aggregateid, type, payload, trace)
			SELECT 'k' || i %% 5, 't0', '{}', '00-' || md5(i::text) || '-00000000000000b7-01' FROM generate_series(1, %d) i`, sampled))
	}
	insert(5000) // more than the queue takes
	s.waitConfirmed(30 * time.Second)
	begun := time.Now()
	run.stop()
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if run.count("spans that were left at the stop are dropped") != 1 {
		t.Errorf("nothing is said of the spans:\n%s", run.tail(10))
	}

	c := startCollector(t)
	c.fail(true)
	endpoint(c.URL)
	run = s.startStreaming()
	insert(10)
	s.waitConfirmed(30 * time.Second)
	waitFor(t, 30*time.Second, func() (string, bool) {
		_, asked := c.got()
		return "it is not tried again", asked > 1
	})
	c.fail(false)
	c.wait(t, 10)
	run.waitLog("spans are sent again", 10*time.Second)
	if n := run.count("spans are not sent"); n != 1 {
		t.Errorf("said %d times", n)
	}
	run.stop()
	s.verify()
}
