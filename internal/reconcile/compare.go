package reconcile

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"outboxd/decoder"
	"outboxd/internal/record"
)

// anonymous is a record that does not name its event.
type anonymous struct {
	topic     uint16
	partition int32
	offset    int64
	time      int64
}

// maxAnonymous bounds how many of them are kept, maxBehind how many records that may
// be out of order, maxTwice how many unexpected events that have several records.
const (
	maxAnonymous = 100_000
	maxBehind    = 100_000
	maxTwice     = 10_000
)

// behindRecord is a record that came after one with a later position.
type behindRecord struct {
	entry entry
	found bool
}

// bounds are what has to be known of all events before one can be judged.
type bounds struct {
	// oldest is the time of the oldest record that has a row, Unix milliseconds: of
	// older ones the rows may have been removed.
	oldest int64
	// newest is the time of the newest row that has a record, 0: none has a time.
	newest int64
	// first is the least number of a row that has a record, by topic.
	first []uint64
}

// compare compares what was read.
func (c *comparison) compare(ctx context.Context, rows source) error {
	b := bounds{oldest: math.MaxInt64, first: make([]uint64, len(c.topics))}
	for i := range b.first {
		b.first[i] = math.MaxUint64
	}
	for i := range c.spill.buckets {
		if bucket := &c.spill.buckets[i]; bucket.agrees() {
			c.result.Matched += bucket.rows
			b.oldest, b.newest = min(b.oldest, bucket.oldest()), max(b.newest, bucket.newestRow)
			continue
		}
		groups, err := c.groups(i)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if len(g.records) == 0 {
				continue
			}
			c.gaps(g)
			if len(g.rows) == 0 {
				continue
			}
			for _, r := range g.records {
				b.oldest = min(b.oldest, r.time)
			}
			for _, r := range g.rows {
				b.newest = max(b.newest, r.time)
				b.first[r.topic] = min(b.first[r.topic], r.number)
			}
		}
	}
	for i := range c.spill.buckets {
		c.progress("compare", int64(i), parts)
		if c.spill.buckets[i].agrees() {
			continue
		}
		if err := c.compareBucket(ctx, i, &b, rows); err != nil {
			return err
		}
	}
	if err := c.lookEarlier(ctx); err != nil {
		return err
	}
	order := c.order
	if c.o.Shadow != nil {
		order = c.shadowOrder
	}
	if err := errors.Join(c.failed, order()); err != nil {
		return err
	}
	return c.unexpected(ctx, &b, rows)
}

// compareBucket judges the events of one bucket.
func (c *comparison) compareBucket(ctx context.Context, bucket int, b *bounds, rows source) error {
	groups, err := c.groups(bucket)
	if err != nil {
		return err
	}
	missing, strangers := make(map[string]*group), make(map[string]*group)
	for id, g := range groups {
		switch {
		case len(g.rows) > 0:
			if c.judge(g, b) {
				missing[id] = g
			}
		case len(g.records) > 0 && !g.inFlight:
			if r := g.records[0]; r.flags&again != 0 {
				c.removed(g)
			} else if c.o.Shadow != nil && c.recent(r.time) {
				c.result.NotComparable["in_flight"]++
			} else if r.position.CommitLSN <= c.end || r.position == (decoder.Position{}) {
				strangers[id] = g
			}
		}
	}
	return c.lookCloser(ctx, missing, strangers, b, rows)
}

// removed judges an event whose row was removed. How many rows had its id is not known:
// each position stands for one. A record without a position may be a repetition.
func (c *comparison) removed(g *group) {
	c.result.NotComparable["removed"]++
	live := g.live()
	if len(live) < 2 || c.o.Shadow != nil {
		return
	}
	first := live[0]
	firsts := map[decoder.Position]*entry{first.position: first}
	for _, e := range live[1:] {
		switch f := firsts[e.position]; {
		case e.position == (decoder.Position{}):
			c.result.NotComparable["repeated"]++
		case f != nil:
			c.repetition(f, e)
		case backfilled(first) && backfilled(e):
			c.repetition(first, e)
		default:
			firsts[e.position] = e
			c.result.NotComparable["removed"]++
		}
	}
}

// repetition judges a record of an event that has another one, which came first.
func (c *comparison) repetition(first, e *entry) {
	if c.mayRepeat(first, e) {
		c.result.NotComparable["repeated"]++
		return
	}
	c.result.found(c.example(Duplicate, e, fmt.Sprintf("it is also in partition %d at offset %d", first.partition, first.number)))
}

// judge judges an event that has a row. It reports whether a record is missing, as far
// as can be told.
func (c *comparison) judge(g *group, b *bounds) (missing bool) {
	row := g.rows[0]
	least, most := g.expected()
	c.result.Rows -= int64(most - least)
	live := g.live()
	c.result.NotComparable["replayed"] += int64(len(g.records) - len(live))
	if len(g.records) > 0 {
		c.result.Matched += int64(least)
	}
	c.different(g, live)
	if len(live) > 0 && c.o.Shadow != nil && row.flags&(unroutable|discarded) == 0 {
		if err := c.shadowed(row, live[0]); err != nil && c.failed == nil {
			c.failed = err
		}
	} else if len(live) > 0 {
		c.late(row, live[0])
		if first := live[0]; first.flags&behind != 0 && first.key != 0 && len(c.later) < maxBehind {
			c.later = append(c.later, behindRecord{entry: *first})
		}
	}
	for _, e := range live[min(most, len(live)):] {
		c.repetition(live[0], e)
	}
	if len(g.records) >= least {
		return false
	}
	switch {
	case row.flags&discarded != 0:
		c.result.NotComparable["discarded"]++
	case g.dead:
		c.result.NotComparable["dead_lettered"]++
	case g.inFlight, c.o.Shadow != nil && c.recent(row.time):
		c.result.NotComparable["in_flight"]++
	case row.flags&unroutable != 0:
		return true
	case c.o.Undelivered && !c.taken(row, b):
		return true
	case c.known[c.topics[row.topic]].compacted:
		c.result.NotComparable["compacted"]++
	case c.expired(row, b):
		c.result.NotComparable["expired"]++
	default:
		return true
	}
	return false
}

