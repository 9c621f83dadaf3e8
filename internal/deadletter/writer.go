package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// Options say which events a run sets aside, and where.
type Options struct {
	Topic string
	// Always sets every event aside that cannot be delivered (errors.poison). Only is the
	// position of one that is set aside whatever Always says (run --dead-letter); zero:
	// none.
	Always bool
	Only   decoder.Position
	// Connect adds the headers that Kafka Connect's tools read.
	Connect bool
	// Count events within a time are allowed; see Breaker.
	Count  int
	Within time.Duration
	// OnLetter, if set, is told of each event that is set aside, once.
	OnLetter func(poison.Kind)
	// Prepare sees to the topic before the first event; nil: nothing is to be done.
	Prepare func(context.Context) error
	Log     zerolog.Logger
}

// Writer sets the events of one run aside. It outlives sessions and sinks, and belongs to
// the goroutine of the flow, which sends what it writes.
type Writer struct {
	o        Options
	breaker  *Breaker
	log      *Log
	prepared bool
	counted  positions // that OnLetter was told of
	only     onlyState
}

// positions are the newest of those that were added. A refusal may come late, so that
// they are in no order.
type positions struct {
	is    map[decoder.Position]bool
	order []decoder.Position // oldest first
}

// maxPositions is how many are kept: more than are set aside between two confirmations.
const maxPositions = 10_000

// add reports whether the position was not there.
func (p *positions) add(at decoder.Position) bool {
	if p.is[at] {
		return false
	}
	if p.is == nil {
		p.is = make(map[decoder.Position]bool)
	}
	if len(p.order) == maxPositions {
		delete(p.is, p.order[0])
		p.order = slices.Delete(p.order, 0, 1)
	}
	p.is[at], p.order = true, append(p.order, at)
	return true
}

// onlyState is what has become of the event of Options.Only.
type onlyState int

const (
	onlyExpected  onlyState = iota
	onlyMet                 // it is on its way like any other
	onlyWritten             // it is set aside
	onlySaid                // nothing more is to be said of it
	onlyUnwritten           // there is none
)

// NewWriter returns a writer for one run.
func NewWriter(o Options) *Writer {
	w := &Writer{o: o, breaker: NewBreaker(o.Count, o.Within), log: NewLog(o.Log)}
	if o.Only == (decoder.Position{}) {
		w.only = onlyUnwritten
	}
	return w
}

// Topic is where the letters go.
func (w *Writer) Topic() string { return w.o.Topic }

// Takes reports whether an event that cannot be delivered is set aside.
func (w *Writer) Takes(at decoder.Position) bool {
	return w.o.Always || w.only != onlyUnwritten && at == w.o.Only
}

// Prepare sees to the topic, once, before anything is touched. An error that does not
// wrap ErrUnusable may pass.
func (w *Writer) Prepare(ctx context.Context) error {
	if w.prepared || w.o.Prepare == nil || !w.o.Always && w.only == onlyUnwritten {
		return nil
	}
	if err := w.o.Prepare(ctx); err != nil {
		return err
	}
	w.prepared = true
	return nil
}

// smallest is what a letter is cut to at the most.
const smallest = 16 << 10

// Write fills the record of the letter of an event that Takes: r holds what could be made
// of the event, its topic, key and headers. attempt is how many letters of this event were
// too large for the topic, which takes limit bytes as far as is known. An error that wraps
// ErrTooMany ends the run.
func (w *Writer) Write(ev *decoder.Event, row decoder.Row, cause error, source Source, attempt, limit int, r *record.Record) error {
	now := time.Now()
	l := New(ev, row, Made{Topic: r.Topic, Key: r.Key, Headers: r.Headers}, cause, source, now)
	if !w.counted.is[ev.Position] {
		if err := w.breaker.Add(l, now); err != nil {
			return err
		}
	}
	form := Form{Topic: w.o.Topic, Connect: w.o.Connect, Limit: MaxBytes}
	if attempt > 0 {
		form.Limit = max(min(limit, MaxBytes)>>(attempt-1), smallest)
	}
	encoded := l.Encode(form)
	r.Topic, r.Key, r.Partition, r.Headers = encoded.Topic, encoded.Key, record.ByKey, encoded.Headers
	r.Buffer = encoded.Value
	r.Value, r.Timestamp, r.Clock = r.Buffer, encoded.Timestamp, record.SendTime
	r.ID, r.Position, r.CommittedAt = ev.Values[decoder.ID], ev.Position, ev.CommittedAt
	first := w.counted.add(ev.Position)
	if first {
		if w.log.Add(l, now); w.o.OnLetter != nil {
			w.o.OnLetter(l.Kind)
		}
	}
	switch {
	case ev.Position != w.o.Only:
	case w.only != onlySaid:
		w.only = onlyWritten
	case first: // Kafka refused it later, behind others
		w.saySetAside()
	}
	return nil
}

// Passing is told of each event in order, before it is sent, while Watching. It says what
// is to be known of the event that --dead-letter names.
func (w *Writer) Passing(at decoder.Position) {
	switch {
	case at == w.o.Only && w.only == onlyExpected:
		w.only = onlyMet
	case at.After(w.o.Only):
		w.say("the position is passed")
	}
}

// Watching reports whether Passing is of use.
func (w *Writer) Watching() bool { return w.only != onlyUnwritten && w.only != onlySaid }

// End logs what is still to be said of a run that ends.
func (w *Writer) End() {
	w.log.Flush(time.Now())
	if w.Watching() {
		w.say("the run ends")
	}
}

// say logs what has become of the event of --dead-letter.
func (w *Writer) say(when string) {
	log := w.o.Log.Warn().Stringer("position", w.o.Only).Str("when", when)
	switch w.only {
	case onlyWritten:
		w.saySetAside()
	case onlyMet:
		log.Msg("the event of --dead-letter can be delivered as far as is known, and was sent to its topic; nothing was set aside")
	case onlyExpected:
		log.Msg("no event at the position of --dead-letter was met: look at the position in the error of the event, and whether it was passed before; nothing was set aside")
	}
	w.only = onlySaid
}

func (w *Writer) saySetAside() {
	w.o.Log.Info().Stringer("position", w.o.Only).Str("topic", w.o.Topic).Msg("the event of --dead-letter is set aside")
}

// Advice is what to do after an error that wraps ErrTooMany.
func Advice(err error) string {
	if !errors.Is(err, ErrTooMany) {
		return ""
	}
	return "what was set aside is in the dead-letter topic, the event that was too many and what follows it is not confirmed; fix the cause and start again, " +
		"and take the others back with `outboxd dead-letters retry`"
}

// Command is how one event is set aside.
func Command(at decoder.Position) string { return fmt.Sprintf("outboxd run --dead-letter %s", at) }
