package format_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/debezium"
	"outboxd/internal/format/formattest"
	"outboxd/internal/mask"
	"outboxd/internal/record"
)

const cardNumber = "4111111111111111"

func withoutCard() (*mask.Masker, error) {
	return mask.New([]mask.Rule{{Path: "$.card", How: mask.Remove}}, nil)
}

func card(oid uint32, n string) *decoder.Event {
	return formattest.Full(formattest.Set(decoder.Payload, oid, `{"n": `+n+`, "card": "`+cardNumber+`"}`))
}

// No format publishes what is masked, and none writes into a record that was made
// before; the event is what it was.
func TestMaskedInEveryFormat(t *testing.T) {
	formats := map[string]format.Format{"debezium": debezium.New(debezium.Options{Value: debezium.String, KeyField: decoder.NoField})}
	for name, f := range named {
		formats[name] = f
	}
	for name, f := range formats {
		for _, oid := range []uint32{decoder.JSONBOID, decoder.TextOID} {
			e := format.New(format.Options{Format: f, Mask: withoutCard})
			if err := e.Open(format.Outbox{}); err != nil {
				t.Fatal(err)
			}
			var records []*record.Record
			for _, n := range []string{"1.0", "2.0"} {
				ev, r := card(oid, n), new(record.Record)
				if err := e.Encode(ev, r); err != nil {
					t.Fatal(err)
				}
				if !bytes.Contains(ev.Values[decoder.Payload], []byte(cardNumber)) {
					t.Errorf("%s: the event's payload was changed: %s", name, ev.Values[decoder.Payload])
				}
				if r.Made() == 0 {
					t.Errorf("%s: the memory of the masked payload is not counted", name)
				}
				records = append(records, r)
			}
			for i, n := range []string{"1.0", "2.0"} {
				value := string(records[i].Value)
				if strings.Contains(value, cardNumber) || !strings.Contains(value, n) {
					t.Errorf("%s, type %d: record %d is %s", name, oid, i, value)
				}
			}
		}
	}
}

// What cannot be masked, or is refused before it is, shows nothing of the payload.
func TestNothingIsShownOfWhatIsMasked(t *testing.T) {
	schema := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(schema, []byte(`{"properties": {"card": {"type": "string", "pattern": "^5"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := format.LoadSchema(schema)
	if err != nil {
		t.Fatal(err)
	}
	schemas := format.Schemas{string(formattest.Full().Values[decoder.Type]): loaded}
	unread := func() (*mask.Masker, error) { return nil, errors.New("its file is gone") }
	for name, c := range map[string]struct {
		o    format.Options
		ev   *decoder.Event
		says string
	}{
		"no JSON":        {format.Options{Mask: withoutCard}, formattest.Full(formattest.Set(decoder.Payload, decoder.TextOID, "card="+cardNumber)), "value.mask"},
		"misfit":         {format.Options{Mask: withoutCard, Schemas: schemas}, card(decoder.JSONBOID, "1"), "how is not shown, since value.mask is set"},
		"keys that fail": {format.Options{Mask: unread}, card(decoder.JSONBOID, "1"), "the keys of value.mask could not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			e := format.New(c.o)
			if err := e.Open(format.Outbox{}); (err != nil) != (name == "keys that fail") {
				t.Fatal(err)
			}
			r := new(record.Record)
			before := string(c.ev.Values[decoder.Payload])
			err := e.Encode(c.ev, r)
			if !errors.Is(err, record.ErrUndeliverable) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %q", err, c.says)
			}
			if strings.Contains(err.Error(), cardNumber) || r.Value != nil {
				t.Errorf("it shows the payload: %v; value %s", err, r.Value)
			}
			if after := string(c.ev.Values[decoder.Payload]); after != before {
				t.Errorf("the event's payload was changed: %s", after)
			}
			if shown, err := e.Mask()([]byte(before)); name != "misfit" && (err == nil || shown != nil) || strings.Contains(string(shown), cardNumber) {
				t.Errorf("it may be shown as %s (%v)", shown, err)
			}
		})
	}
}

// A tombstone has nothing to mask.
func TestTombstonesAreNotMasked(t *testing.T) {
	for _, payload := range [][]byte{nil, []byte(" ")} {
		ev := formattest.Full()
		ev.Values[decoder.Payload] = payload
		e := format.New(format.Options{Mask: withoutCard, EmptyIsTombstone: true, Format: named["json"]})
		if err := e.Open(format.Outbox{}); err != nil {
			t.Fatal(err)
		}
		r := new(record.Record)
		if err := e.Encode(ev, r); err != nil || r.Value != nil {
			t.Errorf("%q became %q (%v)", payload, r.Value, err)
		}
	}
}

// Keys are read for each session.
func TestKeysAreReadAtEachOpen(t *testing.T) {
	opened := 0
	e := format.New(format.Options{Mask: func() (*mask.Masker, error) { opened++; return withoutCard() }})
	for range 3 {
		if err := e.Open(format.Outbox{}); err != nil {
			t.Fatal(err)
		}
	}
	if opened != 3 {
		t.Errorf("the keys were read %d times for 3 sessions", opened)
	}
}
