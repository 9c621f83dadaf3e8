// Package flow is the way of one event: source, decoder, router, format, sink, tracker. It is
// the same code for the replication stream, for the rows of a snapshot, and for a past
// window of the WAL: whatever yields the messages of pgoutput in order is a Source.
//
// Nothing on the way waits for Kafka, unless the sink itself has to ask something
// before it can judge an event. Acknowledgements go from the sink to the tracker,
// past this package.
//
// The flow knows no connection, no position store and no guarantee. It declares what
// it needs of each of its neighbours, so that a test replaces any of them in a few
// lines.
package flow

import (
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/record"
	"outboxd/offsets"
	"outboxd/sink"
)

// Source yields the messages of pgoutput in order.
type Source interface {
	// Next returns the next message. Its data is valid until the following call, unless
	// it is retained. The error ErrEnd, itself and not wrapped, ends the flow in good
	// order.
	Next() (Frame, error)
	// Retain keeps the memory of the frame that Next returned last for one more event,
	// which releases it.
	Retain() sink.Memory
}

// Frame is one message.
type Frame struct {
	// Data is a message of pgoutput, nil when the frame is a keepalive.
	Data []byte
	// WALEnd is the position of a keepalive: everything before it was sent or was of no
	// interest.
	WALEnd pglogrepl.LSN
}

// ErrEnd is returned by a Source that has no more to yield.
var ErrEnd = errors.New("the end of the source")

// Router decides topic, key, partition and headers of an event. An empty topic
// discards it.
type Router interface {
	Route(ev *decoder.Event, r *record.Record) error
}

// Format finishes a routed record: see format.Encoder.
type Format interface {
	Encode(ev *decoder.Event, r *record.Record) error
}

// Sink delivers: see sink.Kafka.
type Sink interface {
	// Next returns an empty delivery; Return takes back the one that Next returned last.
	Next() *sink.Delivery
	Return()
	// Send takes the delivery, unless it returns an error; then it is returned.
	Send(d *sink.Delivery) error
}

// Poisoned is an event that can never be delivered as it is.
type Poisoned struct {
	Event *decoder.Event
	// Row is all that the stream says of it, mapped or not.
	Row   decoder.Row
	Cause error
	// Attempt counts the records that were written instead of the event and were too
	// large, or refused by Kafka.
	Attempt int
}

// Poison decides what becomes of an event that can never be delivered as it is. It
// either fills d.Record with the record that is sent instead, finished but for the event's
// id, position and commit time, and returns true; or returns false, and the run ends
// before the event.
//
// The flow sends the record as any other: through the same sink, counted by the same
// tracker under the event's position, so that no position passes the event before
// Kafka has the record; with exactly_once it is in the transaction of its neighbours.
// It is called on the goroutine of the flow, again after a restart that resumes before
// the event, and again when the record was too large. An error ends the session.
type Poison func(e Poisoned, d *sink.Delivery) (handled bool, err error)

// Gate is a lock that somebody else may hold for long.
type Gate interface {
	// Ask locks it and returns nil; or a channel that is closed when it is the caller's
	// turn, who then holds the lock.
	Ask() (turn <-chan struct{})
	// Withdraw gives up a turn, whether it has come or not.
	Withdraw(turn <-chan struct{})
	Unlock()
}

// Options are the neighbours of a flow.
type Options struct {
	Source  Source
	Decoder *decoder.Decoder
	Router  Router
	Format  Format
	Sink    Sink
	Tracker *offsets.Tracker
	// Gate is held while a message is handled; nil: nobody else wants it. Wait is how the
	// flow waits for it, until its turn is closed: it may serve the source meanwhile, and
	// an error of it ends the flow before the message.
	Gate Gate
	Wait func(turn <-chan struct{}) error
	// Skip is the last event that needs nothing more: a transaction read in part is sent
	// again from its beginning.
	Skip decoder.Position
	// Poison is asked about events that can never be delivered; nil: they end the run.
	Poison Poison
	// Refused are the events that Kafka refused for ever after they were sent.
	Refused Refusals
	// Discarded is called for each event that a rule discards, and NonTransactional for
	// each message outside of any transaction, which is no event; nil: nobody.
	Discarded, NonTransactional func()
}

// Flow takes the messages of one source to its sink. One goroutine uses it.
type Flow struct {
	o         Options
	tx        *offsets.Transaction // open, or nil
	published decoder.Position
	data      []byte // the message at hand
}

// New returns a flow that has read nothing yet.
func New(o Options) *Flow { return &Flow{o: o, published: o.Skip} }

