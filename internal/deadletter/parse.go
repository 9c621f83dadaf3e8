package deadletter

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// What becomes of a dead letter.
const (
	Retried   = "retried"
	Discarded = "discarded"
)

// head is what the headers of a record say, which need no look at its value.
type head struct {
	Letter
	resolved string // not empty: it resolves the letter of that position
}

// errForeign is the error of a record that is not outboxd's.
var errForeign = errors.New("is no dead letter of outboxd")

// parseHead reads a record's headers. Only the first of a name counts: those of the
// event come behind.
func parseHead(r *kgo.Record) (*head, error) {
	h := &head{Letter: Letter{Key: r.Key, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC()}}
	seen := make(map[string]bool)
	for _, header := range r.Headers {
		own := strings.HasPrefix(header.Key, "error.")
		if !own && !strings.HasPrefix(header.Key, "__connect.errors.") {
			h.Headers = append(h.Headers, header)
		}
		if !own || seen[header.Key] {
			continue
		}
		seen[header.Key] = true
		var err error
		switch value := string(header.Value); header.Key {
		case headerKind:
			h.Kind = poison.Kind(value)
		case headerMessage:
			h.Reason = value
		case headerPosition:
			h.Position, err = ParsePosition(value)
		case headerTopic:
			h.Topic = value
		case headerTime:
			h.Time, err = time.Parse(record.TimeFormat, value)
		case headerEvent:
			err = json.Unmarshal(header.Value, &h.Event)
		case headerTruncated:
			err = json.Unmarshal(header.Value, &h.Truncated)
		case headerResolved:
			h.resolved = value
		}
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", header.Key, err)
		}
	}
	if !seen[headerPosition] || h.resolved == "" && h.Kind == "" {
		return nil, errForeign
	}
	return h, nil
}

// parse reads a dead letter with its value.
func parse(r *kgo.Record) (*Letter, error) {
	h, err := parseHead(r)
	if err != nil {
		return nil, err
	}
	l := &h.Letter
	var texts map[string]*string
	if err := json.Unmarshal(r.Value, &texts); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	for _, c := range l.Event.Columns {
		text := texts[c.Name]
		if text == nil {
			l.Values = append(l.Values, nil)
			continue
		}
		value := []byte(*text)
		if c.Hex {
			if value, err = hex.DecodeString(strings.TrimPrefix(*text, `\x`)); err != nil && l.Truncated.Columns[c.Name] == 0 {
				return nil, fmt.Errorf("column %q: %w", c.Name, err)
			}
		}
		l.Values = append(l.Values, value)
	}
	return l, nil
}

// ParsePosition reads a position as records carry it: 0000000001507C60-00000001.
func ParsePosition(text string) (p decoder.Position, err error) {
	lsn, number, found := strings.Cut(text, "-")
	if !found || len(text) != decoder.PositionLen || len(lsn) != 16 {
		return p, fmt.Errorf("%q is not a position such as 0000000001507C60-00000001", decoder.Cut(text))
	}
	commit, err := strconv.ParseUint(lsn, 16, 64)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(number, 16, 32)
		p = decoder.Position{CommitLSN: pglogrepl.LSN(commit), Number: uint32(n)}
	}
	if err != nil || p.Number == 0 {
		return p, fmt.Errorf("%q is not a position such as 0000000001507C60-00000001", text)
	}
	return p, nil
}

// Resolution returns the record that says what has become of the letter. It has the
// letter's key, so that it comes behind it, and a value, so that it deletes nothing.
func (l *Letter) Resolution(topic, resolved string, now time.Time) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Key: l.Key, Value: []byte("{}"), Timestamp: now,
		Headers: []kgo.RecordHeader{
			{Key: headerResolved, Value: []byte(resolved)},
			{Key: headerPosition, Value: l.Position.AppendText(nil)},
			{Key: headerTime, Value: now.UTC().AppendFormat(nil, record.TimeFormat)},
			{Key: headerEvent, Value: marshal(Event{Slot: l.Event.Slot, CommittedAt: l.Event.CommittedAt, ID: l.Event.ID})},
		},
	}
}
