package reconcile

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/record"
	"outboxd/internal/replication"
	"outboxd/internal/table"
	"outboxd/offsets"
)

// progressEvery is how many events lie between two reports of progress.
const progressEvery = 1 << 12

// readRows reads the rows.
func (c *comparison) readRows(ctx context.Context, rows source) error {
	if (!c.o.Since.IsZero() || !c.o.Until.IsZero()) && !rows.HasTime() {
		return table.ErrNoTime
	}
	total, err := rows.Blocks(ctx)
	if err != nil {
		return err
	}
	return rows.Scan(ctx, table.Filter{Since: c.o.Since, Until: c.o.Until}, func(row *table.Row) error {
		if c.seen++; c.seen%progressEvery == 0 {
			c.progress("rows", min(rows.Done(), total), total)
		}
		if err := c.pace.Wait(ctx); err != nil {
			return err
		}
		return c.row(row)
	})
}

// row keeps what one row should have become.
func (c *comparison) row(row *table.Row) error {
	ev := row.Event
	id := ev.Values[decoder.ID]
	e := entry{kind: rowEntry, time: millis(row.Time()), committed: millis(row.Committed), number: c.seen}
	if row.Archived {
		e.flags |= archived
	}
	d := &c.scratch
	err := row.Err
	if err == nil {
		err = c.router.Route(ev, d)
	}
	switch {
	case err != nil || d.Topic == "":
	case c.form.ValueDiffers == "":
		err = c.encoder.Encode(ev, d)
	default:
		err = c.encoder.Describe(ev, d)
	}
	switch {
	case err != nil:
		e.flags |= unroutable
		if c.o.Topic != "" {
			return nil // which topic it would go to is not known
		}
	case c.o.Topic != "" && d.Topic != c.o.Topic:
		return nil
	case d.Topic == "":
		e.flags |= discarded
	default:
		topic := d.Topic
		if c.o.Shadow != nil {
			topic = c.o.Shadow.Topic
			e.position.CommitLSN, e.position.Number = pglogrepl.LSN(row.Key.Time), uint32(row.Key.Serial)
		}
		if e.topic, err = c.topic(topic); err != nil {
			return err
		}
		e.sum = c.digests.of(id, topic, d.Key, d.Value)
	}
	c.result.Rows++
	if id == nil || len(id) > maxID {
		c.result.NotComparable["no_id"]++
		return nil
	}
	e.id = string(id)
	return c.spill.add(&e, e.flags&(unroutable|discarded) != 0)
}

// readInFlight reads what was committed before the rows were read and is not confirmed.
//
// A connector that streams confirms it soon: then nothing is in flight, and no slot has
// to be copied.
func (c *comparison) readInFlight(ctx context.Context, conn *replication.Conn) error {
	for begun := time.Now(); ; {
		slot, done, err := c.readConfirmed(ctx, conn)
		if done || err != nil {
			return err
		}
		if !slot.Active || time.Since(begun) > confirmsWithin {
			return c.decode(ctx, conn, slot.ConfirmedFlush)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(confirmsEvery):
		}
	}
}

const (
	// confirmsWithin is how long a connector is given to confirm what was read: it does
	// so every delivery.confirm_interval, and with exactly_once and nothing to publish
	// every five seconds.
	confirmsWithin = 6 * time.Second
	confirmsEvery  = 250 * time.Millisecond
)

// readConfirmed reads what is confirmed now. done says that nothing can be in flight.
func (c *comparison) readConfirmed(ctx context.Context, conn *replication.Conn) (slot *offsets.Slot, done bool, err error) {
	server, err := conn.Inspect(ctx)
	if err != nil {
		return nil, false, err
	}
	var stored *offsets.Position
	if c.o.Stored != nil {
		if stored, err = c.o.Stored(ctx); err != nil {
			return nil, false, fmt.Errorf("read the stored position: %w", err)
		}
	}
	slot = server.Slot
	if slot == nil || offsets.Usable(slot) != nil {
		c.result.note(fmt.Sprintf("slot %q is gone or invalidated: what was not delivered when that happened is missing; see `outboxd recover`", c.o.Source.Slot))
		c.confirmed = c.end
		if stored != nil {
			c.confirmed = stored.LSN
		}
		return nil, true, nil
	}
	c.confirmed = slot.ConfirmedFlush
	if stored != nil && stored.SystemID == server.SystemID && stored.Slot == server.SlotName {
		c.confirmed = max(c.confirmed, stored.LSN)
	}
	return slot, c.confirmed >= c.end, nil
}

