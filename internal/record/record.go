// Package record holds the record of Kafka that an event becomes: the router fills its
// topic, key and partition, a format the rest, and the sink delivers it.
package record

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/event"
)

// ErrUndeliverable is wrapped by every error of a record that can never be delivered
// as it is.
var ErrUndeliverable = errors.New("event cannot be delivered")

// Record is a record on its way to Kafka. Its key, value and header values may be
// views of the event's memory, or of the record's own. It belongs to one goroutine at
// a time.
type Record struct {
	// Record is the client's. Its Topic is empty for an event that a rule discards.
	// Its Key is nil for a record without a key: Kafka's clients choose the partition by
	// murmur2 of a key that is not nil, even of an empty one. Its Value is nil for a
	// tombstone. Its Partition is the one that the event names, ByKey when none, until
	// the client has chosen one.
	kgo.Record

	// ID, Position and CommittedAt are those of the event.
	ID          []byte
	Position    event.Position
	CommittedAt time.Time
	// Clock says where Timestamp is from.
	Clock Clock

	// Buffer is where a format encodes a value that is not the payload itself, Scratch
	// where it appends converted texts of the key and of headers, and the payload without
	// what value.mask takes from it, and PositionText and TimeText are room for one text
	// each. All are used again.
	Buffer, Scratch []byte
	PositionText    [event.PositionLen]byte
	TimeText        [len(TimeFormat)]byte
}

// Header is a Kafka record header, in the client's own form so that it is not
// copied once more.
type Header = kgo.RecordHeader

// ByKey leaves the partition to the key.
const ByKey = -1

// MaxHeaders is the number of headers that a record has unless the configuration names
// further columns.
const MaxHeaders = 16

// TimeFormat is RFC 3339 in UTC, with microseconds.
const TimeFormat = "2006-01-02T15:04:05.000000Z"

// Clock says where a record's time is from.
type Clock int8

const (
	CommitTime   Clock = iota // the commit
	BusinessTime              // the timestamp column; the commit where that is NULL
	SendTime                  // the time of sending
)

// Reset makes the record ready for another event, and drops its views of this one:
// they would keep the event's memory. The memory of its own is kept while it is small.
func (r *Record) Reset() {
	clear(r.Headers)
	r.Topic, r.Key, r.Value, r.ID, r.Partition, r.Headers = "", nil, nil, nil, ByKey, r.Headers[:0]
	r.Buffer, r.Scratch = emptied(r.Buffer), emptied(r.Scratch)
}

// keep is how much memory of an encoded value, and of converted texts, a spare record
// keeps.
const keep = 4 << 10

func emptied(b []byte) []byte {
	if cap(b) > keep {
		return nil
	}
	return b[:0]
}

// Made returns the bytes of memory that the record takes beside the event's: what was
// encoded and converted.
func (r *Record) Made() int { return cap(r.Buffer) + cap(r.Scratch) }

// AddHeader appends a header.
func (r *Record) AddHeader(key string, value []byte) {
	r.Headers = append(r.Headers, Header{Key: key, Value: value})
}
