package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cloudevents "github.com/cloudevents/sdk-go/v2/event"
)

// The golden records are what a consumer finds, whole. After a change that is
// meant, write them again:
//
//	go -C e2e test . -run TestRecords -update
var update = flag.Bool("update", false, "write the golden records again")

// goldenTable has a column for everything that can be mapped, and for each kind of
// type that becomes a header.
const goldenTable = `
CREATE TYPE level AS ENUM ('low', 'high');
CREATE DOMAIN flag AS boolean;
CREATE DOMAIN document AS jsonb CHECK (VALUE IS DISTINCT FROM '"refused"');
CREATE DOMAIN digest AS bytea;
DROP TABLE outbox;
CREATE TABLE outbox (
	event_id uuid, kind varchar(20), thing text, type text, body %s,
	happened timestamptz, version bigint, schema_version smallint, correlation uuid, cause text, trace varchar(8),
	urgent flag, amount numeric(12,4), tags text[], level level, local timestamp, ratio float8, note text, more jsonb)`

// goldenRows: everything; little; nothing but what must be; a tombstone.
var goldenRows = []string{
	`('00000000-0000-4000-8000-000000000001', 'order', 'order-1', 'OrderPlaced', %s,
	  '2001-02-03 04:05:06.789+02', 9007199254740993, 3, '00000000-0000-4000-8000-0000000000c1', 'b-17', '00-4bf9',
	  true, 1234567.5, '{a,"b c",NULL}', 'high', '2001-02-03 04:05:06', 0.1, E'line\nbreak "\\ \u2028\u001f', '{"region": "eu", "n": 1.10, "o": {"a": null}, "no": null, "b": false, "q": "\"\\u00e9\""}')`,
	`('00000000-0000-4000-8000-000000000002', 'order', 'Größe 🔑', 'OrderPaid', %s,
	  NULL, -1, NULL, NULL, '', '', false, 0, '{}', 'low', NULL, 'infinity', '', '{}')`,
	`('00000000-0000-4000-8000-000000000003', NULL, '', 'OrderPlaced', %s,
	  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`,
	`('00000000-0000-4000-8000-000000000004', 'order', 'order-1', 'OrderPlaced', NULL,
	  '1970-01-01 00:00:00+00', 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`,
}

const goldenColumns = `
  table: public.outbox
  columns: {id: event_id, aggregate_type: kind, aggregate_id: thing, payload: body, timestamp: happened, version: version,
    schema_version: schema_version, correlation_id: correlation, causation_id: cause, traceparent: trace}`

const goldenHeaders = `
  headers: {urgent: urgent, amount: amount, tags: tags, level: level, local: local, ratio: ratio, note: note, "Big Id": event_id}
  headers_column: more`

// What a record is made of, whole: topic, partition, key, headers in order, value
// and time, in every format, with every style of headers, for every payload type.
func TestRecords(t *testing.T) {
	t.Parallel()
	for typ, test := range map[string]struct {
		payloads [3]string // SQL
		forms    []string  // format-headers-timestamp
	}{
		"document": {
			[3]string{`'{"big": 12345678901234567890, "dec": 1.10, "null": null, "text": "\u2028\"\\\u0001 é"}'`, `'[]'`, `'"text"'`},
			[]string{"raw-plain-commit", "raw-cloudevents-commit", "raw-debezium-column", "raw-none-now", "json-plain-commit", "json-none-column",
				"cloudevents-none-commit", "cloudevents-plain-column"},
		},
		"json":   {[3]string{`E'{ "b":1,\n "a" : 1.0e2,  "a":"\\u0000" }'`, `' [1,  2] '`, `'null'`}, []string{"raw-none-commit", "json-none-commit", "cloudevents-none-commit"}},
		"text":   {[3]string{`E'"a" \\ \t\x01 \u2028 é\r\n'`, `''`, `' '`}, []string{"json-none-commit", "raw-cloudevents-commit", "cloudevents-none-commit"}},
		"digest": {[3]string{`'\x00ff10'`, `''`, `'\x5b5d'`}, []string{"raw-none-commit", "json-none-commit", "raw-cloudevents-commit", "cloudevents-none-commit"}},
	} {
		t.Run(typ, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.exec(fmt.Sprintf(goldenTable, typ))
			var runs []*scenario
			var connectors []*connector
			for _, form := range test.forms {
				run := *s // the same table, a slot and topics of its own
				run.slotName, run.topic = unfit.ReplaceAllString(form, "_")+"_"+s.slotName, s.topic+"-"+form
				if len(run.slotName) > 63 {
					run.slotName = run.slotName[:63]
				}
				parts := strings.Split(form, "-")
				run.extra = fmt.Sprintf("value: {format: %s, headers: %s, timestamp: %s}\noutbox:%s", parts[0], parts[1], parts[2], goldenColumns)
				if parts[1] != "none" {
					run.extra += goldenHeaders
				}
				runs = append(runs, &run)
				connectors = append(connectors, run.start())
			}
			for _, c := range connectors {
				c.waitLog(`"message":"streaming"`, 60*time.Second)
			}
			var rows []string
			for i, row := range goldenRows {
				if i < len(test.payloads) {
					row = fmt.Sprintf(row, test.payloads[i])
				}
				rows = append(rows, row)
			}
			s.exec("INSERT INTO outbox VALUES " + strings.Join(rows, ",\n"))
			for i, run := range runs {
				run.waitConfirmed(60 * time.Second)
				connectors[i].stop()
				form := test.forms[i]
				records := run.read()
				run.golden(filepath.Join("testdata", "records", typ+"-"+form+".txt"), records)
				if strings.Contains(form, "cloudevents") {
					run.parseCloudEvents(form, records)
				}
			}
		})
	}
}

