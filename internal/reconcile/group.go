package reconcile

import (
	"slices"
)

// group is what there is of one event.
type group struct {
	rows, records []*entry
	inFlight      bool
	dead          bool
}

// groups returns the events of a bucket.
func (c *comparison) groups(bucket int) (map[string]*group, error) {
	groups := make(map[string]*group)
	err := c.spill.each(bucket, func(e *entry) error {
		g := groups[e.id]
		if g == nil {
			g = new(group)
			groups[e.id] = g
		}
		switch e.kind {
		case rowEntry:
			g.rows = append(g.rows, e)
		case recordEntry:
			g.records = append(g.records, e)
		case inFlightEntry:
			g.inFlight = true
		case deadEntry:
			g.dead = true
		}
		return nil
	})
	if c.o.Replaced {
		for _, g := range groups {
			g.disown()
		}
	}
	return groups, err
}

// disown leaves out the records that no row of the event gives. What a row that cannot
// be delivered would give is not known.
func (g *group) disown() {
	if len(g.rows) == 0 || g.rows[0].flags&(unroutable|discarded) != 0 {
		return
	}
	g.records = slices.DeleteFunc(g.records, func(e *entry) bool { return !g.gives(e) })
}

// gives reports whether a row of the event gives the record.
func (g *group) gives(e *entry) bool {
	return slices.ContainsFunc(g.rows, func(r *entry) bool { return r.sum == e.sum })
}

// expected returns how many records there should be: a row that was archived while the
// rows were read may have been seen twice.
func (g *group) expected() (least, most int) {
	inArchive := 0
	for _, r := range g.rows {
		if r.flags&archived != 0 {
			inArchive++
		}
	}
	return max(inArchive, len(g.rows)-inArchive), len(g.rows)
}

// live are the records that no operator has published again.
func (g *group) live() []*entry {
	return slices.DeleteFunc(slices.Clone(g.records), func(e *entry) bool { return e.flags&again != 0 })
}
