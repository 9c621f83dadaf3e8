package trace

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/event"
	"outboxd/internal/leak"
	"outboxd/internal/record"
)

const sampledParent = "00-" + traceID + "-" + spanID + "-01"

var committed = time.Date(2026, 7, 31, 12, 30, 0, 123456000, time.UTC)

func TestMain(m *testing.M) {
	leak.Main(m, "outboxd/internal/trace.(*Tracer)", "net/http.(*persistConn)")
}

// sampledRecord is a record with all that a span may say.
func sampledRecord() *record.Record {
	r := &record.Record{
		Record: kgo.Record{Topic: "orders", Key: []byte("order-1"), Value: []byte("{}")},
		ID:     []byte("8f3a"), Position: event.Position{CommitLSN: 0x1507C60, Number: 2}, CommittedAt: committed,
	}
	r.AddHeader("id", r.ID)
	r.AddHeader("traceparent", []byte(sampledParent))
	r.AddHeader("tracestate", []byte("vendor=1"))
	return r
}

// fakeCollector takes spans as long as answer says so.
type fakeCollector struct {
	*httptest.Server
	mu       sync.Mutex
	answer   http.HandlerFunc // nil: 200
	requests []*collector.ExportTraceServiceRequest
	tries    int
}

func newCollector(t *testing.T) *fakeCollector {
	c := &fakeCollector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.tries++
		answer := c.answer
		c.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		request := &collector.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, request); err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s, content type %s: %v", r.Method, r.URL, r.Header.Get("Content-Type"), err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.requests = append(c.requests, request)
	}))
	t.Cleanup(c.Close)
	return c
}

// answers sets what the collector answers; nil: 200.
func (c *fakeCollector) answers(f http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

func (c *fakeCollector) attempts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries
}

func (c *fakeCollector) spans() (all []*otlp.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.requests {
		for _, rs := range r.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				all = append(all, ss.Spans...)
			}
		}
	}
	return all
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// running is a tracer whose Run runs.
type running struct {
	*Tracer
	log  *syncBuffer
	stop func() // which waits for Run
}

func run(t *testing.T, endpoint string, change ...func(*Options)) *running {
	t.Helper()
	r := &running{log: &syncBuffer{}}
	o := Options{Endpoint: endpoint, Version: "1.2", Slot: "shop", ClientID: "outboxd", Log: zerolog.New(r.log), Every: time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	r.Tracer = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, context.Background()) }()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), text)
}

// trace makes one span.
func (r *running) trace(offset int64) {
	sent := sampledRecord()
	sent.Partition, sent.Offset = 3, offset
	if end := r.Sent(sent); end != nil {
		end(committed.Add(250 * time.Millisecond))
	}
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func attributes(all []*common.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, a := range all {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint("int ", v.IntValue)
		case *common.AnyValue_BoolValue:
			m[a.Key] = fmt.Sprint("bool ", v.BoolValue)
		}
	}
	return m
}