// docs/formats.md shows records as they are.
func TestRecordsOfTheManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ALTER id DROP IDENTITY; ALTER TABLE outbox ALTER id TYPE text, ADD version int, ADD happened timestamptz")
	for _, form := range []string{"raw", "json", "cloudevents"} {
		run := *s
		run.slotName, run.topic = form+"_"+s.slotName, s.topic+"-"+form
		run.extra = "value: {format: " + form + ", headers: none}\noutbox: {columns: {version: version, timestamp: happened}}"
		c := run.startStreaming()
		run.exec(`INSERT INTO outbox VALUES ('8f3a7a0e', 'order', 'order-1009', 'OrderPaid', '{"total": 1.10}', 7, '2026-07-31 14:00:00+02')`)
		run.waitConfirmed(60 * time.Second)
		c.stop()
		records := run.read()
		if len(records) != 1 {
			t.Fatalf("%s: %v", form, records)
		}
		if value := run.fixed(string(records[0].value)); !strings.Contains(string(page), "| `"+form+"` | `"+value+"`") {
			t.Errorf("docs/formats.md does not have the record of %s: %s", form, value)
		}
		run.exec("DELETE FROM outbox")
		if h := records[0].header("content-type"); h != "" && !strings.Contains(string(page), "content-type: "+h) {
			t.Errorf("docs/formats.md does not have the content type %s", h)
		}
	}
}

