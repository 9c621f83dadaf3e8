package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Parts of payloads are removed and hashed, exactly what was there stays, and a payload
// in which nobody can say what has to be masked is never published.
func TestMaskedPayloads(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ALTER COLUMN payload TYPE json") // whose text stays as it is written
	s.extra = `value:
  mask:
    - {path: $..card, how: remove}
    - {path: $.email, how: hash, key: join}
  keys: {join: "a key of sixteen bytes at least"}
`
	s.env = []string{"OUTBOXD_HTTP_LISTEN=127.0.0.1:0"}
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES
		('a', 't0', '{"n": 1.50, "card": "4111", "email": "a@example.com", "p": [{"card": 1}]}'),
		('a', 't0', '{"n": 2, "email": "a@example.com"}')`)
	waitFor(t, 30*time.Second, func() (string, bool) { return "records", len(s.read()) == 2 })
	var hashes []string
	for i, want := range []string{`{"n": 1.50, "email": "%s", "p": [{}]}`, `{"n": 2, "email": "%s"}`} {
		value := string(s.read()[i].value)
		var event struct{ Email string }
		if err := json.Unmarshal([]byte(value), &event); err != nil || len(event.Email) != 64 {
			t.Fatalf("%s: %v", value, err)
		}
		if want := fmt.Sprintf(want, event.Email); value != want {
			t.Errorf("%s, want %s", value, want)
		}
		hashes = append(hashes, event.Email)
	}
	if hashes[0] != hashes[1] {
		t.Errorf("the hashes of one address differ: %q", hashes)
	}
	if n := c.metric(`outboxd_mask_unmatched_total{path="$..card"}`); n != 1 {
		t.Errorf("%v payloads without a card are counted, want 1", n)
	}
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"card": "4111", "card": "4112"}')`)
	if code := c.exit(30 * time.Second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	line := c.lastLine()
	if !strings.Contains(line, "two members of the same name (value.mask)") || strings.Contains(line, "411") {
		t.Errorf("last line: %s", line)
	}
	if n := len(s.read()); n != 2 {
		t.Errorf("%d records", n)
	}
}
