package cloudevents_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/formattest"
	"outboxd/internal/record"
)

var options = format.Options{Format: cloudevents.Format{}}

func encoded(t testing.TB, ev *decoder.Event) string {
	t.Helper()
	r, err := formattest.Encode(options, format.Outbox{Source: []byte("/shop/public.outbox")}, ev)
	if err != nil {
		t.Fatal(err)
	}
	return string(r.Value)
}

// wellFormed demands one JSON object in UTF-8 whose keys do not repeat.
func wellFormed(t testing.TB, text string) {
	t.Helper()
	if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
		t.Errorf("not JSON: %q", text)
	}
	seen := make(map[string]bool)
	d := json.NewDecoder(strings.NewReader(text))
	_, _ = d.Token() // {
	for d.More() {
		var value json.RawMessage
		key, _ := d.Token()
		if err := d.Decode(&value); err != nil || seen[key.(string)] {
			t.Errorf("key %v, %v: %s", key, err, text)
			return
		}
		seen[key.(string)] = true
	}
}

func TestCloudEvent(t *testing.T) {
	for name, test := range map[string]struct {
		event *decoder.Event
		want  string
	}{
		"all": {formattest.Full(), `{"specversion":"1.0","id":"8f3a","source":"/shop/public.outbox","type":"OrderPlaced","subject":"order-1","time":"2026-07-31T14:00:00.000005Z",` +
			`"datacontenttype":"application/json","partitionkey":"order-1","sequence":"0000000001507C60-00000001","correlationid":"c-1","causationid":"c-0",` +
			`"traceparent":"00-4bf9-00f0-01","data":{"a":  1.10}}`},
		// CloudEvents knows no empty attribute.
		"bytes": {formattest.Full(formattest.Set(decoder.Payload, decoder.ByteaOID, "\x00\xff"), formattest.Null(decoder.Timestamp), formattest.Set(decoder.AggregateID, 0, ""),
			formattest.Set(decoder.CorrelationID, 0, ""), formattest.Null(decoder.CausationID), formattest.Set(decoder.TraceParent, 0, "")),
			`{"specversion":"1.0","id":"8f3a","source":"/shop/public.outbox","type":"OrderPlaced","time":"2026-07-31T12:30:00.123456Z",` +
				`"datacontenttype":"application/octet-stream","sequence":"0000000001507C60-00000001","data_base64":"AP8="}`},
		"text": {formattest.Full(formattest.Set(decoder.Payload, decoder.VarcharOID, "a \"b\""), formattest.Null(decoder.Timestamp, decoder.CorrelationID, decoder.CausationID, decoder.TraceParent)),
			`{"specversion":"1.0","id":"8f3a","source":"/shop/public.outbox","type":"OrderPlaced","subject":"order-1","time":"2026-07-31T12:30:00.123456Z",` +
				`"datacontenttype":"text/plain; charset=utf-8","partitionkey":"order-1","sequence":"0000000001507C60-00000001","data":"a \"b\""}`},
	} {
		got := encoded(t, test.event)
		if got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, test.want)
		}
		wellFormed(t, got)
	}
	for _, f := range []decoder.Field{decoder.ID, decoder.Type} {
		for _, change := range []func(*decoder.Event){formattest.Null(f), formattest.Set(f, 0, "")} {
			_, err := formattest.Encode(options, format.Outbox{}, formattest.Full(change))
			if !errors.Is(err, record.ErrUndeliverable) {
				t.Errorf("%s is NULL or empty: %v", f, err)
				continue
			}
			formattest.Says(t, err, "outbox.columns."+f.String(), "CloudEvent")
		}
	}
}