// Published returns the last event that was handed to the sink, or Options.Skip.
func (f *Flow) Published() decoder.Position { return f.published }

// Reading returns the commit of the transaction that is being read, 0 when none is.
func (f *Flow) Reading() pglogrepl.LSN {
	if f.tx == nil {
		return 0
	}
	return f.o.Decoder.Position().CommitLSN
}

// Begun reports whether an event of the transaction that is being read was handed to
// the sink.
func (f *Flow) Begun() bool {
	return f.tx != nil && f.published.CommitLSN == f.o.Decoder.Position().CommitLSN
}

// Last returns the event that the decoder has seen last, and its id if it was read, for
// the error of a panic.
func (f *Flow) Last() (id []byte, at decoder.Position) {
	at = f.o.Decoder.Position()
	if ev := f.o.Decoder.Event(); ev != nil && ev.Position == at && int(decoder.ID) < len(ev.Values) {
		id = ev.Values[decoder.ID]
	}
	return id, at
}

// Run moves frames until the source ends (nil), or an error.
func (f *Flow) Run() error {
	for {
		frame, err := f.o.Source.Next()
		switch {
		case err == ErrEnd:
			return nil
		case err != nil:
			return err
		case frame.Data == nil:
			f.o.Tracker.Idle(frame.WALEnd)
			continue
		}
		if err := f.handle(frame.Data); err != nil {
			return err
		}
	}
}

// handle takes one pgoutput message through the stages.
func (f *Flow) handle(data []byte) error {
	if f.o.Gate != nil {
		if turn := f.o.Gate.Ask(); turn != nil {
			if err := f.o.Wait(turn); err != nil {
				f.o.Gate.Withdraw(turn)
				return err
			}
		}
		defer f.o.Gate.Unlock()
	}
	f.data = data
	kind, err := f.o.Decoder.Decode(data)
	switch {
	case err != nil && errors.Is(err, decoder.ErrRow):
		ev := f.o.Decoder.Event()
		if !ev.Position.After(f.published) {
			return nil // acknowledged in an earlier session
		}
		return f.poison(ev, err)
	case err != nil:
		return fmt.Errorf("decode at %s: %w", f.o.Decoder.Position(), err)
	}
	switch kind {
	case decoder.Insert:
		return f.publish(f.o.Decoder.Event())
	case decoder.NonTransactional:
		if f.o.NonTransactional != nil {
			f.o.NonTransactional()
		}
	case decoder.Begin:
		f.tx = f.o.Tracker.Begin()
	case decoder.Commit:
		f.tx.Commit(f.o.Decoder.CommitEnd())
		f.tx = nil
	}
	return nil
}

// publish routes one event and hands it to the sink.
func (f *Flow) publish(ev *decoder.Event) error {
	if !ev.Position.After(f.published) {
		return nil // acknowledged in an earlier session
	}
	if len(f.o.Refused) > 0 {
		if r := f.o.Refused[refusedOf(ev)]; r.Err != nil {
			return f.poison(ev, r.Err)
		}
	}
	d := f.o.Sink.Next()
	if err := f.o.Router.Route(ev, &d.Record); err != nil {
		f.o.Sink.Return()
		return f.poison(ev, err)
	}
	if d.Topic == "" {
		f.o.Sink.Return()
		if f.o.Discarded != nil {
			f.o.Discarded()
		}
		return nil // by a rule
	}
	err := f.o.Format.Encode(ev, &d.Record)
	if err != nil {
		f.o.Sink.Return()
	} else {
		err = f.send(ev, d)
	}
	if err != nil {
		if !errors.Is(err, sink.ErrUndeliverable) {
			return eventError(ev, err)
		}
		return f.poison(ev, err)
	}
	f.published = ev.Position
	return nil
}

// send hands a finished record to the sink. The event's memory is kept, and its transaction
// open, until Kafka has acknowledged it.
func (f *Flow) send(ev *decoder.Event, d *sink.Delivery) error {
	memory := f.o.Source.Retain()
	f.tx = f.tx.Add(offsets.Event(ev.Position))
	d.Receipt, d.Memory = f.tx, memory
	err := f.o.Sink.Send(d)
	if err != nil {
		f.tx.Withdraw()
		memory.Release(0)
	}
	return err
}

// eventError adds to an error which event it is about.
func eventError(ev *decoder.Event, err error) error {
	return fmt.Errorf("event id %s at position %s: %w", decoder.Excerpt(ev.Values[decoder.ID]), ev.Position, err)
}
