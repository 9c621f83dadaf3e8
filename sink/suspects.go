package sink

import (
	"errors"
	"maps"

	"github.com/twmb/franz-go/pkg/kerr"

	"outboxd/internal/event"
)

// A broker refuses a batch as a whole, because of one of its records or more. They are
// suspects: when they are sent again, each goes alone, so that the next refusal is about
// one record. Others of the topic go in batches as ever.

// suspects are the records of a batch that was refused. The zero value has none.
type suspects struct {
	at   map[event.Position]bool
	last event.Position
}

// suspicion is by what a record is known again. The rows of a backfill have positions
// that no event of the WAL has, beside its records at multiples of eight, and other ones
// in the next snapshot; but the same numbers, unless rows were removed meanwhile. Then the
// batch with the one in question is refused once more.
func suspicion(p event.Position) event.Position {
	if p.CommitLSN%8 != 0 {
		p.CommitLSN = 0
	}
	return p
}

// add makes a record a suspect.
func (s *suspects) add(p event.Position) {
	p = suspicion(p)
	if s.at == nil {
		s.at = make(map[event.Position]bool)
	}
	s.at[p] = true
	if p.After(s.last) {
		s.last = p
	}
}

// none reports whether there is none left.
func (s *suspects) none() bool { return len(s.at) == 0 }

func (s *suspects) has(p event.Position) bool { return len(s.at) > 0 && s.at[suspicion(p)] }

// acquit takes a record out that was delivered or found to be the one, and all when it comes
// after them: they are not sent any more.
func (s *suspects) acquit(p event.Position) {
	if p = suspicion(p); p.After(s.last) {
		*s = suspects{}
		return
	}
	delete(s.at, p)
}

// clone returns a copy.
func (s *suspects) clone() suspects { return suspects{maps.Clone(s.at), s.last} }

// suspect notes the rest of a batch that was refused: its records fail one after the other.
func (k *Kafka) suspect(d *Delivery, err error) {
	if errors.Is(err, kerr.InvalidRecord) || errors.Is(err, kerr.InvalidTimestamp) {
		k.learned.change(d.topic.name, func(l *lesson) {
			if !l.suspects.none() {
				l.suspects.add(d.Position)
			}
		})
	}
}
