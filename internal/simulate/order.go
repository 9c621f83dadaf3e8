package simulate

import "encoding/json"

// order names what the row comes in order with. What the brokers refuse, they may refuse
// after the dead letters of later rows were sent, or after a later row in another topic.
func (r *row) order() string {
	if r.refused {
		return "refused in " + r.kind + "/" + r.key
	}
	return r.topic + "/" + r.key
}

// is reports whether a value is the row's, or that of its dead letter.
func (r *row) is(value []byte) bool {
	if r.topic != deadLetterTopic {
		return string(value) == r.payload
	}
	var columns map[string]*string
	if json.Unmarshal(value, &columns) != nil {
		return false
	}
	column, want := "payload", r.payload
	if r.message {
		column, want = "message", r.content()
	}
	text := columns[column]
	return text != nil && *text == want
}

// order holds a record to the order of its key: the next one, or one that came before. A
// process that repeats much, since another standby's slot is far behind, knows of some rows
// already that the brokers refuse them. One that was in a backfill, since the standby had
// no slot, resumes at the slot of the next one.
func (v *verifier) order(key string, s *seenRow, where place) {
	last, some := v.at[key]
	if !some {
		last = -1
	}
	v.at[key] = s.index
	if s.arrived > 0 {
		v.repeats++
		switch {
		case v.exactly && s.arrived <= v.unknown && s.tx.end > v.unknownFrom:
		case v.exactly:
			v.broken("%s is there twice for a reader of committed records", where)
		case !v.faults:
			v.broken("%s is repeated without a fault", where)
		case s.arrived > v.cleanFrom && s.arrived <= v.clean:
			v.broken("%s is repeated after a clean stop", where)
		}
	}
	for _, between := range v.keys[key][min(last+1, s.index):s.index] {
		known := v.overlap || v.w.o.hosts > 0 && (s.refused || v.w.o.backfill > 0 || v.accepted || v.w.o.store == "slot" && !v.exactly)
		if between.tx.expected() && !(between.arrived > 0 && known) {
			v.broken("%s comes before event %q of the same key, committed earlier", where, between.id)
			return
		}
	}
}
