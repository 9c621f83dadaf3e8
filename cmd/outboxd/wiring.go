package main

import (
	"cmp"
	"crypto/tls"
	"fmt"

	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/connector"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/internal/retention"
	"outboxd/internal/status"
	"outboxd/internal/template"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

// eventShare is the part of kafka.max_buffered that events and their records may
// take. The rest is for the client's encoded and compressed batches, the
// collector's slack and the program itself, so that the process as a whole stays
// near the configured size.
func eventShare(maxBuffered int64) int64 { return maxBuffered / 16 * 5 }

// connectorOptions turns the configuration into the options of the stages. What
// cannot work is an error of the configuration, found before anything connects.
func connectorOptions(cfg *config.Config, st *status.Status, log zerolog.Logger) (connector.Options, error) {
	rules, read := rules(cfg)
	kafka := sinkOptions(cfg, log)
	form, err := validate(cfg, rules, read, kafka, st)
	if err != nil {
		return connector.Options{}, err
	}
	o := connector.Options{
		Source:          sourceOptions(cfg, read, log),
		Table:           decoder.Table{Schema: cfg.Outbox.Table.Schema, Name: cfg.Outbox.Table.Name, Columns: read, MessagePrefix: cfg.Outbox.MessagePrefix},
		Rules:           rules,
		Format:          form,
		Sink:            kafka,
		Rewind:          offsets.Rewind{Age: cfg.Delivery.Rewind.Age, Bytes: int64(cfg.Delivery.Rewind.Bytes)},
		BackfillTimeout: cfg.Outbox.BackfillTimeout,
		ConfirmEvery:    cfg.Delivery.ConfirmInterval,
		RetryMin:        cfg.Errors.Retry.Min,
		RetryMax:        cfg.Errors.Retry.Max,
		DrainTimeout:    drainTimeout,
		MemoryLimit:     eventShare(int64(cfg.Kafka.MaxBuffered)),
		Log:             log,
		Status:          st,
	}
	o.Sink.Backlog = o.MemoryLimit / 4 // the rest is read, or on its way
	tune(cfg, &o.Source, &o.Sink, st)
	if o.Source.Table != "" {
		r := retention.New(retentionOptions(cfg, o.Source, log))
		st.UseOutbox(r.Outbox)
		o.Beside = r
	}
	switch {
	case cfg.Delivery.Guarantee == "exactly_once":
		o.Sink.TransactionalID = transactionalID(cfg)
		o.Positions, err = positionStore(cfg, kafka, log)
	case cfg.Delivery.Store == "kafka":
		o.Store, err = positionStore(cfg, kafka, log)
	case cfg.Delivery.Store == "file":
		o.Store = offsets.NewFileStore(cfg.Delivery.File)
	}
	if err == nil {
		o.Elsewhere, err = elsewhere(cfg, kafka, log)
	}
	return o, err
}

func retentionOptions(cfg *config.Config, source replication.Options, log zerolog.Logger) retention.Options {
	r := cfg.Retention
	return retention.Options{
		Source: source, Mode: r.Mode, Keep: r.Keep, Timestamp: cfg.Outbox.Columns.Timestamp, Batch: r.Batch, Interval: r.Interval,
		ArchiveSchema: r.ArchiveTable.Schema, ArchiveTable: r.ArchiveTable.Name, Log: log,
	}
}

func transactionalID(cfg *config.Config) string {
	return cmp.Or(cfg.Delivery.TransactionalID, "outboxd-"+cfg.Postgres.Slot)
}

// elsewhere are the stores that a position may be in from an earlier configuration.
func elsewhere(cfg *config.Config, kafka sink.Options, log zerolog.Logger) (places []offsets.Elsewhere, err error) {
	inKafka := cfg.Delivery.Store == "kafka" || cfg.Delivery.Guarantee == "exactly_once"
	if !inKafka && cfg.Delivery.Topic != "" {
		store, err := positionStore(cfg, kafka, log)
		if err != nil {
			return nil, err
		}
		places = append(places, offsets.Elsewhere{Name: fmt.Sprintf("topic %q (delivery.topic)", cfg.Delivery.Topic), Peek: store.Peek})
	}
	if (inKafka || cfg.Delivery.Store == "slot") && cfg.Delivery.File != "" {
		places = append(places, offsets.Elsewhere{Name: "file " + cfg.Delivery.File, Peek: offsets.NewFileStore(cfg.Delivery.File).Load})
	}
	return places, nil
}

func positionStore(cfg *config.Config, kafka sink.Options, log zerolog.Logger) (*positions.Store, error) {
	return positions.New(positions.Options{
		Topic: cfg.Delivery.Topic, Slot: cfg.Postgres.Slot, Log: log, Client: kafka.Connection(),
	})
}

// columns are the columns that are read, in the decoder's order.
type columns []decoder.Column

func columnsOf(cfg *config.Config) columns {
	m := cfg.Outbox.Columns
	c := make(columns, decoder.NumFields)
	for f, name := range map[decoder.Field]string{
		decoder.ID:            m.ID,
		decoder.Type:          m.Type,
		decoder.AggregateType: m.AggregateType,
		decoder.AggregateID:   m.AggregateID,
		decoder.Version:       m.Version,
		decoder.SchemaVersion: m.SchemaVersion,
		decoder.CorrelationID: m.CorrelationID,
		decoder.CausationID:   m.CausationID,
		decoder.TraceParent:   m.Traceparent,
		decoder.Timestamp:     m.Timestamp,
		decoder.Payload:       m.Payload,
	} {
		c[f] = decoder.Column{Name: name, Key: "outbox.columns." + f.String()}
	}
	return c
}

// field returns the field of a column that a key names, NoField for none.
func (c *columns) field(name, key string) decoder.Field {
	if name == "" {
		return decoder.NoField
	}
	// Not one of the named fields, whose values are not always the column's
	// text.
	for f := decoder.NumFields; f < len(*c); f++ {
		if (*c)[f].Name == name {
			return decoder.Field(f)
		}
	}
	*c = append(*c, decoder.Column{Name: name, Key: key})
	return decoder.Field(len(*c) - 1)
}

// columnTypes are the types that a key's column may have; one that is not named
// takes any, as its text.
var columnTypes = map[string][]string{
	"outbox.columns.payload":   {"json", "jsonb", "text", "varchar", "bytea"},
	"outbox.columns.version":   {"int2", "int4", "int8"},
	"outbox.columns.timestamp": {"timestamptz", "timestamp", "int8"},
	"outbox.headers_column":    {"json", "jsonb"},
	"route.partition":          {"int2", "int4", "int8"},
}

func sourceOptions(cfg *config.Config, read columns, log zerolog.Logger) replication.Options {
	o := replication.Options{
		DSN:         cfg.Postgres.DSN.Reveal(),
		ReadDSN:     cfg.Postgres.CurrentDSN,
		Slot:        cfg.Postgres.Slot,
		Publication: cfg.Postgres.Publication,
		Create:      cfg.Postgres.Create,
		Failover:    cfg.Postgres.Failover,
		Origin:      cfg.Postgres.Origin,
		Schema:      cfg.Outbox.Table.Schema,
		Table:       cfg.Outbox.Table.Name,

		MessagePrefix: cfg.Outbox.MessagePrefix,
		Backfill:      cfg.Outbox.Backfill == "existing",
		Removes:       cfg.Retention.Mode == "delete" || cfg.Retention.Mode == "archive",

		Log: log,
	}
	for _, c := range read {
		if c.Name != "" {
			o.Columns = append(o.Columns, replication.Column{Key: c.Key, Name: c.Name, Types: columnTypes[c.Key]})
		}
	}
	if cfg.Value.Format == "debezium" {
		debeziumColumns(cfg, o.Columns)
	}
	return o
}

// rules returns the router's rules, and all columns that are read.
func rules(cfg *config.Config) (router.Rules, columns) {
	read := columnsOf(cfg)
	r := router.Rules{
		Topic:     cfg.Route.Topic,
		Forbidden: cfg.Route.Forbidden,
		Reserved:  map[string]string{cfg.Delivery.Topic: "delivery.topic", cfg.Errors.DeadLetterTopic: "errors.dead_letter_topic"},
		Columns:   make(map[string]decoder.Field),
		Key:       decoder.NoField,
		NullKey:   cfg.Value.Format == "debezium",
		Partition: read.field(cfg.Route.Partition, "route.partition"),
	}
	// What the format reads is found again by formatOptions.
	read.field(cfg.Outbox.HeadersColumn, "outbox.headers_column")
	templateColumns := func(text, key string) {
		for _, name := range template.Columns(text) {
			r.Columns[name] = read.field(name, key)
		}
	}
	if regex := cfg.Route.Regex; regex.Column != "" {
		// The pattern was checked when the configuration was loaded.
		r.Regex, _ = router.NewRegex(read.field(regex.Column, "route.regex.column"), regex.Column, regex.Match, regex.Replace)
	} else {
		templateColumns(cfg.Route.Topic, "route.topic")
	}
	templateColumns(cfg.Route.Key, "route.key")
	for i, o := range cfg.Route.Rules {
		r.Overrides = append(r.Overrides, router.Override(o))
		templateColumns(o.Topic, fmt.Sprintf("route.rules[%d].topic", i))
	}
	if name := template.Columns(cfg.Route.Key); name != nil {
		r.Key = r.Columns[name[0]]
	} else {
		for f := range decoder.Field(decoder.NumFields) {
			if f.String() == cfg.Route.Key {
				r.Key = f
			}
		}
	}
	for _, h := range cfg.Outbox.Headers {
		read.field(h.Value, "outbox.headers."+h.Name)
	}
	if cfg.Value.Format == "debezium" {
		for _, e := range cfg.Value.Debezium.Envelope {
			read.field(e.Value, "value.debezium.envelope."+e.Name)
		}
	}
	return r, read
}

func sinkOptions(cfg *config.Config, log zerolog.Logger) sink.Options {
	o := sink.Options{
		Brokers:      cfg.Kafka.Brokers,
		Learned:      sink.NewLearned(),
		ClientID:     cfg.Kafka.ClientID,
		Compression:  cfg.Kafka.Compression,
		Linger:       cfg.Kafka.Linger,
		CreateTopics: sink.CreateTopics(cfg.Route.CreateTopics),
		SASL:         saslMechanism(cfg.Kafka.SASL),
		Log:          log,
	}
	if cfg.Kafka.TLS.Enabled {
		o.ReadTLS = func() (*tls.Config, error) { return readTLS("kafka.tls", cfg.Kafka.TLS) }
	}
	return o
}
