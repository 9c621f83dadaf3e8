package main

import (
	"strings"

	"outboxd/decoder"
	"outboxd/internal/config"
	"outboxd/internal/format"
	"outboxd/internal/format/debezium"
	"outboxd/internal/replication"
	"outboxd/internal/template"
)

var converters = map[string]debezium.Converter{
	"string": debezium.String, "json": debezium.JSON, "json_schema": debezium.JSONSchema, "bytes": debezium.Bytes,
}

// useDebezium is for format debezium, whose key, value and headers are Debezium's.
func useDebezium(w *formatWiring, o *format.Options) error {
	cfg, d := w.cfg, w.cfg.Value.Debezium
	rules, _ := rules(cfg)
	options := debezium.Options{
		Value:            converters[d.Value],
		Key:              converters[d.Key],
		Headers:          converters[d.Headers],
		KeyField:         rules.Key,
		Columns:          o.Columns,
		Context:          d.Context,
		RouteBy:          decoder.AggregateType,
		TopicPrefix:      d.TopicPrefix,
		Table:            cfg.Outbox.Table.Schema + "." + cfg.Outbox.Table.Name,
		EmptyIsTombstone: o.EmptyIsTombstone,
	}
	if cfg.Route.Regex.Column != "" {
		options.RouteBy = w.read.field(cfg.Route.Regex.Column, "")
	}
	for _, e := range d.Envelope {
		options.Envelope = append(options.Envelope, format.ColumnHeader{Key: e.Name, Field: w.read.field(e.Value, "")})
	}
	if d.ExpandJSON {
		options.Expand = &debezium.Expansion{KeepNulls: d.KeepNulls, KeepEmptyArrays: d.KeepEmptyArrays}
	}
	o.Format = debezium.New(options)
	if cfg.Value.Headers == "debezium" {
		o.Headers = debezium.NewHeaders(options)
	}
	return nil
}

// debeziumColumns narrows the types of the columns that are written as Kafka
// Connect does, to those of which it is known how.
func debeziumColumns(cfg *config.Config, columns []replication.Column) {
	d := cfg.Value.Debezium
	key := "outbox.columns." + cfg.Route.Key
	if template.Columns(cfg.Route.Key) != nil {
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
			c.Types = debezium.Types()
		}
		c.NoDefault = c.Key == key && d.Key == "json_schema" || header && d.Headers == "json_schema" ||
			(envelope || c.Key == "outbox.columns.payload") && d.Value == "json_schema"
	}
}
