package debezium

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
)

// Profile is a published configuration of the connector. README.md says why
// each option is what it is.
type Profile struct {
	// Name is the file's name without .json.
	Name string

	// Connector are the options as they are sent to Kafka Connect; those that
	// say where the servers are and what the table is are added.
	Connector map[string]string

	// JVM are the options of the worker's Java beside its heap.
	JVM []string
}

//go:embed default.json tuned-throughput.json tuned-latency.json
var profiles embed.FS

// kafkaJVM is what Kafka's own start script sets.
var kafkaJVM = []string{
	"-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
	"-XX:+ExplicitGCInvokesConcurrent",
}

// parallelJVM spends less processor time than the collector with short pauses,
// which on few cores the connector's own threads need.
var parallelJVM = []string{"-XX:+UseParallelGC"}

// Default is Debezium out of the box: the router added, nothing tuned.
func Default() Profile { return load("default", kafkaJVM) }

// TunedThroughput drains a backlog fast.
func TunedThroughput() Profile { return load("tuned-throughput", parallelJVM) }

// TunedLatency brings an event from commit to consumer quickly.
func TunedLatency() Profile { return load("tuned-latency", kafkaJVM) }

// load reads a file that is part of the program, so it is whole.
func load(name string, jvm []string) Profile {
	text, err := profiles.ReadFile(name + ".json")
	if err != nil {
		panic(err)
	}
	p := Profile{Name: name, JVM: jvm}
	if err := json.Unmarshal(text, &p.Connector); err != nil {
		panic(fmt.Sprintf("%s.json: %v", name, err))
	}
	return p
}

// With returns a copy with options set or, where the value is empty, removed.
func (p Profile) With(options map[string]string) Profile {
	p.Connector = maps.Clone(p.Connector)
	for name, value := range options {
		if value == "" {
			delete(p.Connector, name)
		} else {
			p.Connector[name] = value
		}
	}
	return p
}
