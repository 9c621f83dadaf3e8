package simulate

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/offsets"
)

// check reads what is new.
func (v *verifier) check() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sync()
}

// sync reads what is new in Kafka. Positions come first: what they say has arrived is
// there when the events are read. The caller holds mu.
func (v *verifier) sync() {
	if v.first != nil || v.reader.quiet() {
		return
	}
	var positions []offsets.Position
	err := v.reader.read([]string{positionsTopic}, func(r *kgo.Record) {
		if r.Value == nil {
			return
		}
		p, err := offsets.Decode(r.Value)
		if err != nil {
			v.broken("position record: %v", err)
			return
		}
		if p.Backfill {
			return // it says that nothing is done yet
		}
		positions = append(positions, p)
		v.saved = append(v.saved, saved{p.LSN, r.Timestamp})
		for _, h := range r.Headers {
			if h.Key == "owner" {
				v.owners[string(h.Value)] = true
			}
		}
	})
	if err == nil {
		err = v.reader.read(v.w.topics, v.arrive)
	}
	if err != nil {
		v.broken("the verifier cannot read: %v", err)
	}
	for _, p := range positions {
		v.safeStored(p, "record")
	}
}

// place is where an event is in Kafka, for people.
type place struct {
	*kgo.Record
	id string
}

func (p place) String() string {
	return fmt.Sprintf("%s/%d offset %d: event %q", p.Topic, p.Partition, p.Offset, p.id)
}

// arrive takes one record of an event.
func (v *verifier) arrive(r *kgo.Record) {
	var id, position string
	replayed := false
	for _, h := range r.Headers {
		switch h.Key {
		case "id":
			id = string(h.Value)
		case "position":
			position = string(h.Value)
		case "replayed":
			replayed = true
		}
	}
	s := v.rows[id]
	where := place{r, id}
	switch {
	case s == nil:
		v.broken("%s was never written", where)
		return
	case s.tx.commit == 0:
		v.broken("%s is of a transaction that is not committed (rolled back %t)", where, s.tx.aborted)
		return
	case replayed:
		v.again(r, s, position, where)
		return
	case s.tx.lost && !s.tx.had:
		v.broken("%s is of a transaction that the standby never had", where)
	case r.Topic != s.topic || string(r.Key) != s.key || !s.is(r.Value):
		v.broken("%s has topic %q, key %q, value %q instead of %q, %q, %q", where, r.Topic, r.Key, r.Value, s.topic, s.key, s.payload)
	case position != s.tx.position(s.row) && !slices.Contains(s.snapshots, position):
		v.broken("%s has position %s instead of %s", where, position, s.tx.position(s.row))
	}
	if at := r.Timestamp; r.Topic != deadLetterTopic && at.UnixMilli() != s.tx.committedAt.UnixMilli() && !slices.Contains(s.snapshots, position) {
		v.broken("%s has time %s instead of that of its commit, %s", where, at, s.tx.committedAt)
	}
	key := s.order()
	if was, known := v.part[key]; known && was != r.Partition {
		v.broken("%s: its key was in partition %d before", where, was)
	}
	v.part[key] = r.Partition
	v.order(key, s, where)
	v.arrivals++
	if s.arrived == 0 {
		s.tx.unseen--
	}
	s.arrived = v.arrivals
}
