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
	o := pipeline.Options{
		Source:       sourceOptions(cfg, log),
		Table:        decoder.Table{Schema: cfg.Outbox.Table.Schema, Name: cfg.Outbox.Table.Name, Columns: columns(cfg)},
		Rules:        rules(cfg),
		Sink:         kafka,
		ConfirmEvery: cfg.Delivery.ConfirmInterval,
		RetryMin:     cfg.Errors.Retry.Min,
		RetryMax:     cfg.Errors.Retry.Max,
		DrainTimeout: drainTimeout,
		MemoryLimit:  eventShare(int64(cfg.Kafka.MaxBuffered)),
		Log:          log,
		Status:       st,
	}
	if cfg.Delivery.Store == "file" {
		o.Store = offsets.NewFileStore(cfg.Delivery.File)
	}
	return o, nil
}

// columns are the mapped columns, by field.
func columns(cfg *config.Config) (c [decoder.NumFields]string) {
	m := cfg.Outbox.Columns
	c[decoder.ID] = m.ID
	c[decoder.Type] = m.Type
	c[decoder.AggregateType] = m.AggregateType
	c[decoder.AggregateID] = m.AggregateID
	c[decoder.Version] = m.Version
	c[decoder.SchemaVersion] = m.SchemaVersion
	c[decoder.CorrelationID] = m.CorrelationID
	c[decoder.CausationID] = m.CausationID
	c[decoder.TraceParent] = m.Traceparent
	c[decoder.Payload] = m.Payload
	return c
}

// columnTypes are the types a field's column may have; a field that is not named
// takes any, as its text.
var columnTypes = map[decoder.Field][]string{
	decoder.Payload: {"json", "jsonb", "text", "varchar", "bytea"},
	decoder.Version: {"int2", "int4", "int8"},
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
	for f, name := range columns(cfg) {
		if name != "" {
			field := decoder.Field(f)
			o.Columns = append(o.Columns, replication.Column{Key: "outbox.columns." + field.String(), Name: name, Types: columnTypes[field]})
		}
	}
	return o
}

func rules(cfg *config.Config) router.Rules {
	r := router.Rules{Topic: cfg.Route.Topic, NoKey: cfg.Route.Key == "none"}
	for f := range decoder.Field(decoder.NumFields) {
		if f.String() == cfg.Route.Key {
			r.Key = f
		}
	}
	if cfg.Value.Headers == "none" {
		r.Headers = router.NoHeaders
	}
	return r
}

func sinkOptions(cfg *config.Config, log zerolog.Logger) (sink.Options, error) {
	o := sink.Options{
		Brokers:     cfg.Kafka.Brokers,
		ClientID:    cfg.Kafka.ClientID,
		Compression: cfg.Kafka.Compression,
		Linger:      cfg.Kafka.Linger,
		Value: sink.Value{
			NullIsError:      cfg.Value.NullPayload == "error",
			EmptyIsTombstone: cfg.Value.EmptyIsTombstone,
			TimestampNow:     cfg.Value.Timestamp == "now",
		},
		SASL: saslMechanism(cfg.Kafka.SASL),
		Log:  log,
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
