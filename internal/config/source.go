package config

import "time"

// Postgres is the database that is read, and the slot it is read through.
type Postgres struct {
	// DSN is the connection string: a URL or key=value pairs as libpq takes
	// them, with several hosts and TLS options; what it leaves out comes from
	// the PG* environment variables. It is a secret because it can hold a
	// password. It has no default.
	//
	// Log it through [RedactDSN].
	DSN Secret `yaml:"dsn" required:"yes" check:"dsn"`
	// Slot is the logical replication slot. Two connectors on one database need
	// two slots. Defaults to outboxd.
	Slot string `yaml:"slot" default:"outboxd" check:"slot"`
	// Publication names the publication that holds the outbox table. Defaults
	// to outboxd.
	Publication string `yaml:"publication" default:"outboxd" check:"identifier"`
	// Create creates the publication and the slot when they are missing. That
	// needs more rights than reading does; turn it off where a migration creates
	// them. Defaults to true.
	Create bool `yaml:"create" default:"true"`
	// Mode is how events are read: wal streams them from the write-ahead log;
	// polling queries the table, for databases without logical replication, at
	// the cost of load and latency. Defaults to wal.
	Mode string `yaml:"mode" default:"wal" enum:"wal,polling" unbuilt:"polling"`
	// Failover makes the slot a failover slot, which PostgreSQL 17 and later copies
	// to its standbys, so that it outlives the primary: on, which also changes an
	// existing slot; off; or auto, which creates a new slot as one where the server
	// can. Defaults to auto.
	Failover string `yaml:"failover" default:"auto" enum:"auto,on,off"`
	// Origin is which rows are published: any; or none, for those without a
	// replication origin, which leaves out what logical replication brought from
	// another server. It is for databases that replicate their outbox to each other,
	// and needs PostgreSQL 16. Defaults to any.
	Origin string `yaml:"origin" default:"any" enum:"any,none"`
}

// Outbox says where in the database events are, and how to read them.
type Outbox struct {
	// Table is the outbox table, ordinary or partitioned; "" for none, with
	// MessagePrefix. Defaults to public.outbox.
	Table Table `yaml:"table" default:"public.outbox"`
	// Columns names the column that each field of an event is read from.
	Columns Columns `yaml:"columns"`
	// Headers maps a Kafka header to the column that it is read from; records
	// have them in this order. Defaults to none.
	Headers Pairs `yaml:"headers"`
	// HeadersColumn is a json or jsonb column whose members become headers.
	// Defaults to none.
	HeadersColumn string `yaml:"headers_column" check:"column"`
	// MessagePrefix makes the messages that pg_logical_emit_message wrote with this
	// prefix events, too; they need no table. Defaults to none.
	MessagePrefix string `yaml:"message_prefix" check:"message prefix"`
	// Backfill is what happens to rows that were in the table before the slot was
	// created: none, or existing to publish them once. Defaults to none.
	Backfill string `yaml:"backfill" default:"none" enum:"none,existing"`
	// BackfillTimeout is how long a backfill may take with exactly_once, where all of it is
	// one Kafka transaction: Kafka aborts a longer one. The brokers' transaction.max.timeout.ms,
	// 15 minutes unless it was changed, must allow it. Defaults to 15m.
	BackfillTimeout time.Duration `yaml:"backfill_timeout" default:"15m" min:"10s" max:"7d"`
}

// Pairs is a mapping from names of the user's choice to columns, in the order of
// the file.
type Pairs []Pair

// Pair is an entry of a mapping.
type Pair struct{ Name, Value string }