// A span has what the conventions say, and the row's span as parent and link.
func TestSpan(t *testing.T) {
	c := newCollector(t)
	r := run(t, c.URL)
	r.trace(42)
	until(t, "the span is there", func() bool { return len(c.spans()) == 1 })
	s := c.spans()[0]
	if hex.EncodeToString(s.TraceId) != traceID || hex.EncodeToString(s.ParentSpanId) != spanID || len(s.SpanId) != 8 || bytes.Equal(s.SpanId, s.ParentSpanId) || bytes.Equal(s.SpanId, make([]byte, 8)) {
		t.Errorf("trace %x, parent %x, span %x", s.TraceId, s.ParentSpanId, s.SpanId)
	}
	if s.Name != "send orders" || s.Kind != otlp.Span_SPAN_KIND_CLIENT || s.TraceState != "vendor=1" || s.Flags != 0x301 || s.Status != nil {
		t.Errorf("name %q, kind %s, tracestate %q, flags %#x, status %v", s.Name, s.Kind, s.TraceState, s.Flags, s.Status)
	}
	if start := time.Unix(0, int64(s.StartTimeUnixNano)); !start.Equal(committed) || s.EndTimeUnixNano-s.StartTimeUnixNano != uint64(250*time.Millisecond) {
		t.Errorf("from %s, for %s", start, time.Duration(s.EndTimeUnixNano-s.StartTimeUnixNano))
	}
	if len(s.Links) != 1 || hex.EncodeToString(s.Links[0].TraceId) != traceID || hex.EncodeToString(s.Links[0].SpanId) != spanID {
		t.Errorf("links %v", s.Links)
	}
	if got, want := attributes(s.Attributes), map[string]string{
		"messaging.system":                   "kafka",
		"messaging.operation.name":           "send",
		"messaging.operation.type":           "send",
		"messaging.client.id":                "outboxd",
		"messaging.destination.name":         "orders",
		"messaging.destination.partition.id": "3",
		"messaging.kafka.offset":             "int 42",
		"messaging.kafka.message.key":        "order-1",
		"messaging.message.id":               "8f3a",
		"outboxd.position":                   "0000000001507C60-00000002",
	}; !maps.Equal(got, want) {
		t.Errorf("attributes %v\nwant %v", got, want)
	}
	rs := c.requests[0].ResourceSpans[0]
	if got, want := attributes(rs.Resource.Attributes), map[string]string{"service.name": "outboxd", "service.version": "1.2", "outboxd.slot": "shop"}; !maps.Equal(got, want) {
		t.Errorf("resource %v", got)
	}
	if scope := rs.ScopeSpans[0]; scope.Scope.Name != "outboxd" || scope.SchemaUrl != conventions {
		t.Errorf("scope %v, schema %s", scope.Scope, scope.SchemaUrl)
	}
	until(t, "it is counted", func() bool { sent, dropped := r.Counts(); return sent == 1 && dropped == 0 })
}

// Where the traceparent is, and what a span does not say.
func TestRecords(t *testing.T) {
	headers := func(pairs ...string) func(*record.Record) {
		return func(r *record.Record) {
			r.Headers = nil
			for i := 0; i < len(pairs); i += 2 {
				r.AddHeader(pairs[i], []byte(pairs[i+1]))
			}
		}
	}
	value := func(text string) func(*record.Record) {
		return func(r *record.Record) { headers()(r); r.Value = []byte(text) }
	}
	for _, test := range []struct {
		name    string
		change  func(*record.Record)
		inValue bool
		spans   int
		key     string // of the attributes: there, or not there with "!" before it
	}{
		{"as it is", func(*record.Record) {}, false, 1, "messaging.kafka.message.key"},
		{"binary CloudEvent", headers("ce_traceparent", sampledParent), false, 1, ""},
		{"structured CloudEvent", value(`{"specversion":"1.0","traceparent":"` + sampledParent + `","data":{}}`), true, 1, ""},
		{"structured CloudEvent without", value(`{"specversion":"1.0","data":{"traceparent":"` + sampledParent + `"}}`), true, 0, ""},
		{"structured CloudEvent, not a text", value(`{"traceparent":7}`), true, 0, ""},
		{"a payload's own", value(`{"traceparent":"` + sampledParent + `"}`), false, 0, ""},
		{"no header", headers("id", "1"), false, 0, ""},
		{"not sampled", headers("traceparent", sampledParent[:54]+"0"), false, 0, ""},
		{"invalid", headers("traceparent", "00-4bf9-00f0-01"), false, 0, ""},
		{"empty", headers("traceparent", ""), false, 0, ""},
		{"no commit time", func(r *record.Record) { r.CommittedAt = time.Time{} }, false, 0, ""},
		{"no key", func(r *record.Record) { r.Key = nil }, false, 1, "!messaging.kafka.message.key"},
		{"binary key", func(r *record.Record) { r.Key = []byte{0, 0, 1, 0xff} }, false, 1, "!messaging.kafka.message.key"},
		{"long key", func(r *record.Record) { r.Key = bytes.Repeat([]byte("k"), maxText+1) }, false, 1, "!messaging.kafka.message.key"},
		{"empty key", func(r *record.Record) { r.Key = []byte{} }, false, 1, "messaging.kafka.message.key"},
		{"long id", func(r *record.Record) { r.ID = bytes.Repeat([]byte("i"), maxText+1) }, false, 1, "!messaging.message.id"},
		{"a value", func(*record.Record) {}, false, 1, "!messaging.kafka.message.tombstone"},
		{"tombstone", func(r *record.Record) { r.Value = nil }, false, 1, "messaging.kafka.message.tombstone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tracer := New(Options{InValue: test.inValue})
			r := sampledRecord()
			test.change(r)
			end := tracer.Sent(r)
			if end != nil {
				// Nothing of the record is kept.
				for _, b := range [][]byte{r.ID, r.Key, r.Value} {
					clear(b)
				}
				for _, h := range r.Headers {
					clear(h.Value)
				}
				end(committed)
			}
			if len(tracer.queue) != test.spans {
				t.Fatalf("%d spans, want %d", len(tracer.queue), test.spans)
			}
			if test.spans == 0 {
				return
			}
			span := tracer.otlp(<-tracer.queue)
			if hex.EncodeToString(span.TraceId) != traceID {
				t.Errorf("trace %x", span.TraceId)
			}
			key, without := strings.CutPrefix(test.key, "!")
			if got, there := attributes(span.Attributes)[key]; key != "" && (there == without || strings.Contains(got, "\x00")) {
				t.Errorf("%s is %q, there %t", key, got, there)
			}
		})
	}
}

