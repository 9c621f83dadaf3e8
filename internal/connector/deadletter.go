package connector

import (
	"context"
	"errors"

	"outboxd/decoder"
	"outboxd/internal/deadletter"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/record"
	"outboxd/router"
	"outboxd/sink"
)

// setAside is the door of the flow: it writes the dead letter of an event instead of it,
// with what router and format can make of the event.
func (p *Connector) setAside(rt *router.Router) flow.Poison {
	if p.o.DeadLetters == nil {
		return nil
	}
	source := deadletter.Source{
		Slot: p.o.Source.Slot, Database: p.catalog.Database, Prefix: p.o.Table.MessagePrefix,
		Table: p.o.Table.Schema + "." + p.o.Table.Name, Attributes: make(map[string]format.Attribute),
		Mask: p.format.Mask(), Payload: p.o.Table.Columns[decoder.Payload].Name,
	}
	for name, a := range p.catalog.Attributes {
		source.Attributes[name] = format.Attribute{NotNull: a.NotNull, Modifier: a.Modifier}
	}
	return func(e flow.Poisoned, d *sink.Delivery) (bool, error) {
		letters := p.o.DeadLetters
		if !letters.Takes(e.Event.Position) {
			return false, nil
		}
		e.Attempt += p.refusedRows[string(e.Event.Values[decoder.ID])].Instead
		if e.Attempt > maxInstead {
			return false, nil
		}
		if errors.Is(e.Cause, decoder.ErrRow) {
			e.Event.Values[decoder.Timestamp] = nil // the time was not read
		}
		rt.Salvage(e.Event, &d.Record)
		p.format.Salvage(e.Event, &d.Record)
		err := letters.Write(e.Event, e.Row, e.Cause, source, e.Attempt, p.sink.Limit(letters.Topic()), &d.Record)
		return err == nil, err
	}
}

// maxInstead is how many dead letters of a row of a backfill Kafka may refuse.
const maxInstead = 8

// refusedRow notes a row of a backfill that Kafka refused. It reports whether the
// backfill can go on without it.
func (p *Connector) refusedRow(failed *sink.FailedError) bool {
	if p.o.DeadLetters == nil || !p.o.DeadLetters.Takes(failed.Position) || failed.ID == nil {
		return false
	}
	r := p.refusedRows[string(failed.ID)]
	if failed.Topic == p.o.DeadLetters.Topic() {
		r.Instead++
	} else {
		r.Err = failed
	}
	p.learned = true
	p.refusedRows[string(failed.ID)] = r
	return true
}

// rowsRefused refuses rows of a backfill that Kafka has refused.
type rowsRefused struct {
	flow.Router
	rows map[string]flow.Refusal
}

func (r rowsRefused) Route(ev *decoder.Event, d *record.Record) error {
	if id := ev.Values[decoder.ID]; id != nil {
		if refusal := r.rows[string(id)]; refusal.Err != nil {
			return refusal.Err
		}
	}
	return r.Router.Route(ev, d)
}

// watched tells the dead letters of each event that passes.
type watched struct {
	*router.Router
	letters *deadletter.Writer
}

func (w watched) Route(ev *decoder.Event, r *record.Record) error {
	w.letters.Passing(ev.Position)
	return w.Router.Route(ev, r)
}

// routed is the router of a flow. Only while an event is looked for, each costs a look.
func (p *Connector) routed(rt *router.Router) flow.Router {
	if p.o.DeadLetters != nil && p.o.DeadLetters.Watching() {
		return watched{rt, p.o.DeadLetters}
	}
	return rt
}

// prepareDeadLetters sees to the topic before anything is touched.
func (p *Connector) prepareDeadLetters(ctx context.Context) error {
	if p.o.DeadLetters == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if err := p.o.DeadLetters.Prepare(ctx); err != nil {
		return &sink.FailedError{Err: err}
	}
	return nil
}

// refusedLate notes what Kafka refused after it was sent: an event, or the dead letter
// of one.
func (p *Connector) refusedLate(failed *sink.FailedError) {
	p.learned = true
	event := flow.Refused{At: failed.Position, ID: string(failed.ID)}
	if p.o.DeadLetters != nil && failed.Topic == p.o.DeadLetters.Topic() {
		p.refused.AddInstead(event, failed)
		return
	}
	p.refused.Add(event, failed)
}
