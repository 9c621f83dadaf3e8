package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/records"
	"outboxd/internal/remedy"
)

// Selection says which dead letters are meant. What is empty selects all.
type Selection struct {
	Kinds, Topics, Types, AggregateIDs, IDs []string
	Positions                               []decoder.Position
	// Since and Until bound when they were set aside; Until itself is not in it.
	Since, Until time.Time
	// Resolved takes in those that were retried or discarded.
	Resolved bool
}

func (s *Selection) has(l *Letter) bool {
	return in(s.Kinds, (*string)(&l.Kind)) && in(s.Topics, &l.Topic) &&
		in(s.Types, l.Event.Type) && in(s.AggregateIDs, l.Event.AggregateID) && in(s.IDs, l.Event.ID) &&
		(s.Positions == nil || slices.Contains(s.Positions, l.Position)) &&
		(s.Since.IsZero() || !l.Time.Before(s.Since)) && (s.Until.IsZero() || l.Time.Before(s.Until))
}

// in tells whether a name, as a letter has it, is one of those that are wanted.
func in(wanted []string, name *string) bool {
	return wanted == nil || name != nil && slices.ContainsFunc(wanted, func(w string) bool { return cut(w) == *name })
}

// Summary is what was found in the topic.
type Summary struct {
	Letters int64 // that were selected, each event once
	// Others are dead letters of other connectors, which have another slot, and Foreign
	// records that are no dead letters of outboxd.
	Others, Foreign int64
}

// place is where a letter lies.
type place struct {
	position  decoder.Position
	partition int32
	resolved  uint8 // index into resolutions
	offset    int64
}

// resolution is a record that resolves the letters of its position that lie before it:
// an event that is set aside once more afterwards is a dead letter again. What lies in
// another partition cannot be compared, and counts.
type resolution struct {
	position  decoder.Position
	partition int32
	resolved  uint8
	offset    int64
}

func (r *resolution) resolves(p *place) bool {
	return r.position == p.position && (r.partition != p.partition || r.offset > p.offset)
}

// resolutions are what a letter can have become, by their numbers in this process.
var resolutions = [...]string{"", Retried, Discarded, "otherwise"}

// Found is a letter that was selected.
type Found struct {
	*Letter
	Resolved string // what became of it, "" nothing yet
}

// Each gives every selected letter to f, each event once, in the order in which they lie
// in the topic: in a topic of one partition, that of the events. It sees what was there
// when it began. An error of f ends it.
//
// It reads the topic twice, and keeps only where the selected letters and the resolving
// records lie, 32 bytes for each: that an event is resolved stands behind it.
// progress, if not nil, is told of how many offsets of how many were read.
func (t *Topic) Each(ctx context.Context, s Selection, progress func(done, of int64), f func(Found) error) (Summary, error) {
	reader := records.Reader{Client: t.client, Topic: t.o.Topic}
	partitions, err := reader.Partitions(ctx)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return Summary{}, nil // nothing was ever set aside
	}
	if err != nil {
		return Summary{}, t.unreadable(err)
	}
	w := &walk{t: t, reader: reader, progress: progress}
	for p := range partitions {
		begin, end, err := reader.Range(ctx, p)
		if err != nil {
			return Summary{}, t.unreadable(err)
		}
		w.ranges = append(w.ranges, [2]int64{begin, end})
		w.of += end - begin
	}
	if err := w.index(ctx, s); err != nil {
		return w.summary, t.unreadable(err)
	}
	w.choose(s.Resolved)
	w.summary.Letters = int64(len(w.places))
	return w.summary, w.give(ctx, f)
}

func (t *Topic) unreadable(err error) error {
	return fmt.Errorf("read %s: %w%s", t.Subject(), err, remedy.Kafka(err))
}

// walk is one reading of the topic.
type walk struct {
	t        *Topic
	reader   records.Reader
	ranges   [][2]int64 // of the partitions, by number
	progress func(done, of int64)
	done, of int64
	places   []place
	resolved []resolution
	summary  Summary
}

// index notes where the letters lie that the selection has, and what is resolved.
func (w *walk) index(ctx context.Context, s Selection) error {
	for p, r := range w.ranges {
		last := r[0]
		err := w.reader.Read(ctx, int32(p), r[0], r[1], func(record *kgo.Record) error {
			w.advance(record.Offset + 1 - last)
			last = record.Offset + 1
			w.note(record, s)
			return nil
		})
		if err != nil {
			return err
		}
		w.advance(r[1] - last)
	}
	return nil
}

