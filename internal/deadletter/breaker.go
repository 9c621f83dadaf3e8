package deadletter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/poison"
)

// ErrTooMany is wrapped by the error of a run that would set too many events aside.
var ErrTooMany = errors.New("too many dead letters")

// Breaker ends a run that sets too many events aside: then it is the deployment that is
// broken, not an event. It belongs to one goroutine.
type Breaker struct {
	count  int
	within time.Duration
	recent []counted // of the last within, oldest first
}

// counted is one event that was set aside.
type counted struct {
	at       time.Time
	position decoder.Position
	kind     poison.Kind
	what     string
}

// named is how many of the events the error names, and described of how many their
// reasons are kept for it.
const named, described = 3, 100

// NewBreaker returns one that lets count events within a time through; 0: any number.
func NewBreaker(count int, within time.Duration) *Breaker {
	return &Breaker{count: count, within: within}
}

// Add counts an event, or returns an error that names the first ones: this one is not to
// be set aside.
func (b *Breaker) Add(l *Letter, now time.Time) error {
	if b.count == 0 {
		return nil
	}
	b.recent = slices.DeleteFunc(b.recent, func(c counted) bool { return now.Sub(c.at) > b.within })
	id := ""
	if l.Event.ID != nil {
		id = *l.Event.ID
	}
	c := counted{now, l.Position, l.Kind, fmt.Sprintf("event id %s at position %s: %s", decoder.Excerpt(id), l.Position, decoder.Cut(l.Reason))}
	if len(b.recent) < b.count {
		if len(b.recent) >= described {
			c.what = ""
		}
		b.recent = append(b.recent, c)
		return nil
	}
	all := append(slices.Clone(b.recent), c)
	var first []string
	for _, r := range all {
		if r.what != "" && len(first) < named {
			first = append(first, r.what)
		}
	}
	return fmt.Errorf("%w: more than %d events within %s (errors.max_dead_letters), %s; the first: %s",
		ErrTooMany, b.count, b.within, kinds(all), strings.Join(first, "; "))
}

// kinds says of which kind events are, the most common first.
func kinds(events []counted) string {
	count := make(map[poison.Kind]int)
	for _, e := range events {
		count[e.kind]++
	}
	sorted := slices.SortedFunc(maps.Keys(count), func(a, b poison.Kind) int {
		if count[a] != count[b] {
			return count[b] - count[a]
		}
		return strings.Compare(string(a), string(b))
	})
	if len(sorted) == 1 {
		return fmt.Sprintf("all of kind %s", sorted[0])
	}
	var parts []string
	for _, kind := range sorted {
		parts = append(parts, fmt.Sprintf("%d of kind %s", count[kind], kind))
	}
	return strings.Join(parts, ", ")
}

// sayEvery is how often events of one kind are logged.
const sayEvery = time.Minute

// Log says that events are set aside: the first of a kind at once, those that follow
// together, once a minute. It belongs to one goroutine.
type Log struct {
	log  zerolog.Logger
	said map[poison.Kind]*said
}

// said is what the log has of one kind.
type said struct {
	at    time.Time
	since int // letters that were not logged
	last  *entry
}

// entry is what is logged of a letter.
type entry struct {
	id, position, topic, reason string
}

// NewLog returns a log that has said nothing.
func NewLog(log zerolog.Logger) *Log { return &Log{log, make(map[poison.Kind]*said)} }

// Add logs a letter, or counts it.
func (l *Log) Add(letter *Letter, now time.Time) {
	s := l.said[letter.Kind]
	if s == nil {
		s = new(said)
		l.said[letter.Kind] = s
	}
	id := ""
	if letter.Event.ID != nil {
		id = decoder.Cut(*letter.Event.ID)
	}
	s.since++
	s.last = &entry{id, letter.Position.String(), letter.Topic, decoder.Cut(letter.Reason)}
	if s.at.IsZero() || now.Sub(s.at) >= sayEvery {
		l.say(letter.Kind, s, now)
	}
}

// Flush logs what was only counted.
func (l *Log) Flush(now time.Time) {
	for _, kind := range poison.Kinds {
		if s := l.said[kind]; s != nil && s.since > 0 {
			l.say(kind, s, now)
		}
	}
}

func (l *Log) say(kind poison.Kind, s *said, now time.Time) {
	l.log.Warn().Str("kind", string(kind)).Int("events", s.since).Str("event_id", s.last.id).Str("position", s.last.position).
		Str("topic", s.last.topic).Str("reason", s.last.reason).Msg("events set aside as dead letters; the last one is named")
	s.at, s.since = now, 0
}
