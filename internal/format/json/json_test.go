package json_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/formattest"
	formatjson "outboxd/internal/format/json"
)

var options = format.Options{Format: formatjson.Format{}}

func encoded(t testing.TB, ev *decoder.Event) string {
	t.Helper()
	r, err := formattest.Encode(options, format.Outbox{}, ev)
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

func TestEnvelope(t *testing.T) {
	for name, test := range map[string]struct {
		event *decoder.Event
		want  string
	}{
		"all": {formattest.Full(), `{"id":"8f3a","type":"OrderPlaced","aggregate_type":"order","aggregate_id":"order-1","version":7,"schema_version":"2",` +
			`"timestamp":"2026-07-31T14:00:00.000005Z","committed_at":"2026-07-31T12:30:00.123456Z","correlation_id":"c-1","causation_id":"c-0",` +
			`"position":"0000000001507C60-00000001","payload":{"a":  1.10}}`},
		"NULL is absent": {formattest.Full(formattest.Null(decoder.ID, decoder.Type, decoder.AggregateType, decoder.AggregateID, decoder.Version, decoder.SchemaVersion,
			decoder.Timestamp, decoder.CorrelationID, decoder.CausationID, decoder.TraceParent)),
			`{"committed_at":"2026-07-31T12:30:00.123456Z","position":"0000000001507C60-00000001","payload":{"a":  1.10}}`},
		"empty is not": {formattest.Full(formattest.Set(decoder.ID, 0, ""), formattest.Null(decoder.Type, decoder.AggregateType, decoder.AggregateID, decoder.Version, decoder.Timestamp,
			decoder.CorrelationID, decoder.CausationID), formattest.Set(decoder.SchemaVersion, decoder.Int2OID, "-3"), formattest.Set(decoder.Payload, decoder.TextOID, "")),
			`{"id":"","schema_version":-3,"committed_at":"2026-07-31T12:30:00.123456Z","position":"0000000001507C60-00000001","payload":""}`},
	} {
		got := encoded(t, test.event)
		if got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, test.want)
		}
		wellFormed(t, got)
	}
}

// A payload is in the envelope as it is in the table.
func TestEmbeddedPayloads(t *testing.T) {
	for _, payload := range []string{
		`null`, `true`, `12345678901234567890.10`, `"\u00e9\u0000"`, `[]`, ` { "b":1,"a" : 1.0e2,   "a":2}`, "{\n\"\u2028\": \"\U0001F511\"}\n",
		"\"\x7f\"", `1e400`,
	} {
		got := encoded(t, formattest.Full(formattest.Set(decoder.Payload, decoder.JSONOID, payload)))
		if !strings.HasSuffix(got, `,"payload":`+payload+`}`) {
			t.Errorf("payload %q became %s", payload, got)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("not JSON: %q", got)
		}
	}
	data := bytes.Repeat([]byte("\x00\x01\xfe\xff"), 1000)
	var o struct{ Payload []byte }
	if err := json.Unmarshal([]byte(encoded(t, formattest.Full(formattest.Set(decoder.Payload, decoder.ByteaOID, string(data))))), &o); err != nil || !bytes.Equal(o.Payload, data) {
		t.Errorf("%v: %q", err, o.Payload)
	}
}

// Whatever the columns hold, the envelope is JSON and gives them back.
func FuzzEnvelope(f *testing.F) {
	f.Add("1", "t", "k", "text\n", false)
	f.Add("", "\x01", "\u2028\\", "\xff\x00", true)
	f.Fuzz(func(t *testing.T, id, typ, key, payload string, binary bool) {
		oid := uint32(decoder.TextOID)
		if binary {
			oid = decoder.ByteaOID
		}
		ev := formattest.Full(formattest.Set(decoder.ID, 0, id), formattest.Set(decoder.Type, 0, typ), formattest.Set(decoder.AggregateID, 0, key), formattest.Set(decoder.Payload, oid, payload))
		r, err := formattest.Encode(options, format.Outbox{}, ev)
		fits := utf8.ValidString(id) && utf8.ValidString(typ) && utf8.ValidString(key) && (binary || utf8.ValidString(payload))
		if (err == nil) != fits {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		var o struct {
			ID, Type, Payload string
			Aggregate         string `json:"aggregate_id"`
			Version           int
		}
		if err := json.Unmarshal(r.Value, &o); err != nil {
			t.Fatalf("%v: %s", err, r.Value)
		}
		if binary {
			raw, err := base64.StdEncoding.DecodeString(o.Payload)
			if err != nil {
				t.Fatal(err)
			}
			o.Payload = string(raw)
		}
		if o.ID != id || o.Type != typ || o.Aggregate != key || o.Payload != payload || o.Version != 7 {
			t.Fatalf("%+v", o)
		}
	})
}