func (w *walk) advance(offsets int64) {
	if w.done += offsets; w.progress != nil {
		w.progress(w.done, w.of)
	}
}

func (w *walk) note(record *kgo.Record, s Selection) {
	h, err := parseHead(record)
	switch {
	case err != nil:
		w.summary.Foreign++
	case h.Event.Slot != "" && h.Event.Slot != w.t.o.Slot:
		if h.resolved == "" {
			w.summary.Others++
		}
	case h.resolved != "":
		n := slices.Index(resolutions[:], h.resolved)
		if n < 0 {
			n = len(resolutions) - 1
		}
		w.resolved = append(w.resolved, resolution{h.Position, record.Partition, uint8(n), record.Offset})
	case s.has(&h.Letter):
		w.places = append(w.places, place{position: h.Position, partition: record.Partition, offset: record.Offset})
	}
}

// choose keeps each event once, where it was written last, and the resolved ones only
// if they are wanted.
func (w *walk) choose(resolved bool) {
	slices.SortStableFunc(w.resolved, func(a, b resolution) int { return compare(a.position, b.position) })
	slices.SortFunc(w.places, func(a, b place) int {
		return cmp.Or(compare(a.position, b.position), cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
	kept := w.places[:0]
	for i, p := range w.places {
		if i+1 < len(w.places) && w.places[i+1].position == p.position {
			continue // a repetition follows
		}
		at, _ := slices.BinarySearchFunc(w.resolved, p.position, func(r resolution, q decoder.Position) int { return compare(r.position, q) })
		for ; at < len(w.resolved) && w.resolved[at].position == p.position; at++ {
			if w.resolved[at].resolves(&p) {
				p.resolved = w.resolved[at].resolved
			}
		}
		if p.resolved == 0 || resolved {
			kept = append(kept, p)
		}
	}
	w.places, w.resolved = kept, nil
	slices.SortFunc(w.places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
}

func compare(a, b decoder.Position) int {
	switch {
	case a.After(b):
		return 1
	case b.After(a):
		return -1
	}
	return 0
}

// give reads the selected letters whole.
func (w *walk) give(ctx context.Context, f func(Found) error) error {
	var mine error // of f
	for len(w.places) > 0 {
		next, partition := 0, w.places[0].partition
		for next < len(w.places) && w.places[next].partition == partition {
			next++
		}
		places := w.places[:next]
		w.places = w.places[next:]
		// Where records lie far apart, what is between them is not read.
		for len(places) > 0 {
			n := 1
			for n < len(places) && places[n].offset-places[n-1].offset < near {
				n++
			}
			run := places[:n]
			places = places[n:]
			err := w.reader.Read(ctx, partition, run[0].offset, run[n-1].offset+1, func(record *kgo.Record) error {
				if len(run) == 0 || record.Offset != run[0].offset {
					return nil
				}
				resolved := run[0].resolved
				run = run[1:]
				l, err := parse(record)
				if err != nil {
					err = fmt.Errorf("dead letter at partition %d, offset %d: %w", record.Partition, record.Offset, err)
				} else {
					err = f(Found{l, resolutions[resolved]})
				}
				mine = err
				return err
			})
			if mine != nil {
				return mine
			}
			if err != nil {
				return w.t.unreadable(err)
			}
			if len(run) > 0 {
				return fmt.Errorf("%s: %d dead letters were deleted while they were read", w.t.Subject(), len(run))
			}
		}
	}
	return nil
}

// near is how many offsets may lie between two letters that are read together.
const near = 1_000

// Resolve says what has become of a letter, and returns when Kafka has acknowledged it.
// The record goes to the letter's partition, behind it.
func (t *Topic) Resolve(ctx context.Context, l *Letter, resolved string) error {
	r := l.Resolution(t.o.Topic, resolved, time.Now())
	r.Partition = l.Partition
	done := make(chan error, 1)
	t.client.Produce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { done <- err })
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err() // the client itself cannot take back what may have been sent
	}
	if err != nil {
		return fmt.Errorf("write to %s: %w%s", t.Subject(), err, remedy.Kafka(err))
	}
	return nil
}
