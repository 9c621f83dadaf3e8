package config

// Value says what a Kafka record holds.
type Value struct {
	// Format is the form of a record's value: raw is the payload's own bytes,
	// untouched; json, cloudevents and avro wrap it in an envelope. Defaults to
	// raw.
	Format string `yaml:"format" default:"raw" enum:"raw,json,cloudevents,avro"`
	// Headers is the set of record headers: plain carries the event's fields
	// under their names; cloudevents is, with raw values, CloudEvents' binary
	// mode; debezium carries the id alone; none saves their bytes, and with raw
	// values leaves consumers only the payload. All but none are followed by
	// outbox.headers and outbox.headers_column. Defaults to plain.
	Headers string `yaml:"headers" default:"plain" enum:"plain,cloudevents,debezium,none"`
	// Timestamp is the record's time: of the commit, of the timestamp column (of
	// the commit where that is NULL), or of sending (now). Defaults to commit.
	Timestamp string `yaml:"timestamp" default:"commit" enum:"commit,column,now"`
	// NullPayload is what a NULL payload becomes: null sends a record without a
	// value (a tombstone in compacted topics); error makes it a poison event.
	// Defaults to null.
	NullPayload string `yaml:"null_payload" default:"null" enum:"null,error"`
	// EmptyIsTombstone sends a payload that is empty, or only white space, as a
	// tombstone. Defaults to false.
	EmptyIsTombstone bool `yaml:"empty_is_tombstone" default:"false"`
	// Avro encodes values by a schema registry.
	Avro Avro `yaml:"avro"`
	// Schema is a JSON Schema file for each event type; a payload that does not
	// fit is a poison event. Types that are not listed pass. Defaults to none.
	Schema map[string]string `yaml:"schema"`
	// Mask removes, hashes or encrypts parts of the payload. It is the one case
	// in which payload bytes change. Defaults to none.
	Mask []Mask `yaml:"mask" unbuilt:"*"`
	// Keys are the keys that Mask uses, by name. Defaults to none.
	Keys map[string]Secret `yaml:"keys" unbuilt:"*"`
}

// Avro encodes values by a schema registry.
type Avro struct {
	// Registry is the URL of a registry with Confluent's API, without
	// credentials; one that has them by mistake is not shown. Defaults to none.
	Registry Secret `yaml:"registry" check:"registry"`
	// Username for the registry, by basic authentication. Defaults to none.
	Username string `yaml:"username"`
	// Password for the registry. Defaults to none.
	Password Secret `yaml:"password"`
	// TLS of the connection to a registry with an https URL, where the system's
	// authorities and no client certificate are not enough.
	TLS TLS `yaml:"tls"`
	// Subject is the subject's name, with {topic}, {type} and {aggregate_type}
	// replaced by the event's. Defaults to {topic}-value.
	Subject string `yaml:"subject" default:"{topic}-value" check:"subject"`
	// Payload is string to carry the payload as text in the envelope, or schema
	// to encode it by the schema that is registered for the subject. Defaults
	// to string.
	Payload string `yaml:"payload" default:"string" enum:"string,schema"`
	// Register adds the envelope's schema to the registry when it is missing.
	// Defaults to true.
	Register bool `yaml:"register" default:"true"`
}

// Mask changes one part of the payload.
type Mask struct {
	// Path is the part, as a JSONPath such as $.card.number. It has no default.
	Path string `yaml:"path" required:"yes"`
	// How is remove, hash or encrypt. It has no default.
	How string `yaml:"how" enum:"remove,hash,encrypt" required:"yes"`
	// Key names one of value.keys. Defaults to none.
	Key string `yaml:"key"`
}
