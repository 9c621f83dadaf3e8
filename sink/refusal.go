package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"outboxd/decoder"
	"outboxd/internal/event"
	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// fail ends the sink with the first error. What comes after it is its
// consequence, and is not reported.
func (k *Kafka) fail(d *Delivery, err error) {
	if k.ctx.Err() != nil {
		k.suspect(d, err)
		return
	}
	if k.sending.Err() != nil && errors.Is(err, context.Canceled) {
		// Not the refused record, but one that was kept back because of it.
		// The refused one's own answer is on its way here.
		return
	}
	err = fmt.Errorf("deliver event id %s at position %s to topic %q: %w", decoder.Excerpt(d.ID), d.Position, d.Topic, k.explain(err))
	if errors.Is(err, kerr.InvalidTimestamp) {
		err = fmt.Errorf("%w; %s", err, timeRefused(&d.Record.Record))
	}
	switch k.judge(d, err) {
	case recordRefused:
		err = refusedKind(err).Mark(fmt.Errorf("%w: %w", ErrUndeliverable, err))
	case batchRefused:
		err = fmt.Errorf("%w (the broker refuses a batch as a whole: its records are sent again one by one, to find out which it means)", err)
	}
	k.cancel(&FailedError{err, d.Position, d.Topic, bytes.Clone(d.ID)})
}

// refusedKind is of which kind an event is that a broker refuses.
func refusedKind(err error) poison.Kind {
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return poison.TooLarge
	case errors.Is(err, kerr.InvalidTimestamp):
		return poison.Timestamp
	case errors.Is(err, kerr.InvalidTopicException):
		return poison.IllegalTopic
	}
	return poison.Refused
}

// FailedError is the failure of a sink, or of what it asked the brokers.
type FailedError struct {
	Err error
	// Position is that of the event that could not be delivered, zero when it
	// was not about one, Topic where its record was sent.
	Position event.Position
	Topic    string
	// ID is the event's id, nil where it has none.
	ID []byte
}

func (e *FailedError) Error() string { return e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

// verdict says what a refusal is about.
type verdict int

const (
	mayPass       verdict = iota
	batchRefused          // one of the batch's records can never be delivered
	recordRefused         // this one cannot
)

// judge tells the broker's answers that trying again cannot change from others, and
// notes what the next sink has to do otherwise. A broker refuses a batch as a whole,
// so that only a record alone in its batch is known to be the one.
func (k *Kafka) judge(d *Delivery, err error) verdict {
	t := d.topic
	source, alone := t.current().source, k.alone(d)
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		k.learned.change(t.name, func(l *lesson) {
			if source != told && !alone {
				// Smaller batches fit, and if not, the one record that is too large.
				l.most = max(t.current().bytes/2, minBatchLimit)
			}
			l.careful = true
		})
		// Alone, it is the one that is too large; unless the limit was lowered since it
		// was asked for, which the next sink learns before it sends anything.
		if alone && (source == forbidden || t.careful || d.size > t.current().bytes) {
			return recordRefused
		}
		return mayPass
	case errors.Is(err, kerr.InvalidTimestamp):
		// The clocks may be set right. What else the topic refuses the next sink finds
		// before it sends, and names the limit, if that is told. It asks once more where
		// this one had no answer.
		k.learned.change(t.name, func(l *lesson) { l.careful = true })
		if source == told || source == assumed && !t.careful || d.Clock != record.BusinessTime && d.Record.Timestamp.After(time.Now()) {
			return mayPass
		}
	case errors.Is(err, kerr.InvalidRecord):
	case errors.Is(err, kerr.InvalidTopicException):
		return recordRefused // it is about any record of the topic
	default:
		return mayPass
	}
	k.learned.change(t.name, func(l *lesson) {
		if alone {
			l.suspects.acquit(d.Position)
			return
		}
		l.suspects = suspects{}
		l.suspects.add(d.Position) // and the rest of the batch, which comes after it
	})
	if alone {
		return recordRefused
	}
	return batchRefused
}
