package config

import "time"

// Delivery says how safely events are delivered, and where the position is kept.
type Delivery struct {
	// Guarantee is at_least_once, in which a suffix may repeat after a crash, or
	// exactly_once, in which consumers that read only committed records see
	// each event once, for some latency. Defaults to at_least_once.
	Guarantee string `yaml:"guarantee" default:"at_least_once" enum:"at_least_once,exactly_once"`
	// TransactionalID is the Kafka transactional id of exactly_once. Defaults
	// to outboxd-<slot>.
	TransactionalID string `yaml:"transactional_id"`
	// Store is where the position is kept besides the slot. The slot alone is
	// enough to resume; a file or a Kafka topic also notices a slot that was
	// dropped, made again, or belongs to a restored server, and lets a restart
	// inside a large transaction go on near where it was. With exactly_once it
	// is always kafka. Defaults to slot.
	Store string `yaml:"store" default:"slot" enum:"slot,file,kafka"`
	// File is the position's file, needed with the file store. Defaults to none.
	File string `yaml:"file"`
	// Topic is the position's topic, for the kafka store: compacted, one
	// partition, made when missing if the broker lets us. Several connectors can
	// share it, if their slots have different names. Defaults to
	// outboxd.positions.
	Topic string `yaml:"topic" default:"outboxd.positions" check:"topic"`
	// ConfirmInterval is how often the confirmed position goes to PostgreSQL.
	// Shorter repeats less after a crash and frees WAL sooner; longer costs
	// less. Defaults to 1s.
	ConfirmInterval time.Duration `yaml:"confirm_interval" default:"1s" min:"10ms"`
	// Rewind holds back what PostgreSQL is told, so that a past window can
	// still be replayed from WAL, for the disk that this WAL takes. It needs a
	// store besides the slot. Defaults to
	// 0s: nothing is held back.
	Rewind Rewind `yaml:"rewind" default:"0s"`
}

// Scale spreads one outbox over several slots and processes.
type Scale struct {
	// Shards is the number of slots, each with the events of some aggregates.
	// More reads faster, and every slot decodes the whole WAL. Defaults to 1.
	Shards int `yaml:"shards" default:"1" min:"1"`
	// Group lets the processes that have it in common share the shards or stand
	// by. Defaults to none: one process.
	Group string `yaml:"group"`
}

// Errors says what happens to events that fail, and how faults are retried.
type Errors struct {
	// Poison is what happens to an event that can never be delivered as it is:
	// stop keeps order and waits for an operator; dead_letter sets it aside and
	// goes on. Defaults to stop.
	Poison string `yaml:"poison" default:"stop" enum:"stop,dead_letter" unbuilt:"dead_letter"`
	// DeadLetterTopic is where dead_letter sends them. Defaults to
	// outbox.dead-letter.
	DeadLetterTopic string `yaml:"dead_letter_topic" default:"outbox.dead-letter" check:"topic" unbuilt:"*"`
	// Retry is the pause between attempts at what fails for a while.
	Retry Retry `yaml:"retry"`
}

// Retry is a jittered pause that doubles from Min to Max.
type Retry struct {
	// Min is the first pause. Defaults to 100ms.
	Min time.Duration `yaml:"min" default:"100ms" min:"1ms"`
	// Max is the longest pause: how late a recovery may be noticed. Defaults to
	// 30s.
	Max time.Duration `yaml:"max" default:"30s" min:"1ms"`
}

// Retention removes outbox rows that Kafka has acknowledged, and never another.
type Retention struct {
	// Mode is off, delete, or drop_partitions for a partitioned table, which is
	// far cheaper. Defaults to off.
	Mode string `yaml:"mode" default:"off" enum:"off,delete,drop_partitions" unbuilt:"delete,drop_partitions"`
	// Keep is how long rows stay, by outbox.columns.timestamp or else by the
	// commit time. Defaults to 24h.
	Keep time.Duration `yaml:"keep" default:"24h" min:"0s" unbuilt:"*"`
	// Batch is the number of rows that one statement deletes. Smaller holds
	// locks for less time. Defaults to 1000.
	Batch int `yaml:"batch" default:"1000" min:"1" unbuilt:"*"`
	// Interval is the pause between two runs. Defaults to 1m.
	Interval time.Duration `yaml:"interval" default:"1m" min:"1s" unbuilt:"*"`
}

// HTTP serves the status page, metrics and health checks.
type HTTP struct {
	// Listen is the address to serve on; "" turns it off. It has no
	// authentication, so it is open only to this host unless told otherwise.
	// Defaults to 127.0.0.1:9188.
	Listen string `yaml:"listen" default:"127.0.0.1:9188" check:"listen"`
}

// Log is what is logged, and how.
type Log struct {
	// Level is the least level that is logged. Defaults to info.
	Level string `yaml:"level" default:"info" enum:"trace,debug,info,warn,error"`
	// Format is console for people, json for machines, or auto for console on a
	// terminal and json otherwise. Defaults to auto.
	Format string `yaml:"format" default:"auto" enum:"auto,console,json"`
}
