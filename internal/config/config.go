// Package config loads outboxd's configuration: a YAML file, values taken from
// the environment or from other files, and overrides by environment variables.
//
// It is strict. An unknown key, a wrong type or a bad value is an error that
// names the key and the line; all errors are reported at once; and a key whose
// feature is not built yet is refused by name, never ignored.
//
// The structs of [Config] are the only definition of the keys. To add a key,
// add a field with these tags:
//
//	yaml      the key's name in the file
//	default   its default, written as in the file; absent: empty, 0 or false
//	enum      the words allowed, separated by commas
//	min, max  the least and the most number, duration or size allowed
//	check     the rule for its text, by its name in [checks]
//	required  "yes": the key has no default and must be given
//	unbuilt   what this version refuses: "*" for every value but the default
//	          (on a struct: of all its keys), or words of enum, separated by
//	          commas. Take the word out when the feature is built.
package config

import (
	_ "embed" // Example is embedded.
	"strings"
)

// DefaultPath is the file that is read when no other is named.
const DefaultPath = "outboxd.yaml"

// Example is an annotated configuration file. It holds every key that this
// version has, each with its default.
//
//go:embed example.yaml
var Example []byte

// Config is the whole configuration. Its zero value is not useful: take one
// from [Load] or [Default].
type Config struct {
	// Postgres is the database that is read, and the slot it is read through.
	Postgres Postgres `yaml:"postgres"`
	// Outbox says where in the database events are, and how to read them.
	Outbox Outbox `yaml:"outbox"`
	// Route says which topic, key and partition an event gets.
	Route Route `yaml:"route"`
	// Value says what a Kafka record holds.
	Value Value `yaml:"value"`
	// Kafka is the cluster that is written to.
	Kafka Kafka `yaml:"kafka"`
	// Delivery says how safely events are delivered, and where the position is kept.
	Delivery Delivery `yaml:"delivery"`
	// Scale spreads one outbox over several slots and processes.
	Scale Scale `yaml:"scale" unbuilt:"*"`
	// Errors says what happens to events that fail, and how faults are retried.
	Errors Errors `yaml:"errors"`
	// Retention removes outbox rows that Kafka has acknowledged.
	Retention Retention `yaml:"retention"`
	// Reconcile compares the outbox with what Kafka holds, now and then.
	Reconcile Reconcile `yaml:"reconcile"`
	// HTTP serves the status page, metrics and health checks.
	HTTP HTTP `yaml:"http"`
	// Monitor watches what is not outboxd itself.
	Monitor Monitor `yaml:"monitor"`
	// Log is what is logged, and how.
	Log Log `yaml:"log"`
	// Tuning has a switch for each thing that makes outboxd faster or smaller.
	Tuning Tuning `yaml:"tuning"`

	// origins are where the keys that were given come from, by path.
	origins map[string]place
	file    string
	// secretFiles are the files that secrets stand in, some more than once.
	secretFiles []string
}

// Problem returns something that is wrong with the value of a key, such as
// kafka.tls.ca, with the place that the value comes from. Of a key that was not
// given it is the place of the nearest group that was.
func (c *Config) Problem(key, message string) Problem {
	p := Problem{Key: key, Message: message, File: c.file}
	for path := key; path != ""; path = path[:max(0, strings.LastIndexAny(path, ".["))] {
		if at, given := c.origins[path]; given {
			p.Line, p.Variable = at.line, at.variable
			break
		}
	}
	if p.Variable != "" {
		p.File, p.Line = "", 0
	}
	return p
}

// Default returns the configuration of an empty file. The keys without a
// default, postgres.dsn and kafka.brokers, are empty.
func Default() *Config {
	var c Config
	for k := range schema().leaves() {
		k.setDefault(k.of(&c))
	}
	return &c
}
