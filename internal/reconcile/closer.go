package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/table"
)

// lookCloser asks the table for the rows of events that have no record, and for those
// of records that have no row.
func (c *comparison) lookCloser(ctx context.Context, missing, strangers map[string]*group, b *bounds, rows source) error {
	ids := make([]string, 0, len(missing)+len(strangers))
	for id := range missing {
		ids = append(ids, id)
	}
	for id := range strangers {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	there := make(map[string]int, len(ids))
	archives := make(map[string]int)
	err := rows.ByID(ctx, ids, func(row *table.Row) error {
		if id := string(row.Event.Values[decoder.ID]); row.Archived {
			archives[id]++
		} else {
			there[id]++
		}
		return c.pace.Wait(ctx)
	})
	if err != nil {
		return err
	}
	for id, g := range missing {
		n := max(there[id], archives[id])
		if n <= len(g.records) {
			c.result.NotComparable["removed"]++
			continue
		}
		row := g.rows[0]
		detail := "there is no record of it"
		if row.flags&unroutable != 0 {
			detail = "it can never be delivered as it is"
		}
		x := c.example(Missing, row, detail)
		if row.flags&unroutable != 0 {
			x.Topic = ""
		}
		for range n - len(g.records) {
			c.result.found(x)
		}
		if row.flags&unroutable == 0 {
			c.missing = append(c.missing, c.hash(id))
		} else {
			c.result.undeliverable = fmt.Sprintf("the row with id %s can never be delivered as it is; correct or delete it, and start again", decoder.Cut(id))
		}
	}
	for id, g := range strangers {
		if there[id]+archives[id] > 0 {
			continue // it was inserted since its page was read
		}
		r := g.records[0]
		if r.time < b.newerThan(c) {
			c.removed(g)
			continue
		}
		c.result.found(c.example(Unexpected, r, "no row has this id"))
		if len(g.records) > 1 && len(c.twice) < maxTwice {
			c.twice = append(c.twice, g)
		}
	}
	return nil
}

// newerThan is from which time on every record's row should be there.
func (b *bounds) newerThan(c *comparison) int64 {
	at := b.oldest
	if c.o.Removes {
		at = max(at, time.Now().Add(-c.o.Keep).Add(time.Minute).UnixMilli())
	}
	if !c.o.Since.IsZero() {
		at = max(at, c.o.Since.Add(slack).UnixMilli())
	}
	return at
}

// statisticsAfter is how long a session may keep its statistics to itself. Tests lower
// both.
var statisticsAfter, statisticsEvery = 12 * time.Second, time.Second

// unexpected decides what records without a row are, when all of them are known.
func (c *comparison) unexpected(ctx context.Context, b *bounds, rows source) error {
	for _, a := range c.anonymous {
		if a.time < b.newerThan(c) {
			c.result.NotComparable["removed"]++
			continue
		}
		c.result.found(Example{Kind: Unexpected, Topic: c.topics[a.topic], Partition: &a.partition, Offset: &a.offset, Detail: "the record does not name an id"})
	}
	n := c.result.Mismatches[Unexpected]
	if n == 0 || c.o.Removes {
		return nil
	}
	// Somebody who deletes rows takes away the proof.
	for begun := time.Now(); ; {
		removed, settled, err := rows.Removed(ctx)
		if err != nil {
			return err
		}
		if removed > 0 {
			c.result.Mismatches[Unexpected] = 0
			c.result.Examples = slices.DeleteFunc(c.result.Examples, func(e Example) bool { return e.Kind == Unexpected })
			c.result.NotComparable["removed"] += n - int64(len(c.twice))
			for _, g := range c.twice {
				c.removed(g)
			}
			c.result.note(fmt.Sprintf("PostgreSQL counts %d rows that were deleted from the outbox, so that a record without a row is not unexpected", removed))
			return nil
		}
		if settled || time.Since(begun) > statisticsAfter {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(statisticsEvery):
		}
	}
}

// lookEarlier looks for records that are missing before the time at which reading
// began: a record's time need not be that of its row.
func (c *comparison) lookEarlier(ctx context.Context) error {
	slices.Sort(c.missing)
	found := make(map[uint64]bool)
	for _, name := range c.topics {
		t := c.known[name]
		if t == nil || len(c.missing) == 0 {
			continue
		}
		for partition, p := range t.parts {
			err := c.cluster.read(ctx, name, int32(partition), p.first, p.from, func(r *kgo.Record) error {
				h := c.hash(string(c.form.read(r).id))
				if _, ok := slices.BinarySearch(c.missing, h); ok {
					found[h] = true
				}
				return c.pace.Wait(ctx)
			})
			if err != nil {
				return err
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	c.missing = slices.DeleteFunc(c.missing, func(h uint64) bool { return found[h] })
	c.result.Mismatches[Missing] -= int64(len(found))
	c.result.Matched += int64(len(found))
	c.result.Examples = slices.DeleteFunc(c.result.Examples, func(e Example) bool { return e.Kind == Missing && found[c.hash(e.ID)] })
	return nil
}

// order looks for records that came after a later event of their key: of those that
// came after any later event of their partition.
func (c *comparison) order() error {
	if !c.form.Ordered() {
		c.result.note("the records carry no position, so that their order and what is repeated were not compared")
		return nil
	}
	keys := make(map[uint64][]*behindRecord)
	for i := range c.later {
		keys[c.later[i].entry.key] = append(keys[c.later[i].entry.key], &c.later[i])
	}
	if len(keys) == 0 {
		return nil
	}
	for i := range c.spill.buckets {
		err := c.spill.each(i, func(e *entry) error {
			if e.kind != recordEntry || e.flags&again != 0 || e.key == 0 {
				return nil
			}
			for _, l := range keys[e.key] {
				if l.entry.partition == e.partition && e.number < l.entry.number && e.position.After(l.entry.position) {
					l.found = true
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for i := range c.later {
		if l := &c.later[i]; l.found {
			c.result.found(c.example(OutOfOrder, &l.entry, "a later event of its key comes before it"))
		}
	}
	return nil
}
