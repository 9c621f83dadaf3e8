package flow

import (
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/sink"
)

// ErrPoison is wrapped by the error of an event that can never be delivered as
// it is.
var ErrPoison = errors.New("poison event")

// PoisonError is the error of an event that can never be delivered, and ends the run.
type PoisonError struct {
	Position decoder.Position
	Err      error // names the event
}

func (e *PoisonError) Error() string   { return fmt.Sprintf("%v: %v", ErrPoison, e.Err) }
func (e *PoisonError) Unwrap() []error { return []error{ErrPoison, e.Err} }

// Refusals are events that Kafka refused for ever after they had been sent. A sink that
// fails takes with it what was in flight; that is sent again, and then the event is
// decided about.
type Refusals map[Refused]Refusal

// Refused is the event that Kafka refused. Its position alone would be another event's once
// the server has another history.
type Refused struct {
	At decoder.Position
	ID string // "" where it has none
}

func refusedOf(ev *decoder.Event) Refused {
	return Refused{ev.Position, string(ev.Values[decoder.ID])}
}

// Refusal is what Kafka refused.
type Refusal struct {
	Err error // why the event itself was refused, nil if it was not
	// Instead counts the records that were sent instead of the event and refused, and
	// Last is why the last one was.
	Instead int
	Last    error
}

// Add notes that the event was refused.
func (r Refusals) Add(event Refused, err error) {
	known := r[event]
	known.Err = err
	r[event] = known
}

// AddInstead notes that the record was refused that was sent instead of the event.
func (r Refusals) AddInstead(event Refused, err error) {
	known := r[event]
	known.Instead, known.Last = known.Instead+1, err
	r[event] = known
}

// Forget drops what lies in transactions before this commit LSN: they are confirmed.
func (r Refusals) Forget(before pglogrepl.LSN) {
	for event := range r {
		if event.At.CommitLSN < before {
			delete(r, event)
		}
	}
}

// maxInstead is how many records may be written instead of one event, each smaller than
// the one before.
const maxInstead = 8

// poison is the one place that decides what becomes of an event that can never be
// delivered as it is. It is replaced by what Options.Poison makes of it, or ends the
// run; it is never passed over without either.
func (f *Flow) poison(ev *decoder.Event, cause error) error {
	if f.o.Poison == nil {
		return poisonError(ev, cause)
	}
	refusal := f.o.Refused[refusedOf(ev)]
	e := Poisoned{ev, f.o.Decoder.Row(f.data), cause, refusal.Instead}
	for ; e.Attempt <= maxInstead; e.Attempt++ {
		d := f.o.Sink.Next()
		handled, asked := f.o.Poison(e, d)
		switch {
		case asked != nil:
			f.o.Sink.Return()
			return eventError(ev, asked)
		case !handled:
			f.o.Sink.Return()
			return poisonError(ev, cause)
		}
		d.ID, d.Position, d.CommittedAt = ev.Values[decoder.ID], ev.Position, ev.CommittedAt
		err := f.send(ev, d)
		if err == nil {
			f.published = ev.Position
			return nil
		}
		if !errors.Is(err, sink.ErrUndeliverable) {
			return eventError(ev, err)
		}
		if poison.Of(err) != poison.TooLarge {
			return insteadError(ev, cause, err)
		}
		refusal.Last = err
	}
	return insteadError(ev, cause, refusal.Last)
}

// insteadError is that of an event that cannot even be replaced.
func insteadError(ev *decoder.Event, cause, err error) error {
	return poisonError(ev, fmt.Errorf("%w; and what was to be sent instead of it cannot be: %w", cause, err))
}

func poisonError(ev *decoder.Event, err error) error {
	return &PoisonError{ev.Position, eventError(ev, err)}
}