// decode reads from a copy of the slot what lies between what is confirmed and the end.
func (c *comparison) decode(ctx context.Context, conn *replication.Conn, from pglogrepl.LSN) error {
	memory := replication.NewMemory(16 << 20)
	stream, err := conn.StartCopy(ctx, from, memory)
	if err != nil {
		return fmt.Errorf("read what is in flight: %w", err)
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Interrupt(context.Cause(ctx)) })
	defer stop()
	dec := decoder.New(c.o.Table)
	inside := false
	for {
		frame, err := stream.Next()
		if err != nil {
			return fmt.Errorf("read what is in flight: %w", replication.Explain(err, c.o.Source))
		}
		if frame.Kind == replication.Keepalive {
			if !inside && frame.WALEnd >= c.end {
				return nil
			}
			continue
		}
		kind, err := dec.Decode(frame.Data)
		if err != nil && !errors.Is(err, decoder.ErrRow) {
			return fmt.Errorf("decode at %s: %w", dec.Position(), err)
		}
		switch kind {
		case decoder.Begin:
			if inside = true; dec.Position().CommitLSN >= c.end {
				return nil
			}
		case decoder.Commit:
			inside = false
		case decoder.Insert:
			ev := dec.Event()
			if id := ev.Values[decoder.ID]; ev.Position.CommitLSN >= c.confirmed && id != nil && len(id) <= maxID {
				if err := c.spill.add(&entry{kind: inFlightEntry, id: string(id)}, true); err != nil {
					return err
				}
			}
		}
	}
}

// slack is by how much the time of a record may lie before that of its row.
const slack = time.Hour

// readKafka reads the records of all topics that rows belong to, and the dead letters.
func (c *comparison) readKafka(ctx context.Context) (err error) {
	names := slices.Clone(c.topics)
	if c.o.Topic != "" && !slices.Contains(names, c.o.Topic) {
		names = append(names, c.o.Topic)
	}
	for _, name := range names {
		if _, err := c.topic(name); err != nil {
			return err
		}
	}
	since := c.o.Since
	if !since.IsZero() {
		since = since.Add(-slack)
	}
	if c.known, err = c.cluster.look(ctx, names, since); err != nil {
		return err
	}
	if err := c.readDead(ctx); err != nil {
		return err
	}
	var done, total int64
	for _, t := range c.known {
		for _, p := range t.parts {
			total += p.end - p.from
		}
	}
	for _, name := range names {
		t := c.known[name]
		for partition, p := range t.parts {
			var s sequence
			oldest := p.trimmed()
			if oldest && p.first == p.end {
				t.oldest = time.Now().UnixMilli() // all of it was removed
			}
			err := c.cluster.read(ctx, name, int32(partition), p.from, p.end, func(r *kgo.Record) error {
				if done++; done%progressEvery == 0 {
					c.progress("records", done, total)
				}
				if err := c.pace.Wait(ctx); err != nil {
					return err
				}
				if oldest {
					t.oldest, oldest = max(t.oldest, millis(r.Timestamp)), false
				}
				return c.record(r, &s)
			})
			if err != nil {
				return err
			}
			s.finish(c.confirmed, &c.all)
		}
	}
	return nil
}

// record keeps what one record is.
func (c *comparison) record(r *kgo.Record, s *sequence) error {
	c.result.Records++
	says := c.form.read(r)
	n, err := c.topic(r.Topic)
	if err != nil {
		return err
	}
	if says.id == nil || len(says.id) > maxID {
		c.anonymous = append(c.anonymous[:min(len(c.anonymous), maxAnonymous)], anonymous{n, r.Partition, r.Offset, millis(r.Timestamp)})
		return nil
	}
	key := r.Key
	if c.o.Shadow != nil {
		key = at(c.o.Shadow.Key, r)
	}
	e := entry{
		kind: recordEntry, id: string(says.id), topic: n, partition: r.Partition, number: uint64(r.Offset),
		time: millis(r.Timestamp), committed: millis(says.committed), position: says.position,
		sum: c.digests.of(says.id, r.Topic, key, r.Value),
	}
	if key != nil {
		var h maphash.Hash
		h.SetSeed(c.seed)
		h.WriteString(r.Topic)
		h.WriteByte(0)
		h.Write(key)
		e.key = h.Sum64() | 1
	}
	if says.again {
		// They are no part of the order.
		e.flags |= again
		return c.spill.add(&e, true)
	}
	s.next(&e, c.seed, &c.all)
	return c.spill.add(&e, c.o.Shadow != nil || e.flags&behind != 0 || c.judgesTime(c.known[r.Topic]) || e.committed != 0 && c.isLate(&e, e.committed))
}

// judgesTime reports whether only rows and records together say what is late.
//
// Otherwise a record carries the time of the commit or that of the event, unless it
// says in its value when it was committed.
func (c *comparison) judgesTime(t *topic) bool {
	return c.o.Late > 0 && (c.o.Format.Clock == record.SendTime || t.appendTime)
}
