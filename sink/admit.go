package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// admit checks that a record fits into its topic. This is decided before the record
// is sent where it can be: refused by the broker, it fails the sink, and everything
// that is in flight is sent again. Only small records of a new topic are let through
// unchecked, so that nobody waits for the answer about it.
func (k *Kafka) admit(t *topic, d *Delivery) error {
	if k.txn != nil && !t.open.Load() {
		if err := k.awaitTurn(t); err != nil {
			return err
		}
	}
	if d.size > maxBatchLimit {
		return poison.TooLarge.Mark(fmt.Errorf("%w: it takes up to %d bytes, and nothing above %d can be sent",
			ErrUndeliverable, d.size, maxBatchLimit))
	}
	if !t.answered.Load() {
		if d.size <= waitForLimit && !t.careful && d.Clock != record.BusinessTime && d.Partition == record.ByKey {
			t.events++
			d.unchecked = true
			return nil
		}
		if err := k.waitFor(t.known); err != nil {
			return err
		}
	}
	if d.size > t.limit.bytes {
		if err := k.admitLarge(t, d); err != nil {
			return err
		}
	}
	if t.events++; t.events%retentionEvery == 1 {
		k.checkRetention(&t.limit, d)
	}
	if !t.limit.timed(d) {
		return nil
	}
	err := k.checkTime(&t.limit, d)
	if err != nil && t.limit.source == told {
		if err := k.again(t); err != nil {
			return err
		}
		err = k.checkTime(&t.limit, d)
	}
	return err
}

// admitLarge decides about a record that is larger, uncompressed, than the topic's
// batches may be as far as is known. It reads t.limit without its mutex: the sending
// goroutine waits while another one changes it.
func (k *Kafka) admitLarge(t *topic, d *Delivery) error {
	if t.limit.source == told {
		if fits, err := k.compressed(d, t.limit.bytes); err != nil {
			return err
		} else if fits {
			return k.makeWay(t, d)
		}
	}
	if t.limit.source != forbidden {
		// It may have been raised since, or the topic made.
		if err := k.again(t); err != nil {
			return err
		}
	}
	if t.limit.source == assumed {
		if err := k.makeKnown(t, d); err != nil {
			return err
		}
	}
	if d.size > t.limit.bytes && t.limit.source == told {
		fits, err := k.compressed(d, t.limit.bytes)
		switch {
		case err != nil:
			return err
		case !fits && k.codec != nil:
			return poison.TooLarge.Mark(fmt.Errorf("%w: it takes up to %d bytes and more than topic %q takes also when compressed, %d (max.message.bytes)",
				ErrUndeliverable, d.size, t.name, t.limit.bytes))
		case !fits:
			return poison.TooLarge.Mark(fmt.Errorf("%w: it takes up to %d bytes, topic %q takes %d (max.message.bytes)",
				ErrUndeliverable, d.size, t.name, t.limit.bytes))
		}
	}
	// Where the broker does not say what it takes, it says so when it has the record.
	return k.makeWay(t, d)
}

// makeTimeout is how long a topic that the brokers may make is waited for.
const makeTimeout = 3 * time.Second

// makeKnown waits a moment for a topic that is missing, after asking the brokers to
// make it as they do for any producer. Where they know the topic and nobody says what it
// takes, the answer to the record decides.
func (k *Kafka) makeKnown(t *topic, d *Delivery) error {
	var missing, known bool
	err := k.Await(func() {
		ctx, cancel := context.WithTimeout(k.ctx, makeTimeout)
		defer cancel()
		for {
			var err error
			missing, err = k.touch(ctx, t.name)
			if err != nil {
				return
			}
			if known = !missing; known {
				k.askAfter.Store(0)
				k.ask([]*topic{t})
			}
			if t.current().source != assumed {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	switch {
	case err != nil:
		return err
	case k.ctx.Err() != nil:
		return k.Err()
	case t.limit.source != assumed:
		return nil
	case known:
		t.untold()
		return nil
	case missing:
		return &FailedError{Err: fmt.Errorf("topic %q does not exist and the brokers do not create it; create it", t.name)}
	}
	return &FailedError{Err: fmt.Errorf("a record of %d bytes for topic %q: its max.message.bytes is not known yet, the brokers do not answer", d.size, t.name)}
}

// makeWay sees to it that the client takes a record of this size.
func (k *Kafka) makeWay(t *topic, d *Delivery) error {
	fits := d.size <= t.limit.bytes
	switch {
	case t.windowed(), fits && (t.events == 0 || d.size <= int(t.given.Load())):
		return nil
	case fits:
		return k.replace(errLimitChanged)
	}
	k.learned.change(t.name, func(l *lesson) { l.windowed = true })
	if t.events > 0 {
		return k.replace(errLargeRecord)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open.Store(false)
	t.setWindow()
	return nil
}

// Reasons for which a sink is replaced by another.
var (
	errLimitChanged = errors.New("the topic's limits are others than was assumed; a new producer starts with them")
	errLargeRecord  = errors.New("a record is larger than a batch of its topic may be before compression; a new producer starts, which sends such records alone")
)

// replace fails the sink for a reason that only a new one can meet. What is in flight
// is waited for before, so that nothing is sent twice.
func (k *Kafka) replace(reason error) error {
	if k.txn == nil {
		err := k.Await(func() {
			for limit := time.Now().Add(describeTimeout); k.inFlight.Load() > 0 && k.ctx.Err() == nil && time.Now().Before(limit); {
				time.Sleep(time.Millisecond)
			}
		})
		if err != nil {
			return err
		}
	}
	k.cancel(&FailedError{Err: reason})
	return k.Err()
}
