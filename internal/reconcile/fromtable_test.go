package reconcile

import (
	"strings"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/json"
	"outboxd/internal/record"
)

// An event that was read from the table has no position and, mostly, no commit time:
// no format invents either, and the record's time is the best that is known.
func TestRecordOfEventFromTable(t *testing.T) {
	var f fakeTable
	for name, o := range map[string]format.Options{
		"plain":         {Object: decoder.NoField},
		"ce":            {Object: decoder.NoField, Headers: cloudevents.Headers{}},
		"json":          {Object: decoder.NoField, Format: json.Format{}},
		"cloudevents":   {Object: decoder.NoField, Format: cloudevents.Format{}},
		"business time": {Object: decoder.NoField, Clock: record.BusinessTime},
	} {
		r := fakeRow{id: "e1", aggregate: "a", payload: "{}"}
		for range 2 {
			ev := f.event(r)
			ev.CommittedAt = time.Time{}
			e := format.New(o)
			if err := e.Open(format.Outbox{Source: []byte("/db/o")}); err != nil {
				t.Fatal(err)
			}
			var made record.Record
			made.Topic, made.Key = "t", []byte("a")
			before := time.Now()
			if err := e.Encode(ev, &made); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, h := range made.Headers {
				if h.Key == "position" || h.Key == "ce_sequence" || h.Key == "ce_time" && r.at.IsZero() {
					t.Errorf("%s: header %s: %s", name, h.Key, h.Value)
				}
			}
			for _, never := range []string{`"position"`, `"committed_at"`, `"sequence"`} {
				if strings.Contains(string(made.Value), never) {
					t.Errorf("%s: %s", name, made.Value)
				}
			}
			if strings.Contains(string(made.Value), `"time"`) != (name == "cloudevents" && !r.at.IsZero()) {
				t.Errorf("%s: %s", name, made.Value)
			}
			if r.at.IsZero() && (made.Timestamp.Before(before) || made.Timestamp.After(time.Now())) || !r.at.IsZero() && !made.Timestamp.Equal(r.at) {
				t.Errorf("%s: time %s, business time %s", name, made.Timestamp, r.at)
			}
			r.at = begin
		}
	}
}
