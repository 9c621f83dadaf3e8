package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

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
func eventShare(maxBuffered int64) int64 { return maxBuffered / 16 * 5 }

// pipelineOptions turns the configuration into the options of the stages.
func pipelineOptions(cfg *config.Config, st *status.Status, log zerolog.Logger) (pipeline.Options, error) {
	rules, read := rules(cfg)
	kafka, err := sinkOptions(cfg, read, log)
	if err != nil {
		return pipeline.Options{}, err
	}
	if kafka.Value.Avro, err = avroEncoder(cfg, st, log); err != nil {
		return pipeline.Options{}, err
	}
	o := pipeline.Options{
		Source:       sourceOptions(cfg, read, log),
		Table:        decoder.Table{Schema: cfg.Outbox.Table.Schema, Name: cfg.Outbox.Table.Name, Columns: read, MessagePrefix: cfg.Outbox.MessagePrefix},
		Rules:        rules,
		Sink:         kafka,
		Rewind:       offsets.Rewind{Age: cfg.Delivery.Rewind.Age, Bytes: int64(cfg.Delivery.Rewind.Bytes)},
		ConfirmEvery: cfg.Delivery.ConfirmInterval,
		RetryMin:     cfg.Errors.Retry.Min,
		RetryMax:     cfg.Errors.Retry.Max,
		DrainTimeout: drainTimeout,
		MemoryLimit:  eventShare(int64(cfg.Kafka.MaxBuffered)),
		Log:          log,
		Status:       st,
	}
	o.Sink.Backlog = o.MemoryLimit / 4 // the rest is read, or on its way
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

func sourceOptions(cfg *config.Config, read columns, log zerolog.Logger) replication.Options {
	o := replication.Options{
		DSN:         cfg.Postgres.DSN.Reveal(),
		Slot:        cfg.Postgres.Slot,
		Publication: cfg.Postgres.Publication,
		Create:      cfg.Postgres.Create,
		Failover:    cfg.Postgres.Failover,
		Schema:      cfg.Outbox.Table.Schema,
		Table:       cfg.Outbox.Table.Name,

		MessagePrefix: cfg.Outbox.MessagePrefix,
		Backfill:      cfg.Outbox.Backfill == "existing",

		Log: log,
	}
	for _, c := range read {
		if c.Name != "" {
			o.Columns = append(o.Columns, replication.Column{Key: c.Key, Name: c.Name, Types: columnTypes[c.Key]})
		}
	}
	connectColumns(cfg, o.Columns)
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
	debezium := cfg.Value.Format == "debezium"
	r := router.Rules{
		Topic:         cfg.Route.Topic,
		Columns:       make(map[string]decoder.Field),
		Key:           decoder.NoField,
		Partition:     read.field(cfg.Route.Partition, "route.partition"),
		Style:         headerStyles[cfg.Value.Headers],
		HeadersColumn: read.field(cfg.Outbox.HeadersColumn, "outbox.headers_column"),

		EmptyIsTombstone: cfg.Value.EmptyIsTombstone,
	}
	templateColumns := func(template, key string) {
		for _, name := range config.TemplateColumns(template) {
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
	if debezium {
		r.KeyForm = keyForms[cfg.Value.Debezium.Key]
		r.HeaderForm, r.Context = keyForms[cfg.Value.Debezium.Headers], cfg.Value.Debezium.Context
		if r.Style == router.DebeziumHeaders {
			r.Style = router.ConnectHeaders
		}
		for _, e := range cfg.Value.Debezium.Envelope {
			read.field(e.Value, "value.debezium.envelope."+e.Name)
		}
	}
	if cfg.Value.Format == "cloudevents" {
		r.ContentType = "application/cloudevents+json; charset=UTF-8"
	}
	return r, read
}

var keyForms = map[string]router.KeyForm{"string": router.ConnectKey, "json": router.ConnectJSONKey, "json_schema": router.ConnectJSONSchemaKey}

var formats = map[string]sink.Format{"raw": sink.Raw, "json": sink.JSON, "cloudevents": sink.CloudEvents, "avro": sink.AvroFormat, "debezium": sink.Debezium}

var converters = map[string]sink.Converter{
	"string": sink.StringConverter, "json": sink.JSONConverter, "json_schema": sink.JSONSchemaConverter, "bytes": sink.BytesConverter,
}

// connect returns how the values of format debezium are made.
func connect(cfg *config.Config, read columns) *sink.Connect {
	if cfg.Value.Format != "debezium" {
		return nil
	}
	d := cfg.Value.Debezium
	c := &sink.Connect{
		Converter:   converters[d.Value],
		RouteBy:     decoder.AggregateType,
		TopicPrefix: d.TopicPrefix,
		Table:       cfg.Outbox.Table.Schema + "." + cfg.Outbox.Table.Name,
	}
	if cfg.Route.Regex.Column != "" {
		c.RouteBy = read.field(cfg.Route.Regex.Column, "")
	}
	for _, e := range d.Envelope {
		c.Envelope = append(c.Envelope, router.ColumnHeader{Key: e.Name, Field: read.field(e.Value, "")})
	}
	if d.ExpandJSON {
		c.Expand = &sink.Expansion{KeepNulls: d.KeepNulls, KeepEmptyArrays: d.KeepEmptyArrays}
	}
	return c
}

// connectColumns narrows the types of the columns that are written as Kafka
// Connect does, to those of which it is known how.
func connectColumns(cfg *config.Config, columns []replication.Column) {
	if cfg.Value.Format != "debezium" {
		return
	}
	d := cfg.Value.Debezium
	key := "outbox.columns." + cfg.Route.Key
	if config.TemplateColumns(cfg.Route.Key) != nil {
		key = "route.key"
	}
	for i := range columns {
		c := &columns[i]
		envelope := strings.HasPrefix(c.Key, "value.debezium.envelope.")
		header := cfg.Value.Headers == "debezium" && (c.Key == "outbox.columns.id" || strings.HasPrefix(c.Key, "outbox.headers."))
		switch {
		case c.Key == "outbox.columns.payload" && d.Value == "bytes":
			c.Types = []string{"bytea"}
		case c.Key == "outbox.columns.payload" && d.Value == "string":
			c.Types = []string{"json", "jsonb", "text", "varchar"}
		case c.Key == "outbox.columns.payload":
		case c.Key == "outbox.columns.schema_version" && d.Value == "json_schema" && len(d.Envelope) > 0:
			c.Types = []string{"int4"}
		case envelope, header, c.Key == key:
			c.Types = router.ConnectTypes()
		}
		c.NoDefault = c.Key == key && d.Key == "json_schema" || header && d.Headers == "json_schema" ||
			(envelope || c.Key == "outbox.columns.payload") && d.Value == "json_schema"
	}
}

var timestamps = map[string]sink.Timestamp{"commit": sink.CommitTime, "column": sink.BusinessTime, "now": sink.SendTime}

func sinkOptions(cfg *config.Config, read columns, log zerolog.Logger) (sink.Options, error) {
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
			Connect:          connect(cfg, read),
		},
		CreateTopics: sink.CreateTopics(cfg.Route.CreateTopics),
		SASL:         saslMechanism(cfg.Kafka.SASL),
		Log:          log,
	}
	var err error
	if o.Value.Schemas, err = payloadSchemas(cfg.Value.Schema); err != nil {
		return sink.Options{}, err
	}
	if cfg.Kafka.TLS.Enabled {
		if o.TLS, err = tlsConfig("kafka.tls", cfg.Kafka.TLS); err != nil {
			return sink.Options{}, err
		}
	}
	return o, nil
}

// payloadSchemas loads the JSON Schemas. A bad file is an error of the
// configuration.
func payloadSchemas(files map[string]string) (sink.Schemas, error) {
	if len(files) == 0 {
		return nil, nil
	}
	schemas := make(sink.Schemas)
	var problems []config.Problem
	for _, eventType := range slices.Sorted(maps.Keys(files)) {
		schema, err := sink.LoadSchema(files[eventType])
		if err != nil {
			problems = append(problems, config.Problem{File: files[eventType], Key: "value.schema." + eventType, Message: err.Error()})
		}
		schemas[eventType] = schema
	}
	return schemas, config.NewLoadError(problems)
}

// avroEncoder returns nil for other formats.
func avroEncoder(cfg *config.Config, st *status.Status, log zerolog.Logger) (*sink.Avro, error) {
	if cfg.Value.Format != "avro" {
		return nil, nil
	}
	a := cfg.Value.Avro
	o := sink.AvroOptions{
		Registry: a.Registry.Reveal(),
		Username: a.Username,
		Password: a.Password.Reveal(),
		Subject:  a.Subject,
		BySchema: a.Payload == "schema",
		Register: a.Register,
		Log:      log,
		OnAnswer: st.RegistryAnswered,
	}
	if a.TLS.Enabled {
		var err error
		if o.TLS, err = tlsConfig("value.avro.tls", a.TLS); err != nil {
			return nil, err
		}
	}
	st.UseRegistry()
	return sink.NewAvro(o)
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
