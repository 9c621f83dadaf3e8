package connector

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"time"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/replication"
	"outboxd/router"
	"outboxd/sink"
)

// stages returns the stages of a flow that has no source and no tracker yet.
func (p *Connector) stages() (o flow.Options, err error) {
	table := p.o.Table
	table.Domains = p.catalog.Domains
	table.Types = make(map[string]uint32)
	for name, a := range p.catalog.Attributes {
		table.Types[name] = decoder.TypeOIDs[a.Type]
	}
	rt, err := router.New(p.o.Rules)
	if err != nil {
		return o, fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	if p.sink == nil {
		if err := p.openSink(0); err != nil {
			return o, err
		}
	}
	outbox := format.Outbox{Source: []byte(Source(p.catalog.Database, table)), Attributes: attributes(table, p.catalog), Await: p.sink.Await}
	if err := p.format.Open(outbox); err != nil {
		return o, err
	}
	return flow.Options{Decoder: decoder.New(table), Router: p.routed(rt), Format: p.format, Sink: p.sink, Poison: p.setAside(rt),
		Discarded: p.o.Status.Discarded, NonTransactional: p.warnNonTransactional}, nil
}

// inFlightBytes returns the gauge of the memory that events in flight hold. What the
// reader and the sink hold for the next ones is none of theirs.
func (p *Connector) inFlightBytes() func() int64 {
	events, bytes := p.sink.InFlight, p.memory.Used
	return func() int64 {
		if events() == 0 {
			return 0
		}
		return bytes()
	}
}

// openSink makes a sink for the database of the catalog. timeout is that of its
// transactions, 0 for the guarantee's.
func (p *Connector) openSink(timeout time.Duration) (err error) {
	o := p.o.Sink
	p.guarantee.Configure(&o, p.slotHoldTime)
	o.TransactionTimeout = cmp.Or(timeout, o.TransactionTimeout)
	o.Budget = p.memory
	k, err := sink.New(o)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	p.sink = k
	p.memory.OnShortage(k.Shed)
	return nil
}

// closeSink ends the sink, if there is one, with what is in flight in it, and the
// memory of that. The next session begins with others.
func (p *Connector) closeSink() {
	if p.sink != nil {
		p.sink.Close()
		p.sink, p.memory = nil, replication.NewMemory(p.o.MemoryLimit)
	}
}

// replaceSink ends a sink that another one follows, which sends again what this one had in
// flight. It waits for the brokers' answers to what they have been sent, no longer than answers
// says, or than a stop may: what arrives later arrives among what the next one sends.
func (p *Connector) replaceSink(answers time.Duration) {
	if p.sink != nil {
		ctx, cancel := context.WithTimeout(p.limits.acks, answers)
		p.sink.AwaitAnswers(ctx)
		cancel()
	}
	p.closeSink()
}

// attributes are what the catalog says of each field's column.
func attributes(t decoder.Table, catalog replication.Catalog) []format.Attribute {
	a := make([]format.Attribute, len(t.Columns))
	for f, column := range t.Columns {
		known, ok := catalog.Attributes[column.Name]
		if a[f] = (format.Attribute{NotNull: known.NotNull, Modifier: known.Modifier}); !ok {
			a[f].Modifier = -1
		}
	}
	return a
}

// Source is the CloudEvents source of an outbox: /database/schema.table, or
// /database/prefix when there is no table; a reference as RFC 3986 has it.
func Source(database string, t decoder.Table) string {
	if t.Name == "" {
		return "/" + url.PathEscape(database) + "/" + url.PathEscape(t.MessagePrefix)
	}
	return "/" + url.PathEscape(database) + "/" + url.PathEscape(t.Schema) + "." + url.PathEscape(t.Name)
}

// warnNonTransactional says once that messages are passed over.
func (p *Connector) warnNonTransactional() {
	p.nonTransactional.Do(func() {
		p.log.Warn().Str("prefix", p.o.Table.MessagePrefix).
			Msg("messages that are not transactional are passed over: they are in no transaction, and so not events; write pg_logical_emit_message(true, …)")
	})
}