var moment = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`)

// golden compares records with those of a file, after what differs from run to run
// was replaced.
func (s *scenario) golden(file string, records []record) {
	s.t.Helper()
	var b bytes.Buffer
	for _, r := range records {
		fmt.Fprintf(&b, "topic: %s\npartition: %d\nkey: %q\n", r.topic, r.partition, r.key)
		if recent(r.timestamp) {
			fmt.Fprintf(&b, "timestamp: of now\n")
		} else {
			fmt.Fprintf(&b, "timestamp: %s\n", r.timestamp.UTC().Format(time.RFC3339Nano))
		}
		for _, h := range r.headers {
			fmt.Fprintf(&b, "header %s: %q\n", h.Key, h.Value)
		}
		if r.value == nil {
			fmt.Fprintf(&b, "no value\n\n")
		} else {
			fmt.Fprintf(&b, "value: %q\n\n", r.value)
		}
	}
	text := s.fixed(b.String())
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	got, wanted := strings.Split(text, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(wanted)) {
		if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
			s.t.Errorf("%s, line %d:\ngot  %s\nwant %s", file, i+1, strings.Join(got[min(i, len(got)):min(i+1, len(got))], ""), strings.Join(wanted[min(i, len(wanted)):min(i+1, len(wanted))], ""))
			return
		}
	}
}

// fixed replaces what differs from run to run: names, positions, and times of now.
func (s *scenario) fixed(text string) string {
	text = strings.ReplaceAll(text, s.topic+".", "outbox.event.")
	text = strings.ReplaceAll(text, "/"+s.database+"/", "/shop/")
	text = regexp.MustCompile(`[0-9A-F]{16}-0000000`).ReplaceAllString(text, "0000000001507C60-0000000")
	return moment.ReplaceAllStringFunc(text, func(found string) string {
		if at, err := time.Parse(time.RFC3339, found); err == nil && recent(at) {
			return "2026-07-31T12:30:00.123456Z"
		}
		return found
	})
}

func recent(at time.Time) bool { return time.Since(at).Abs() < 24*time.Hour }

// parseCloudEvents reads the records as consumers with CloudEvents' own SDK do.
func (s *scenario) parseCloudEvents(form string, records []record) {
	s.t.Helper()
	structured := strings.HasPrefix(form, "cloudevents")
	parsed := 0
	for _, r := range records {
		headers := make(map[string][]byte)
		for _, h := range r.headers {
			headers[h.Key] = h.Value
		}
		message := kafka_sarama.NewMessage(r.value, r.header("content-type"), headers)
		if want := map[bool]binding.Encoding{true: binding.EncodingStructured, false: binding.EncodingBinary}[structured]; r.value != nil && message.ReadEncoding() != want {
			s.t.Errorf("%s: %v: encoding %s, want %s", form, r, message.ReadEncoding(), want)
			continue
		}
		if r.value == nil && structured {
			if r.header("content-type") != "" {
				s.t.Errorf("%s: a tombstone has content: %v", form, r)
			}
			continue
		}
		e, err := binding.ToEvent(context.Background(), message)
		if err == nil {
			err = e.Validate()
		}
		if err != nil {
			s.t.Errorf("%s: %v: %v\n%s", form, r, err, r.value)
			continue
		}
		parsed++
		s.checkCloudEvent(form, r, e)
	}
	if parsed < 3 {
		s.t.Errorf("%s: %d events of %d records", form, parsed, len(records))
	}
}

func (s *scenario) checkCloudEvent(form string, r record, e *cloudevents.Event) {
	s.t.Helper()
	want := s.value(fmt.Sprintf(`SELECT json_build_object('type', type, 'subject', thing, 'happened', happened, 'correlationid', correlation,
		'causationid', nullif(cause, ''), 'traceparent', nullif(trace, ''), 'data', encode(%s, 'base64'))::text FROM outbox WHERE event_id = '%s'`,
		"convert_to(body::text, 'UTF8')", e.ID()))
	var row struct {
		Type, Subject                           string
		Happened                                *time.Time
		CorrelationID, CausationID, TraceParent *string
		Data                                    *string
	}
	if err := json.Unmarshal([]byte(want), &row); err != nil {
		s.t.Fatal(err)
	}
	if e.SpecVersion() != "1.0" || e.Type() != row.Type || e.Source() != "/"+s.database+"/public.outbox" || e.Subject() != row.Subject {
		s.t.Errorf("%s: %s\nof row %s", form, e, want)
	}
	if happened := row.Happened; happened != nil && !e.Time().Equal(*happened) || happened == nil && !recent(e.Time()) {
		s.t.Errorf("%s: time %s of row %s", form, e.Time(), want)
	}
	for name, value := range map[string]*string{"correlationid": row.CorrelationID, "causationid": row.CausationID, "traceparent": row.TraceParent} {
		got, ok := e.Extensions()[name]
		if ok != (value != nil) || ok && strings.TrimSpace(fmt.Sprint(got)) != strings.TrimSpace(*value) {
			s.t.Errorf("%s: extension %s is %v in %s", form, name, got, want)
		}
	}
	if key, ok := e.Extensions()["partitionkey"]; ok != (r.key != "") || ok && key != r.key {
		s.t.Errorf("%s: partitionkey %v of key %q", form, key, r.key)
	}
	if sequence := fmt.Sprint(e.Extensions()["sequence"]); len(sequence) != 25 {
		s.t.Errorf("%s: sequence %s", form, sequence)
	}
	if row.Data == nil {
		if len(e.Data()) != 0 {
			s.t.Errorf("%s: data %q of a NULL payload", form, e.Data())
		}
		return
	}
	text, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(*row.Data, "\n", ""))
	if err != nil {
		s.t.Fatal(err)
	}
	data := e.Data()
	switch e.DataContentType() {
	case "application/json":
		if !json.Valid(data) {
			s.t.Errorf("%s: data %q", form, data)
		}
		text, data = bytes.TrimSpace(text), bytes.TrimSpace(data)
	case "application/octet-stream":
		data = []byte(fmt.Sprintf(`\x%x`, data))
	case "text/plain; charset=utf-8":
		if strings.HasPrefix(form, "cloudevents") { // the SDK leaves a JSON string as it is
			var decoded string
			if json.Unmarshal(data, &decoded) == nil {
				data = []byte(decoded)
			}
		}
	default:
		s.t.Errorf("%s: content type %s", form, e.DataContentType())
	}
	if !slices.Equal(data, text) {
		s.t.Errorf("%s: data %q, want %q", form, data, text)
	}
}
