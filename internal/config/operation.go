package config

import "time"

// Delivery says how safely events are delivered, and where the position is kept.
type Delivery struct {
	// Guarantee is at_least_once, with which the last events may be delivered again
	// after a crash, or exactly_once, with which consumers that read only committed
	// records see each event once, some tens of milliseconds later. Defaults to at_least_once.
	Guarantee string `yaml:"guarantee" default:"at_least_once" enum:"at_least_once,exactly_once"`
	// TransactionalID is the Kafka transactional id of exactly_once. Defaults
	// to outboxd-<slot>.
	TransactionalID string `yaml:"transactional_id" check:"transactional id"`
	// Store is where the position is kept besides the slot. The slot alone is
	// enough to resume; with a file or a Kafka topic outboxd also notices a slot that
	// was dropped and recreated, or belongs to a restored server, and resumes inside a
	// large transaction near where it was. With exactly_once it is always kafka.
	// Defaults to slot.
	Store string `yaml:"store" default:"slot" enum:"slot,file,kafka"`
	// File is the position's file, needed with the file store. Defaults to none.
	File string `yaml:"file"`
	// Topic is the position's topic, for the kafka store: compacted, one partition;
	// it is created if missing and permitted. Several connectors can share it as long
	// as their slots have different names. Defaults to outboxd.positions.
	Topic string `yaml:"topic" default:"outboxd.positions" check:"topic"`
	// ConfirmInterval is how often the confirmed position goes to PostgreSQL. With a
	// shorter one less repeats after a crash and WAL is recycled sooner; a longer one
	// costs less. Defaults to 1s.
	ConfirmInterval time.Duration `yaml:"confirm_interval" default:"1s" min:"10ms" max:"1d"`
	// Rewind holds back the position that is confirmed to PostgreSQL, by an age or an
	// amount of WAL, so that this window can be published again. It needs a store
	// besides the slot, and the disk for that WAL. Defaults to 0s: nothing is held
	// back.
	Rewind Rewind `yaml:"rewind" default:"0s" check:"rewind"`
}

// Scale spreads one outbox over several slots and processes.
type Scale struct {
	// Shards is the number of slots, each with the events of some aggregates.
	// More reads faster, and every slot decodes the whole WAL. Defaults to 1.
	Shards int `yaml:"shards" default:"1" min:"1" max:"1024"`
	// Group lets the processes that have it in common share the shards or stand
	// by. Defaults to none: one process.
	Group string `yaml:"group"`
}

// Errors says what happens to events that fail, and how faults are retried.
type Errors struct {
	// Poison is what happens to an event that can never be delivered as it is:
	// stop keeps order and waits for an operator; dead_letter sets it aside and
	// continues. Defaults to stop.
	Poison string `yaml:"poison" default:"stop" enum:"stop,dead_letter"`
	// DeadLetterTopic is where dead_letter sends them. Defaults to
	// outbox.dead-letter.
	DeadLetterTopic string `yaml:"dead_letter_topic" default:"outbox.dead-letter" check:"topic"`
	// DeadLetterHeaders are plain, or connect for the headers that Kafka Connect's
	// tools read, too. Defaults to plain.
	DeadLetterHeaders string `yaml:"dead_letter_headers" default:"plain" enum:"plain,connect"`
	// MaxDeadLetters stops a run that sets too many events aside: then it is the
	// deployment that is broken, not an event.
	MaxDeadLetters MaxDeadLetters `yaml:"max_dead_letters"`
	// Retry is the pause between attempts at what fails for a while.
	Retry Retry `yaml:"retry"`
}

// MaxDeadLetters is a number of events in a time.
type MaxDeadLetters struct {
	// Count is the number; 0 is no limit. Defaults to 100.
	Count int `yaml:"count" default:"100" min:"0"`
	// Within is the time. Defaults to 10m.
	Within time.Duration `yaml:"within" default:"10m" min:"1s"`
}