// Columns names the column that each field of an event is read from, spelled
// as in the database's catalogue. A field with an empty name is not read.
type Columns struct {
	// ID is the event's own id. Defaults to id.
	ID string `yaml:"id" default:"id" check:"column"`
	// AggregateType is the kind of thing that the event is about. Defaults to
	// aggregatetype.
	AggregateType string `yaml:"aggregate_type" default:"aggregatetype" check:"column"`
	// AggregateID names the thing that the event is about; it is the usual
	// record key. Defaults to aggregateid.
	AggregateID string `yaml:"aggregate_id" default:"aggregateid" check:"column"`
	// Type is the kind of event. Defaults to type.
	Type string `yaml:"type" default:"type" check:"column"`
	// Payload is the event's content: json, jsonb, text, varchar or bytea. It
	// cannot be left out. Defaults to payload.
	Payload string `yaml:"payload" default:"payload" check:"column"`
	// Timestamp is the business time: timestamptz, timestamp, or bigint
	// milliseconds since 1970. Defaults to none.
	Timestamp string `yaml:"timestamp" check:"column"`
	// Version is the aggregate's version, an integer. Defaults to none.
	Version string `yaml:"version" check:"column"`
	// SchemaVersion is the version of the payload's schema. Defaults to none.
	SchemaVersion string `yaml:"schema_version" check:"column"`
	// CorrelationID joins the events of one business process. Defaults to none.
	CorrelationID string `yaml:"correlation_id" check:"column"`
	// CausationID is the id of what caused the event. Defaults to none.
	CausationID string `yaml:"causation_id" check:"column"`
	// Traceparent is the W3C trace context. Defaults to none.
	Traceparent string `yaml:"traceparent" check:"column"`
}

// Route says which topic, key and partition an event gets.
type Route struct {
	// Topic is the topic of an event, with {type}, {aggregate_type} and
	// {column:NAME} replaced by the event's. With the default an aggregate's events
	// are in a topic for each type, and Kafka keeps no order between topics;
	// outbox.event.{aggregate_type} keeps an aggregate's events in order. Defaults to
	// outbox.event.{type}.
	Topic string `yaml:"topic" default:"outbox.event.{type}" check:"template"`
	// Regex derives the topic from a column by a regular expression, in place of
	// Topic.
	Regex Regex `yaml:"regex"`
	// Rules override Topic for some events; the first that matches wins.
	// Defaults to none.
	Rules []Rule `yaml:"rules"`
	// Forbidden are patterns (* and ?) of topics that no event may be sent to: one
	// whose topic matches is a poison event. What begins with __, and the topics
	// of delivery.topic and errors.dead_letter_topic, are always forbidden.
	// Defaults to _*.
	Forbidden []string `yaml:"forbidden" default:"_*" check:"glob"`
	// Key is the field that becomes the record key, or {column:NAME}, or none. Order is kept
	// within a key, so none gives up order for an even spread; with any other
	// a NULL key is a poison event. Defaults to aggregate_id.
	Key string `yaml:"key" default:"aggregate_id" check:"key"`
	// Partition is an integer column that names the partition; NULL means by
	// key. Defaults to none: always by key.
	Partition string `yaml:"partition" check:"column"`
	// CreateTopics creates topics that are missing.
	CreateTopics CreateTopics `yaml:"create_topics"`
}

// Regex derives a topic from a column's text: one that Match matches as a whole has its
// first match replaced, any other is the topic as it is. An empty Column turns it
// off.
type Regex struct {
	// Column is the column whose text is matched. Defaults to none.
	Column string `yaml:"column" check:"column"`
	// Match is a regular expression in Go's syntax. Defaults to (.*).
	Match string `yaml:"match" default:"(.*)" check:"regex"`
	// Replace is the replacement, with $1, ${1}, ${name} and $$. Defaults to ${1}.
	Replace string `yaml:"replace" default:"${1}"`
}

// Rule sends the events that match it to a topic. Patterns are globs (* and ?)
// over the whole name; an empty pattern matches everything.
type Rule struct {
	// Type is a pattern for the event's type. Defaults to any.
	Type string `yaml:"type" check:"glob"`
	// AggregateType is a pattern for the aggregate's type. Defaults to any.
	AggregateType string `yaml:"aggregate_type" check:"glob"`
	// Topic is a template like route.topic; "" discards the event. It has no
	// default.
	Topic string `yaml:"topic" required:"yes" check:"rule topic"`
}

// CreateTopics creates topics that are missing.
type CreateTopics struct {
	// Enabled creates missing topics before their first record. When false, the brokers' own
	// auto-creation decides, as for any producer. Defaults to false.
	Enabled bool `yaml:"enabled" default:"false"`
	// Partitions of a new topic. More partitions spread the load further; adding some
	// later moves keys. Defaults to 6.
	Partitions int `yaml:"partitions" default:"6" min:"1" max:"10000"`
	// ReplicationFactor of a new topic; -1 leaves it to the brokers. Defaults
	// to -1.
	ReplicationFactor int `yaml:"replication_factor" default:"-1" check:"replication factor"`
	// Config is topic configuration, such as retention.ms. Defaults to the
	// brokers' own.
	Config map[string]string `yaml:"config"`
}
