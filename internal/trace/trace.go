// Package trace makes spans of events that Kafka has acknowledged, and exports them as
// OTLP over HTTP with protobuf: one span from the commit to the acknowledgement for each
// record that has a W3C traceparent (https://www.w3.org/TR/trace-context/) with the sampled
// flag, which is its parent. The record itself is not changed.
//
// OpenTelemetry's SDK and its exporter were tried: 5.3 MB more of binary, with gRPC in it,
// and a queue that does not say what it drops. The messages alone, in the slim form that
// OpenTelemetry generates without gRPC, are 0.1 MB.
//
// The package knows records; who delivers them, and when they count, is others' matter.
package trace

import (
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"

	"outboxd/internal/event"
	"outboxd/internal/record"
)

// Options say where spans go, and what all of them have in common.
type Options struct {
	// Endpoint is the base of the collector's URL, such as http://localhost:4318.
	Endpoint string
	// Version of outboxd, Slot it reads and ClientID that the brokers know.
	Version, Slot, ClientID string
	// InValue says that the value is a CloudEvent, which has the traceparent in it.
	InValue bool
	Log     zerolog.Logger
	// Every is how long a span waits for others, Timeout bounds one request, and Flush
	// all of them at a stop; 0: the defaults.
	Every, Timeout, Flush time.Duration
}

const (
	// queueLength and batchLength are those of OpenTelemetry's SDKs. A span here takes
	// some 300 bytes, and at most 1.2 KiB.
	queueLength = 2048
	batchLength = 512
	// every is less than the SDKs' 5 s: a trace is looked at while it is new.
	every = time.Second
	// timeout is that of OpenTelemetry's exporters.
	timeout = 10 * time.Second
	// flush is less than what a stop waits for what runs beside the connector.
	flush = 2 * time.Second
)

// maxText is how long an id or a key may be to be an attribute, in bytes; a longer one is
// left out.
const maxText = 256

// maxState is how long a tracestate must be taken at least (W3C Trace Context, 3.3.1.5).
const maxState = 512

// Tracer makes spans. Sent and the functions that it returns may be called by any
// goroutine, and never wait: when the queue is full, spans are dropped, and counted.
type Tracer struct {
	o      Options
	url    string
	host   string // of url, for the log
	client *http.Client
	queue  chan *span

	sent, dropped atomic.Int64
	failed        error // the last attempt; Run's
}

// New returns a tracer. It sends nothing before Run.
func New(o Options) *Tracer {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&o.Every, every}, {&o.Timeout, timeout}, {&o.Flush, flush}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	t := &Tracer{o: o, client: newClient(), queue: make(chan *span, queueLength)}
	t.url, t.host = tracesURL(o.Endpoint)
	return t
}

// Counts returns how many spans the collector has taken, and how many were dropped.
func (t *Tracer) Counts() (sent, dropped int64) { return t.sent.Load(), t.dropped.Load() }

// span is one that has not been exported. It has nothing of the record's memory.
type span struct {
	parent     parent
	id         uint64
	start, end time.Time

	topic             string
	partition         int32
	offset            int64
	position          event.Position
	event, key, state string
	keyed, tombstone  bool
}

// Sent returns what ends the span of a record that has its partition and offset, nil for
// a record that has none. It keeps nothing of the record.
func (t *Tracer) Sent(r *record.Record) (end func(acked time.Time)) {
	if r.CommittedAt.IsZero() {
		return nil
	}
	header, state := contextOf(r)
	if header == nil && t.o.InValue && len(r.Value) > 0 {
		header = []byte(gjson.GetBytes(r.Value, "traceparent").Str)
	}
	p, ok := parse(header)
	if !ok || !p.sampled() {
		return nil
	}
	s := &span{
		parent: p, id: rand.Uint64(), start: r.CommittedAt,
		topic: r.Topic, partition: r.Partition, offset: r.Offset, position: r.Position,
		tombstone: r.Value == nil,
	}
	for s.id == 0 { // which is no id
		s.id = rand.Uint64()
	}
	s.event, _ = text(r.ID, maxText)
	s.state, _ = text(state, maxState)
	if r.Key != nil {
		s.key, s.keyed = text(r.Key, maxText)
	}
	return func(acked time.Time) {
		s.end = acked
		select {
		case t.queue <- s:
		default:
			t.dropped.Add(1)
		}
	}
}

// contextOf returns the traceparent and the tracestate of a record's headers, nil for
// none. CloudEvents has them under names of its own.
func contextOf(r *record.Record) (header, state []byte) {
	for i := range r.Headers {
		switch h := &r.Headers[i]; h.Key {
		case "traceparent", "ce_traceparent":
			header = h.Value
		case "tracestate", "ce_tracestate":
			state = h.Value
		}
	}
	return header, state
}

// text returns a copy of what can be an attribute: UTF-8 of no more than limit bytes.
func text(b []byte, limit int) (string, bool) {
	if len(b) > limit || !utf8.Valid(b) {
		return "", false
	}
	return string(b), true
}