// Retry is a jittered pause that doubles from Min to Max.
type Retry struct {
	// Min is the first pause. Defaults to 100ms.
	Min time.Duration `yaml:"min" default:"100ms" min:"1ms" max:"7d"`
	// Max is the longest pause: how late a recovery may be noticed. Defaults to
	// 30s.
	Max time.Duration `yaml:"max" default:"30s" min:"1ms" max:"7d"`
}

// Retention removes outbox rows that Kafka has acknowledged, and never another.
type Retention struct {
	// Mode is off, delete, archive, or drop_partitions for a table that is
	// partitioned by time, which is far cheaper. Defaults to off.
	Mode string `yaml:"mode" default:"off" enum:"off,delete,archive,drop_partitions"`
	// Keep is how long rows stay, by outbox.columns.timestamp or else by the
	// commit time, which needs track_commit_timestamp = on; 0s is until Kafka has
	// acknowledged them. Partitions are old by their upper bound. Defaults to 24h.
	Keep time.Duration `yaml:"keep" default:"24h" min:"0s" max:"3650d"`
	// ArchiveTable is where archive moves rows, in the transaction that deletes
	// them. Defaults to none.
	ArchiveTable Table `yaml:"archive_table"`
	// Batch is the number of rows that one statement deletes. Smaller holds
	// locks for less time; a time-out halves it. Defaults to 1000.
	Batch int `yaml:"batch" default:"1000" min:"1" max:"100000"`
	// Interval is the pause between two runs. Defaults to 1m.
	Interval time.Duration `yaml:"interval" default:"1m" min:"1s" max:"7d"`
}

// Reconcile compares the outbox with what Kafka holds, now and then.
type Reconcile struct {
	// Every is how often a comparison begins; 0s is never. The first one begins one to
	// five minutes after the connector has caught up, and after Every at the latest.
	// Defaults to 0s.
	Every time.Duration `yaml:"every" default:"0s" min:"0s"`
	// Late is how long from commit to record is not late. Defaults to 1m.
	Late time.Duration `yaml:"late" default:"1m" min:"0s"`
}

// Monitor watches what is not outboxd itself.
type Monitor struct {
	// ConsumerGroups are those whose lag on the topics published to is shown, as a
	// metric and on the page. The right to Describe them is needed. Defaults to none.
	ConsumerGroups []string `yaml:"consumer_groups" check:"group"`
	// Trace sends a span for each event that is part of a sampled trace.
	Trace Trace `yaml:"trace"`
}

// Trace sends a span for each event that is part of a sampled trace: its record has a W3C
// traceparent with the sampled flag.
type Trace struct {
	// Endpoint is the URL of a collector that takes OTLP over HTTP, such as
	// http://localhost:4318; /v1/traces is appended to it. It has no credentials; one
	// that has them by mistake is not shown. "" turns it off. Defaults to none.
	Endpoint Secret `yaml:"endpoint" check:"otlp"`
}

// HTTP serves the status page, metrics and health checks.
type HTTP struct {
	// Listen is the address to serve on; "" turns it off. Without a token anyone
	// who reaches it may read, so by default only this host reaches
	// it. Defaults to 127.0.0.1:9188.
	Listen string `yaml:"listen" default:"127.0.0.1:9188" check:"listen"`
	// Token is a bearer token that all but /healthz and /readyz ask for. It is read
	// again at each request, if it is in a file. Defaults to none: nothing asks.
	Token Secret `yaml:"token" check:"token"`
	// TLS serves HTTPS.
	TLS HTTPTLS `yaml:"tls"`
}

// HTTPTLS is the server's certificate. With one, the address serves HTTPS only. The
// files are read again for each connection.
type HTTPTLS struct {
	// Cert is a PEM file with the certificate and its chain. Defaults to none.
	Cert string `yaml:"cert"`
	// Key is a PEM file with the key of Cert. Defaults to none.
	Key string `yaml:"key"`
}

// Log is what is logged, and how.
type Log struct {
	// Level is the lowest level that is logged. Defaults to info.
	Level string `yaml:"level" default:"info" enum:"trace,debug,info,warn,error"`
	// Format is console for people, json for machines, or auto for console on a
	// terminal and json otherwise. Defaults to auto.
	Format string `yaml:"format" default:"auto" enum:"auto,console,json"`
}
