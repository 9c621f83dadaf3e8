package deadletter

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"outboxd/decoder"
	"outboxd/internal/mask"
)

// The dead letter of an event shows nothing of what value.mask masks, whatever was wrong
// with the event; a retry publishes it as it is there, and does not mask it again.
func TestMaskedLetters(t *testing.T) {
	key, err := mask.NewKey("a key of sixteen bytes at least")
	if err != nil {
		t.Fatal(err)
	}
	masker := func() (*mask.Masker, error) {
		return mask.New([]mask.Rule{{Path: "$.card", How: mask.Hash, Key: key}}, nil)
	}
	now, err := masker()
	if err != nil {
		t.Fatal(err)
	}
	const number = "4111111111111111"
	masking := source
	masking.Payload, masking.Mask = "payload", func(payload []byte) ([]byte, error) { return now.Append(nil, payload) }
	want, err := masking.Mask([]byte(`{"card": "` + number + `"}`))
	if err != nil {
		t.Fatal(err)
	}

	c := cluster(t, kfake.SeedTopics(1, "orders"))
	topic := open(t, c)
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	for i, payload := range []column{
		{"payload", decoder.JSONBOID, `{"card": "` + number + `"}`},
		{"payload", decoder.ByteaOID, `\x` + hex.EncodeToString([]byte(`{"card": "`+number+`"}`))},
		{"payload", decoder.TextOID, "card=" + number},
	} {
		ev, row, err := decode(t, table(mapped...), i+1, []column{
			{"id", decoder.Int8OID, "1"}, {"type", decoder.TextOID, "paid"}, {"aggregate_id", decoder.TextOID, "a"}, payload,
		})
		if err != nil {
			t.Fatal(err)
		}
		l := New(ev, row, Made{Topic: "orders"}, errors.New("why"), masking, setAside)
		record := l.Encode(form)
		for _, h := range record.Headers {
			if bytes.Contains(h.Value, []byte(number)) {
				t.Errorf("header %s shows %s", h.Key, h.Value)
			}
		}
		if value := string(record.Value); strings.Contains(value, number) || strings.Contains(value, hex.EncodeToString([]byte(number))) {
			t.Errorf("the dead letter shows %s", value)
		}
		write(t, topic, record)
	}
	o := retryOptions(c, topic, false)
	o.Format.Mask = masker
	outcomes := retryAll(t, o)
	if len(outcomes) != 3 || outcomes[0] != "1: "+Retried || outcomes[1] != "1: "+Retried || !strings.Contains(outcomes[2], "its payload was left out") {
		t.Fatalf("%q", outcomes)
	}
	records := committedRecords(t, c, "orders")
	if len(records) != 2 {
		t.Fatalf("%d records", len(records))
	}
	for _, r := range records {
		if !bytes.Equal(r.Value, want) {
			t.Errorf("published %s, want %s", r.Value, want)
		}
	}
}
