package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/pipeline"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

// eventShare is the part of kafka.max_buffered that events and their records may
// take. The rest is for the client's encoded and compressed batches, the
// collector's slack and the program itself, so that the process as a whole stays
// near the configured size.
func eventShare(maxBuffered int64) int64 { return maxBuffered / 8 * 3 }

// pipelineOptions turns the configuration into the options of the stages.
func pipelineOptions(cfg *config.Config, st *status.Status, log zerolog.Logger) (pipeline.Options, error) {
	kafka, err := sinkOptions(cfg, log)
	if err != nil {
		return pipeline.Options{}, err
	}
	rules, read := rules(cfg)
	o := pipeline.Options{
		Source:       sourceOptions(cfg, log),
		Table:        decoder.Table{Schema: cfg.Outbox.Table.Schema, Name: cfg.Outbox.Table.Name, Columns: read},
		Rules:        rules,
		Sink:         kafka,
		ConfirmEvery: cfg.Delivery.ConfirmInterval,
		RetryMin:     cfg.Errors.Retry.Min,
		RetryMax:     cfg.Errors.Retry.Max,
		DrainTimeout: drainTimeout,
		MemoryLimit:  eventShare(int64(cfg.Kafka.MaxBuffered)),
		Log:          log,
		Status:       st,
	}
	switch {
	case cfg.Delivery.Guarantee == "exactly_once":
		o.Sink.TransactionalID = cfg.Delivery.TransactionalID
		if o.Sink.TransactionalID == "" {
			o.Sink.TransactionalID = "outboxd-" + cfg.Postgres.Slot
		}
		o.Positions, err = positionStore(cfg, kafka, log)
	case cfg.Delivery.Store == "kafka":
		o.Store, err = positionStore(cfg, kafka, log)
	case cfg.Delivery.Store == "file":
		o.Store = offsets.NewFileStore(cfg.Delivery.File)
	}
	return o, err
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

func sourceOptions(cfg *config.Config, log zerolog.Logger) replication.Options {
	o := replication.Options{
		DSN:         cfg.Postgres.DSN.Reveal(),
		Slot:        cfg.Postgres.Slot,
		Publication: cfg.Postgres.Publication,
		Create:      cfg.Postgres.Create,
		Failover:    cfg.Postgres.Failover,
		Schema:      cfg.Outbox.Table.Schema,
		Table:       cfg.Outbox.Table.Name,
		Log:         log,
	}
	_, read := rules(cfg)
	for _, c := range read {
		if c.Name != "" {
			o.Columns = append(o.Columns, replication.Column{Key: c.Key, Name: c.Name, Types: columnTypes[c.Key]})
		}
	}
	return o
}

var headerStyles = map[string]router.HeaderStyle{
	"plain":       router.PlainHeaders,
	"cloudevents": router.CloudEventsHeaders,
	"debezium":    router.DebeziumHeaders,
	"none":        router.NoHeaders,
}

// rules returns the router's rules, and all columns that are read.
func rules(cfg *config.Config) (router.Rules, columns) {
	read := columnsOf(cfg)
	r := router.Rules{
		Topic:         cfg.Route.Topic,
		Columns:       make(map[string]decoder.Field),
		Key:           decoder.NoField,
		Partition:     read.field(cfg.Route.Partition, "route.partition"),
		Style:         headerStyles[cfg.Value.Headers],
		HeadersColumn: read.field(cfg.Outbox.HeadersColumn, "outbox.headers_column"),
	}
	templateColumns := func(template, key string) {
		for _, name := range config.TemplateColumns(template) {
			r.Columns[name] = read.field(name, key)
		}
	}
	templateColumns(cfg.Route.Topic, "route.topic")
	templateColumns(cfg.Route.Key, "route.key")
	for i, o := range cfg.Route.Rules {
		r.Overrides = append(r.Overrides, router.Override(o))
		templateColumns(o.Topic, fmt.Sprintf("route.rules[%d].topic", i))
	}
	if name := config.TemplateColumns(cfg.Route.Key); name != nil {
		r.Key = r.Columns[name[0]]
	} else {
		for f := range decoder.Field(decoder.NumFields) {
			if f.String() == cfg.Route.Key {
				r.Key = f
			}
		}
	}
	for _, h := range cfg.Outbox.Headers {
		r.Headers = append(r.Headers, router.ColumnHeader{Key: h.Name, Field: read.field(h.Value, "outbox.headers."+h.Name)})
	}
	if cfg.Value.Format == "cloudevents" {
		r.ContentType = "application/cloudevents+json; charset=UTF-8"
	}
	return r, read
}

var formats = map[string]sink.Format{"raw": sink.Raw, "json": sink.JSON, "cloudevents": sink.CloudEvents}

var timestamps = map[string]sink.Timestamp{"commit": sink.CommitTime, "column": sink.BusinessTime, "now": sink.SendTime}

func sinkOptions(cfg *config.Config, log zerolog.Logger) (sink.Options, error) {
	o := sink.Options{
		Brokers:     cfg.Kafka.Brokers,
		ClientID:    cfg.Kafka.ClientID,
		Compression: cfg.Kafka.Compression,
		Linger:      cfg.Kafka.Linger,
		Value: sink.Value{
			NullIsError:      cfg.Value.NullPayload == "error",
			EmptyIsTombstone: cfg.Value.EmptyIsTombstone,
			Format:           formats[cfg.Value.Format],
			Timestamp:        timestamps[cfg.Value.Timestamp],
		},
		CreateTopics: sink.CreateTopics(cfg.Route.CreateTopics),
		SASL:         saslMechanism(cfg.Kafka.SASL),
		Log:          log,
	}
	var err error
	if cfg.Kafka.TLS.Enabled {
		if o.TLS, err = tlsConfig("kafka.tls", cfg.Kafka.TLS); err != nil {
			return sink.Options{}, err
		}
	}
	return o, nil
}

func saslMechanism(cfg config.SASL) sasl.Mechanism {
	switch cfg.Mechanism {
	case "PLAIN":
		return plain.Auth{User: cfg.Username, Pass: cfg.Password.Reveal()}.AsMechanism()
	case "SCRAM-SHA-256":
		return scram.Auth{User: cfg.Username, Pass: cfg.Password.Reveal()}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return scram.Auth{User: cfg.Username, Pass: cfg.Password.Reveal()}.AsSha512Mechanism()
	}
	return nil
}

func tlsConfig(key string, cfg config.TLS) (*tls.Config, error) {
	t := &tls.Config{ServerName: cfg.ServerName, MinVersion: tls.VersionTLS12}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("%s.ca: %w", key, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s.ca: %s holds no PEM certificate", key, cfg.CA)
		}
	}
	if cfg.Cert != "" || cfg.Key != "" {
		pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("%s.cert and %s.key: %w", key, key, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
