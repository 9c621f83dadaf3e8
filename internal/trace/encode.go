package trace

import (
	"encoding/binary"
	"strconv"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// conventions are the version of OpenTelemetry's semantic conventions that names and
// attributes are from: docs/messaging/kafka.md there, "Send span (client)". A span is of
// the kind client and links to the record's context, because the record keeps the
// context that its writer gave it.
const conventions = "https://opentelemetry.io/schemas/1.44.0"

// encode returns the body of a request with spans.
func (t *Tracer) encode(spans []*span) ([]byte, error) {
	all := make([]*otlp.Span, len(spans))
	for i, s := range spans {
		all[i] = t.otlp(s)
	}
	return proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{
			str("service.name", "outboxd"),
			str("service.version", t.o.Version),
			str("outboxd.slot", t.o.Slot),
		}},
		ScopeSpans: []*otlp.ScopeSpans{{
			Scope:     &common.InstrumentationScope{Name: "outboxd", Version: t.o.Version},
			Spans:     all,
			SchemaUrl: conventions,
		}},
	}}})
}

// remoteParent says that it is known whether the parent is of another process, and that it
// is.
const remoteParent = uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)

func (t *Tracer) otlp(s *span) *otlp.Span {
	attributes := []*common.KeyValue{
		str("messaging.system", "kafka"),
		str("messaging.operation.name", "send"),
		str("messaging.operation.type", "send"),
		str("messaging.destination.name", s.topic),
		str("messaging.destination.partition.id", strconv.Itoa(int(s.partition))),
		{Key: "messaging.kafka.offset", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: s.offset}}},
		str("outboxd.position", s.position.String()),
	}
	if t.o.ClientID != "" {
		attributes = append(attributes, str("messaging.client.id", t.o.ClientID))
	}
	if s.event != "" {
		attributes = append(attributes, str("messaging.message.id", s.event))
	}
	if s.keyed {
		attributes = append(attributes, str("messaging.kafka.message.key", s.key))
	}
	if s.tombstone {
		attributes = append(attributes, &common.KeyValue{
			Key: "messaging.kafka.message.tombstone", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}},
		})
	}
	flags := remoteParent | uint32(s.parent.flags)
	return &otlp.Span{
		TraceId:           s.parent.trace[:],
		SpanId:            binary.BigEndian.AppendUint64(nil, s.id),
		ParentSpanId:      s.parent.span[:],
		TraceState:        s.state,
		Flags:             flags,
		Name:              "send " + s.topic,
		Kind:              otlp.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: nanoseconds(s.start),
		// The clocks of PostgreSQL and outboxd differ: no span ends before it begins.
		EndTimeUnixNano: max(nanoseconds(s.start), nanoseconds(s.end)),
		Attributes:      attributes,
		Links:           []*otlp.Span_Link{{TraceId: s.parent.trace[:], SpanId: s.parent.span[:], TraceState: s.state, Flags: flags}},
	}
}

func str(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}}
}

func nanoseconds(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }
