package format_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/debezium"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

// source is the CloudEvents source of opened.
const source = "/shop/public.outbox"

func opened(o format.Options) *format.Encoder {
	e := format.New(o)
	e.Open(format.Outbox{Source: []byte(source)})
	return e
}

// encode is what the flow does: the record is used again.
func encode(e *format.Encoder, ev *decoder.Event, r *record.Record) error {
	r.Reset()
	r.Key = ev.Values[decoder.AggregateID]
	return e.Encode(ev, r)
}

func TestPlainHeaders(t *testing.T) {
	r := opened(format.Options{})
	tests := []struct {
		name  string
		event *decoder.Event
		want  []string
	}{
		{"all", formattest.Named(), []string{
			"id=value of id", "type=OrderPlaced", "aggregate_type=order", "aggregate_id=value of aggregate_id",
			"position=0000000001507C60-00000001", "version=value of version", "schema_version=value of schema_version",
			"correlation_id=value of correlation_id", "causation_id=value of causation_id", "traceparent=value of traceparent", "timestamp=2026-07-31T14:00:00.000005Z",
		}},
		{"a NULL gives none", formattest.Named(formattest.Null(decoder.ID, decoder.AggregateType, decoder.Version, decoder.CausationID, decoder.TraceParent, decoder.Timestamp)), []string{
			"type=OrderPlaced", "aggregate_id=value of aggregate_id", "position=0000000001507C60-00000001",
			"schema_version=value of schema_version", "correlation_id=value of correlation_id",
		}},
		{"an empty value gives one", formattest.Named(formattest.With(decoder.ID, ""), formattest.Null(decoder.AggregateType, decoder.Version, decoder.SchemaVersion,
			decoder.CorrelationID, decoder.CausationID, decoder.TraceParent, decoder.Timestamp)), []string{
			"id=", "type=OrderPlaced", "aggregate_id=value of aggregate_id", "position=0000000001507C60-00000001",
		}},
	}
	var m record.Record // reused, as the pipeline does
	for _, test := range tests {
		if err := encode(r, test.event, &m); err != nil {
			t.Fatal(err)
		}
		if got := formattest.Headers(&m); !slices.Equal(got, test.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", test.name, got, test.want)
		}
		if len(m.Headers) > record.MaxHeaders {
			t.Errorf("%s: %d headers, more than record.MaxHeaders", test.name, len(m.Headers))
		}
	}
}

func TestNoHeaders(t *testing.T) {
	m := record.Record{Record: kgo.Record{Headers: []record.Header{{Key: "left from before"}}}}
	o := format.Options{}
	o.Headers = format.None
	if err := encode(opened(o), formattest.Named(), &m); err != nil || len(m.Headers) != 0 {
		t.Errorf("headers %q, %v", formattest.Headers(&m), err)
	}
}

// A record that is published again says so in its last header, whatever its style,
// and otherwise is what it was.
func TestReplayedHeader(t *testing.T) {
	for name, change := range map[string]func(*format.Options){
		"plain":                    func(*format.Options) {},
		"cloudevents, binary mode": func(o *format.Options) { o.Headers = cloudevents.Headers{} },
		"cloudevents":              func(o *format.Options) { o.Headers, o.ContentType = debezium.IDHeader, "application/cloudevents+json" },
		"debezium":                 func(o *format.Options) { o.Headers = debezium.IDHeader },
		"connect": func(o *format.Options) {
			o.Headers = debezium.NewHeaders(debezium.Options{Context: "shop", Columns: o.Columns})
		},
		"connect, json": func(o *format.Options) {
			o.Headers = debezium.NewHeaders(debezium.Options{Headers: debezium.JSON, Columns: o.Columns})
		},
		"connect, json_schema": func(o *format.Options) {
			o.Headers = debezium.NewHeaders(debezium.Options{Headers: debezium.JSONSchema, Columns: o.Columns})
		},
		"none": func(o *format.Options) { o.Headers = format.None },
	} {
		o := format.Options{}
		o.Columns = []format.ColumnHeader{{Key: "tenant", Field: formattest.Tenant}}
		change(&o)
		for payload, ev := range map[string]*decoder.Event{"a value": formattest.Named(), "a tombstone": formattest.Named(formattest.Null(decoder.Payload))} {
			var first, again record.Record
			o.Replayed = false
			if err := encode(opened(o), ev, &first); err != nil {
				t.Fatal(err)
			}
			o.Replayed = true
			if err := encode(opened(o), ev, &again); err != nil {
				t.Fatal(err)
			}
			if got, want := formattest.Headers(&again), append(formattest.Headers(&first), "replayed=true"); !slices.Equal(got, want) {
				t.Errorf("%s, %s:\ngot  %q\nwant %q", name, payload, got, want)
			}
			if len(again.Headers) > record.MaxHeaders+len(o.Columns) {
				t.Errorf("%s: %d headers, more than record.MaxHeaders and those of columns", name, len(again.Headers))
			}
		}
	}
}

// The position is the message's own: the next event does not change it.
func TestPositionsOfTwoMessages(t *testing.T) {
	r := opened(format.Options{})
	var first, second record.Record
	if err := errors.Join(
		encode(r, formattest.Named(), &first),
		encode(r, formattest.Named(func(ev *decoder.Event) { ev.Position.Number = 2 }), &second),
	); err != nil {
		t.Fatal(err)
	}
	const at = 4 // behind id, type, aggregate_type, aggregate_id
	if a, b := string(first.Headers[at].Value), string(second.Headers[at].Value); a != "0000000001507C60-00000001" || b != "0000000001507C60-00000002" {
		t.Errorf("positions %s and %s", a, b)
	}
}

func TestColumnHeaders(t *testing.T) {
	o := format.Options{}
	o.Headers = debezium.IDHeader
	o.Columns = []format.ColumnHeader{{Key: "z", Field: formattest.Tenant}, {Key: "a", Field: formattest.Note}, {Key: "z", Field: decoder.Type}}
	r := opened(o)
	typed := func(f decoder.Field, oid uint32) func(*decoder.Event) {
		return func(ev *decoder.Event) { ev.Types[f] = oid }
	}
	var m record.Record
	for _, test := range []struct {
		event *decoder.Event
		want  string
	}{
		{formattest.Named(formattest.With(formattest.Tenant, "t"), formattest.With(formattest.Note, "f")), "id=value of id z=t a=f z=OrderPlaced"},
		{formattest.Named(formattest.With(formattest.Tenant, "t"), typed(formattest.Tenant, decoder.BoolOID), formattest.With(formattest.Note, "f"), typed(formattest.Note, decoder.BoolOID)), "id=value of id z=true a=false z=OrderPlaced"},
		{formattest.Named(formattest.Null(formattest.Tenant, decoder.ID), formattest.With(formattest.Note, "")), "a= z=OrderPlaced"},
	} {
		if err := encode(r, test.event, &m); err != nil || strings.Join(formattest.Headers(&m), " ") != test.want {
			t.Errorf("got  %q, %v\nwant %q", formattest.Headers(&m), err, test.want)
		}
	}
}

func TestHeadersColumn(t *testing.T) {
	o := format.Options{}
	o.Headers, o.Object = debezium.IDHeader, formattest.Note
	r := opened(o)
	var m record.Record
	ev := formattest.Named(formattest.With(formattest.Note, `{"b": "x\u00e9\"\n", "a": 12345678901234567890.10, "n": null, "t": true, "o": {"k":  [1, 2]}, "": ""}`))
	if err := encode(r, ev, &m); err != nil {
		t.Fatal(err)
	}
	want := []string{"id=value of id", "b=x\u00e9\"\n", "a=12345678901234567890.10", "t=true", `o={"k":  [1, 2]}`, "="}
	if got := formattest.Headers(&m); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if err := encode(r, formattest.Named(formattest.Null(formattest.Note)), &m); err != nil || len(m.Headers) != 1 {
		t.Errorf("NULL: %q, %v", formattest.Headers(&m), err)
	}
	for _, value := range []string{"[]", "1", `"text"`, "null"} {
		formattest.Says(t, encode(r, formattest.Named(formattest.With(formattest.Note, value)), &m), "outbox.headers_column")
	}
}

func TestCloudEventsHeaders(t *testing.T) {
	o := format.Options{}
	o.Headers = cloudevents.Headers{}
	r := opened(o)
	var m record.Record
	ev := formattest.Named(formattest.Null(decoder.CausationID))
	ev.Types[decoder.Payload] = decoder.JSONBOID
	if err := encode(r, ev, &m); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ce_specversion=1.0", "ce_id=value of id", "ce_source=/shop/public.outbox", "ce_type=OrderPlaced", "ce_subject=value of aggregate_id",
		"ce_time=2026-07-31T14:00:00.000005Z", "ce_partitionkey=value of aggregate_id", "ce_sequence=0000000001507C60-00000001",
		"ce_correlationid=value of correlation_id", "ce_traceparent=value of traceparent", "content-type=application/json",
	}
	if got := formattest.Headers(&m); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if err := encode(r, formattest.Named(formattest.Null(decoder.Timestamp)), &m); err != nil || !slices.Contains(formattest.Headers(&m), "ce_time=2026-07-31T12:30:00.123456Z") {
		t.Errorf("without a business time: %q, %v", formattest.Headers(&m), err)
	}
	formattest.Says(t, encode(r, formattest.Named(formattest.Null(decoder.ID)), &m), "id", "CloudEvent")
	formattest.Says(t, encode(r, formattest.Named(formattest.With(decoder.Type, "x"), formattest.With(decoder.ID, "")), &m), "id", "CloudEvent")
}

func TestAppendTime(t *testing.T) {
	berlin := time.FixedZone("", 2*3600)
	for _, at := range []time.Time{
		{}, time.Unix(0, 0), time.Unix(-1, 999_999_999), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(2024, 2, 29, 1, 2, 3, 40_000, berlin), time.Date(10, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, want := string(format.AppendTime([]byte("x"), at)), "x"+at.UTC().Format(record.TimeFormat); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// CloudEvents knows no empty attribute, and a tombstone has no content.
func TestCloudEventsHeadersOfLittle(t *testing.T) {
	o := format.Options{}
	o.Headers, o.EmptyIsTombstone = cloudevents.Headers{}, true
	r := opened(o)
	ev := formattest.Named(formattest.With(decoder.AggregateID, ""), formattest.With(decoder.CorrelationID, ""), formattest.With(decoder.CausationID, ""), formattest.With(decoder.TraceParent, ""), formattest.With(decoder.Payload, " \n"))
	var m record.Record
	if err := encode(r, ev, &m); err != nil {
		t.Fatal(err)
	}
	want := []string{"ce_specversion=1.0", "ce_id=value of id", "ce_source=/shop/public.outbox", "ce_type=OrderPlaced", "ce_time=2026-07-31T14:00:00.000005Z", "ce_sequence=0000000001507C60-00000001"}
	if got := formattest.Headers(&m); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// The content type of structured events is there when there is a value.
func TestContentType(t *testing.T) {
	for _, empty := range []bool{false, true} {
		o := format.Options{}
		o.Headers, o.ContentType, o.EmptyIsTombstone = debezium.IDHeader, "application/cloudevents+json", empty
		r := opened(o)
		var m record.Record
		for payload, hasValue := range map[string]bool{"x": true, " ": !empty, "": !empty} {
			if err := encode(r, formattest.Named(formattest.With(decoder.Payload, payload)), &m); err != nil || slices.Contains(formattest.Headers(&m), "content-type=application/cloudevents+json") != hasValue {
				t.Errorf("payload %q: %q, %v", payload, formattest.Headers(&m), err)
			}
		}
		if err := encode(r, formattest.Named(formattest.Null(decoder.Payload)), &m); err != nil || len(m.Headers) != 1 {
			t.Errorf("NULL: %q, %v", formattest.Headers(&m), err)
		}
	}
}

// Describing an event gives the key and headers of its record, and neither looks at the
// payload nor asks anybody.
func TestDescribe(t *testing.T) {
	o := format.Options{Format: debezium.New(debezium.Options{Key: debezium.JSON, KeyField: decoder.AggregateID}), NullIsError: true, Object: formattest.Note}
	e := opened(o)
	var described, whole record.Record
	described.Key = []byte("value of aggregate_id")
	if err := errors.Join(e.Describe(formattest.Named(formattest.Null(decoder.Payload), formattest.With(formattest.Note, `{"a":1}`)), &described),
		encode(e, formattest.Named(formattest.With(formattest.Note, `{"a":1}`)), &whole)); err != nil {
		t.Fatal(err)
	}
	if string(described.Key) != `"value of aggregate_id"` || string(whole.Key) != string(described.Key) || !slices.Equal(formattest.Headers(&described), formattest.Headers(&whole)) || described.Value != nil {
		t.Errorf("described %s %q, whole %s %q", described.Key, formattest.Headers(&described), whole.Key, formattest.Headers(&whole))
	}
	if err := e.Describe(formattest.Named(formattest.With(formattest.Note, `[]`)), &described); !errors.Is(err, record.ErrUndeliverable) {
		t.Errorf("headers that cannot be written: %v", err)
	}
}

// No commit has such a time but of a server whose clock is far off.
func TestAppendTimeOfALateYear(t *testing.T) {
	if got := string(format.AppendTime([]byte("x"), time.Date(294276, 12, 31, 1, 2, 3, 0, time.UTC))); got != "x4276-12-31T01:02:03.000000Z" {
		t.Error(got)
	}
}