// The clocks of PostgreSQL's host and this one differ.
func TestNoSpanEndsBeforeItBegins(t *testing.T) {
	tracer := New(Options{})
	tracer.Sent(sampledRecord())(committed.Add(-time.Second))
	if s := tracer.otlp(<-tracer.queue); s.EndTimeUnixNano != s.StartTimeUnixNano {
		t.Errorf("from %d to %d", s.StartTimeUnixNano, s.EndTimeUnixNano)
	}
}

// A collector that is down is tried again, and said to be so once; when it is back, what
// waited is sent.
func TestCollectorThatFails(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			c.answers(status(code))
			r := run(t, c.URL+"/")
			r.trace(1)
			until(t, "it was tried again", func() bool { return c.attempts() > 1 })
			r.trace(2)
			c.answers(nil)
			until(t, "both are there", func() bool { return len(c.spans()) == 2 })
			until(t, "it is said", func() bool { return r.log.count("spans are sent again") == 1 })
			if n := r.log.count("spans are not sent"); n != 1 {
				t.Errorf("said %d times", n)
			}
			until(t, "both are counted", func() bool { sent, dropped := r.Counts(); return sent == 2 && dropped == 0 })
		})
	}
}

// What a collector does not take is dropped and counted, and said once.
func TestCollectorThatRefuses(t *testing.T) {
	partial, err := proto.Marshal(&collector.ExportTraceServiceResponse{PartialSuccess: &collector.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "too old"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"bad request": {status(http.StatusBadRequest), "400 Bad Request"},
		"no such":     {status(http.StatusNotFound), "404 Not Found; the endpoint is that of OTLP over HTTP"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, "302 Found"},
		"rejected": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-protobuf")
			_, _ = w.Write(partial)
		}, "too old"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t)
			c.answers(test.answer)
			r := run(t, c.URL+"/v1/traces")
			for i := range int64(3) {
				r.trace(i)
				until(t, "it is counted", func() bool { _, dropped := r.Counts(); return dropped == i+1 })
			}
			until(t, "it is said", func() bool { return r.log.count(test.says) == 1 })
			c.answers(nil)
			r.trace(4)
			until(t, "it works", func() bool { return r.log.count("spans are sent again") == 1 })
			if n := r.log.count("spans are not sent"); n != 1 || r.log.count("http://") > 0 {
				t.Errorf("said %d times", n)
			}
		})
	}
}

// A collector that hangs fills the queue; nobody waits for it, and neither does a stop for
// longer than Flush.
func TestCollectorThatHangs(t *testing.T) {
	c := newCollector(t)
	release := make(chan struct{})
	defer close(release)
	c.answers(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	r := run(t, c.URL, func(o *Options) { o.Flush = 100 * time.Millisecond })
	r.trace(0)
	until(t, "it was asked", func() bool { return c.attempts() == 1 })
	const more = queueLength + 1000
	begun := time.Now()
	for i := range int64(more) {
		r.trace(i)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("%d spans took %s", more, took)
	}
	if _, dropped := r.Counts(); dropped != 1000 {
		t.Errorf("%d dropped", dropped)
	}
	begun = time.Now()
	r.stop()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if sent, dropped := r.Counts(); sent != 0 || dropped != more+1 {
		t.Errorf("%d sent, %d dropped", sent, dropped)
	}
	if r.log.count("spans that were left at the stop are dropped") != 1 {
		t.Errorf("the log: %s", r.log.b.String())
	}
}

// No answer within the time-out is a failure like another.
func TestTimeout(t *testing.T) {
	c := newCollector(t)
	c.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := run(t, c.URL, func(o *Options) { o.Timeout = 50 * time.Millisecond })
	r.trace(1)
	until(t, "it is said", func() bool { return r.log.count("no answer within 50ms") == 1 })
	c.answers(nil)
	until(t, "it is there", func() bool { return len(c.spans()) == 1 })
	r.stop()
}

// A stop sends what is left, in batches, and without waiting for more.
func TestStopFlushes(t *testing.T) {
	c := newCollector(t)
	r := run(t, c.URL, func(o *Options) { o.Every = time.Hour })
	const n = batchLength + 100
	for i := range int64(n) {
		r.trace(i)
	}
	r.stop()
	if got := len(c.spans()); got != n || len(c.requests) != 2 {
		t.Errorf("%d spans in %d requests, want %d in 2", got, len(c.requests), n)
	}
	for i, s := range c.spans() {
		if offset := attributes(s.Attributes)["messaging.kafka.offset"]; offset != fmt.Sprint("int ", i) {
			t.Fatalf("span %d has offset %s", i, offset)
		}
	}
}

// A second signal ends the flush.
func TestHurry(t *testing.T) {
	c := newCollector(t)
	c.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	tracer := New(Options{Endpoint: c.URL, Log: zerolog.Nop(), Flush: time.Hour, Timeout: time.Hour})
	tracer.Sent(sampledRecord())(committed)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	hurry, second := context.WithCancel(context.Background())
	go func() {
		until(t, "it was asked", func() bool { return c.attempts() == 1 })
		second()
	}()
	tracer.Run(ctx, hurry)
}

// A record without a sampled trace costs no allocation.
func TestNoAllocation(t *testing.T) {
	tracer := New(Options{})
	for name, header := range map[string]string{"none": "", "not sampled": sampledParent[:54] + "0", "invalid": "00-4bf9-00f0-01"} {
		r := sampledRecord()
		r.Headers[1].Value = []byte(header)
		if n := testing.AllocsPerRun(100, func() { tracer.Sent(r) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkSent is what a sampled event costs the Kafka client's goroutine.
func BenchmarkSent(b *testing.B) {
	tracer, r := New(Options{}), sampledRecord()
	b.ReportAllocs()
	for b.Loop() {
		tracer.Sent(r)(committed)
		<-tracer.queue
	}
}

// BenchmarkNotSampled is what another event costs it, with tracing on.
func BenchmarkNotSampled(b *testing.B) {
	tracer, r := New(Options{}), sampledRecord()
	r.Headers[1].Value = []byte(sampledParent[:54] + "0")
	b.ReportAllocs()
	for b.Loop() {
		tracer.Sent(r)
	}
}