const (
	// expiredMargin is by how much a row must be younger than the oldest records that
	// retention has left, for its own record to be missed: retention removes whole
	// segments, by the newest time in them.
	expiredMargin = 10 * time.Minute
	// expiredRows is the same where rows have no time.
	expiredRows = 10_000
)

// expired reports whether retention may have removed the row's record.
func (c *comparison) expired(row *entry, b *bounds) bool {
	t := c.known[c.topics[row.topic]]
	if !t.trimmed() {
		return false
	}
	if row.time != 0 && t.oldest != 0 {
		return row.time < t.oldest+expiredMargin.Milliseconds()
	}
	first := b.first[row.topic]
	return first == math.MaxUint64 || row.number < first+expiredRows
}

// taken reports whether a row without a record may have been delivered all the same,
// and its record been removed. What was not delivered is what is newest: a row that is
// not older than those that were is not taken for delivered, nor is any where none has
// a record or a time. To publish one again is the lesser evil.
func (c *comparison) taken(row *entry, b *bounds) bool {
	t := c.known[c.topics[row.topic]]
	if !t.trimmed() && !t.compacted {
		return false
	}
	if row.time == 0 || b.newest == 0 {
		c.result.NotComparable["in_doubt"]++
		return false
	}
	return row.time < b.newest-expiredMargin.Milliseconds()
}

// mayRepeat reports whether at-least-once delivery may have repeated the first record.
func (c *comparison) mayRepeat(first, e *entry) bool {
	switch {
	case c.o.ExactlyOnce, c.o.Shadow != nil:
		return false
	case !c.form.Ordered():
		return true // nothing tells one from the other
	case first.position == (decoder.Position{}) || e.position == (decoder.Position{}):
		return false
	case backfilled(first) && backfilled(e):
		return true // a backfill that was interrupted begins again
	case e.topic != first.topic || e.partition != first.partition || e.position != first.position:
		return false
	}
	// Compaction leaves out what an excursion went over.
	return e.excursion != 0 && (c.all.kept[e.excursion-1] || c.known[c.topics[e.topic]].compacted)
}

// gaps notes excursions that passed over a record, which no restart does.
func (c *comparison) gaps(g *group) {
	if len(g.records) < 2 {
		return
	}
	firsts := make(map[decoder.Position]*entry) // two rows may have one id
	for _, e := range g.records {
		if e.flags&again != 0 {
			continue
		}
		first, ok := firsts[e.position]
		if !ok {
			firsts[e.position] = e
		} else if e.excursion != 0 && e.flags&runStart == 0 && e.previous != first.previous && first.previous != 0 {
			c.all.kept[e.excursion-1] = false
		}
	}
}

// backfilled reports whether an event was published by a backfill, whose position lies
// just before the slot's beginning: records of the WAL begin at multiples of eight.
func backfilled(e *entry) bool { return e.position.CommitLSN%8 == 7 }

// different compares what the records hold with what the rows give.
func (c *comparison) different(g *group, live []*entry) {
	row := g.rows[0]
	if row.flags&(unroutable|discarded) != 0 {
		return
	}
	for _, e := range live {
		switch {
		case g.gives(e):
		case slices.ContainsFunc(g.records, func(later *entry) bool { return later.follows(e) && g.gives(later) }):
			c.result.NotComparable["corrected"]++
		default:
			c.result.found(c.example(Different, e, difference(row.sum, e.sum, c.topics[row.topic], c.topics[e.topic])))
		}
	}
}

// follows reports whether a record came after another one of its event, as far as can be
// told: what an operator publishes again comes after what it corrects.
func (e *entry) follows(other *entry) bool {
	if e.topic == other.topic && e.partition == other.partition {
		return e.number > other.number
	}
	return e.flags&again != 0
}

// late judges when an event's first record came.
func (c *comparison) late(row, e *entry) {
	committed := e.committed
	if committed == 0 && c.judgesTime(c.known[c.topics[e.topic]]) {
		// With only a business time, that stands for the commit's.
		if committed = row.committed; committed == 0 {
			committed = row.time
		}
	}
	if committed != 0 && c.isLate(e, committed) {
		by := time.Duration(e.time-committed) * time.Millisecond
		c.result.found(c.example(Late, e, fmt.Sprintf("%s after its commit", by.Round(time.Millisecond))))
	}
}

// isLate reports whether a record came too long after its commit. A backfill publishes
// what was committed long ago.
func (c *comparison) isLate(e *entry, committed int64) bool {
	byTime := c.o.Format.Clock != record.BusinessTime || c.known[c.topics[e.topic]].appendTime
	return c.o.Late > 0 && byTime && !backfilled(e) && time.Duration(e.time-committed)*time.Millisecond > c.o.Late
}

func (c *comparison) example(kind string, e *entry, detail string) Example {
	x := Example{Kind: kind, ID: e.id, Topic: c.topics[e.topic], Detail: detail}
	if e.kind == recordEntry {
		offset := int64(e.number)
		x.Partition, x.Offset = &e.partition, &offset
		if e.position != (decoder.Position{}) {
			x.Position = e.position.String()
		}
	}
	return x
}

// hash is what is kept of the id of a missing event. Two ids with one hash only count
// as missing once.
func (c *comparison) hash(id string) uint64 { return maphash.String(c.seed, id) }
