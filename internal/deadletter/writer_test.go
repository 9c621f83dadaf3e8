package deadletter

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// The record that is sent instead of the event is the letter, with the event's identity
// for whoever waits for it.
func TestWrite(t *testing.T) {
	ev, row, err := decode(t, table("id", "payload"), 2, []column{{"id", decoder.Int8OID, "13"}, {"payload", decoder.TextOID, strings.Repeat("\"", 50_000)}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	told := 0
	w := NewWriter(Options{Topic: testTopic, Always: true, Count: 1, Within: time.Minute, Log: zerolog.New(&log), OnLetter: func(k poison.Kind) { told++ }})
	cause := poison.TooLarge.Mark(errors.New("large"))
	for attempt, want := range []int{100_000, 60_000, 30_000, smallest, smallest} {
		r := &record.Record{Record: kgo.Record{Topic: "orders", Key: []byte("k"), Partition: 3, Headers: []record.Header{{Key: "id", Value: []byte("13")}}}}
		// Once more the same event: it is neither counted nor logged again.
		if err := w.Write(ev, row, cause, source, attempt, 60_000, r); err != nil {
			t.Fatal(err)
		}
		if attempt == 0 && len(r.Value) < want || attempt > 0 && (len(r.Value) > want || len(r.Value) < want/2-4_000) {
			t.Errorf("attempt %d: %d bytes, want about %d", attempt, len(r.Value), want)
		}
		if r.Topic != testTopic || string(r.Key) != "k" || r.Partition != record.ByKey || r.Position != ev.Position || string(r.ID) != "13" || r.Made() < len(r.Value) || r.Clock != record.SendTime {
			t.Errorf("%+v", r)
		}
	}
	// A late refusal: an event before one that is set aside already counts, too.
	early := *ev
	early.Position.Number--
	if err := NewWriter(Options{Count: 1, Within: time.Minute}).Write(&early, row, cause, source, 0, 0, new(record.Record)); err != nil {
		t.Error(err)
	}
	if err := w.Write(&early, row, cause, source, 0, 0, new(record.Record)); !errors.Is(err, ErrTooMany) {
		t.Errorf("an event before the others is not counted: %v", err)
	}
	if told != 1 || strings.Count(log.String(), "set aside") != 1 {
		t.Errorf("told %d times: %s", told, &log)
	}
	ev.Position.Number++
	if err := w.Write(ev, row, cause, source, 0, 0, new(record.Record)); !errors.Is(err, ErrTooMany) || !strings.Contains(Advice(err), "dead-letters retry") {
		t.Errorf("the second event: %v", err)
	}
	if Advice(cause) != "" {
		t.Error("advice for another error")
	}
}

// Of very many events the newest are known.
func TestPositions(t *testing.T) {
	var p positions
	for n := range uint32(3 * maxPositions) {
		at := decoder.Position{CommitLSN: 1, Number: n + 1}
		if !p.add(at) || p.add(at) || len(p.is) > maxPositions || len(p.is) != len(p.order) {
			t.Fatalf("position %s of %d", at, len(p.is))
		}
	}
}

// One event is set aside whatever the policy says, and it is said when it was not.
func TestOnly(t *testing.T) {
	at := func(n uint32) decoder.Position { return decoder.Position{CommitLSN: 0x1507C60, Number: n} }
	for name, test := range map[string]struct {
		write bool
		pass  []uint32
		says  string
	}{
		"set aside":           {true, []uint32{1, 2, 3, 4}, "is set aside"},
		"set aside, and ends": {true, []uint32{1, 2}, "is set aside"},
		"can be delivered":    {false, []uint32{1, 2, 3}, "can be delivered as far as is known"},
		"never met":           {false, []uint32{1, 3, 4}, "no event at the position"},
		"not reached":         {false, []uint32{1}, "no event at the position"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			prepared := 0
			w := NewWriter(Options{Topic: testTopic, Only: at(2), Log: zerolog.New(&log), Prepare: func(context.Context) error { prepared++; return nil }})
			for range 2 {
				if err := w.Prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if prepared != 1 || !w.Takes(at(2)) || w.Takes(at(3)) || !w.Watching() {
				t.Fatalf("prepared %d times, takes %t and %t", prepared, w.Takes(at(2)), w.Takes(at(3)))
			}
			for _, n := range test.pass {
				w.Passing(at(n))
				if n == 2 && test.write {
					ev, row, _ := decode(t, table("id"), 2, []column{{"id", decoder.Int8OID, "13"}})
					if err := w.Write(ev, row, errors.New("why"), source, 0, 0, new(record.Record)); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.End()
			w.End()
			if strings.Count(log.String(), test.says) != 1 || strings.Count(log.String(), "--dead-letter") != 1 {
				t.Errorf("log: %s\nwant once: %s", &log, test.says)
			}
		})
	}
	// Kafka refuses it after others have passed: that is said then.
	var log bytes.Buffer
	w := NewWriter(Options{Topic: testTopic, Only: at(2), Log: zerolog.New(&log)})
	w.Passing(at(2))
	w.Passing(at(3))
	ev, row, _ := decode(t, table("id"), 2, []column{{"id", decoder.Int8OID, "13"}})
	for range 2 {
		if err := w.Write(ev, row, errors.New("why"), source, 0, 0, new(record.Record)); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(log.String(), "is set aside") != 1 {
		t.Errorf("log: %s", &log)
	}
	w = NewWriter(Options{Prepare: func(context.Context) error { t.Error("prepared"); return nil }})
	if err := w.Prepare(t.Context()); err != nil || w.Takes(at(1)) || w.Takes(decoder.Position{}) || w.Watching() {
		t.Error("a run without dead letters takes some")
	}
}
