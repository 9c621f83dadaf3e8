package config

// Value says what a Kafka record holds.
type Value struct {
	// Format is the form of a record's value: raw is the payload's own bytes,
	// untouched; json, cloudevents and avro wrap it in an envelope; debezium is
	// what Debezium's outbox event router writes, with keys and headers as Kafka
	// Connect's converters print them. Defaults to raw.
	Format string `yaml:"format" default:"raw" enum:"raw,json,cloudevents,avro,debezium"`
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
	// Debezium says which of Debezium's forms, for format debezium.
	Debezium Debezium `yaml:"debezium"`
	// Avro encodes values by a schema registry.
	Avro Avro `yaml:"avro"`
	// Schema is a JSON Schema file for each event type; a payload that does not
	// match is a poison event. Types that are not listed pass. Defaults to none.
	Schema map[string]string `yaml:"schema"`
	// Mask removes, hashes or encrypts parts of the payload. It is the one case
	// in which payload bytes change. Defaults to none.
	Mask []Mask `yaml:"mask"`
	// Keys are the keys that Mask uses, by name: ID:BASE64 to encrypt with, any other
	// text of 16 bytes or more to hash with. Defaults to none.
	Keys map[string]Secret `yaml:"keys"`
}

// Debezium is the form of records that Debezium's outbox event router writes, byte
// for byte.
type Debezium struct {
	// Key is how the key is written: string as Kafka Connect's StringConverter,
	// json as its JsonConverter without schemas, json_schema with them. Defaults to
	// string.
	Key string `yaml:"key" default:"string" enum:"string,json,json_schema"`
	// Value is how the value is written: like Key, or bytes for a bytea payload as
	// the binary converters leave it. Defaults to string.
	Value string `yaml:"value" default:"string" enum:"string,json,json_schema,bytes"`
	// Headers is how headers are written, with value.headers debezium: string as
	// Kafka Connect's SimpleHeaderConverter prints them, or like Key. Defaults to
	// string.
	Headers string `yaml:"headers" default:"string" enum:"string,json,json_schema"`
	// Context is the connector's topic.prefix for the headers __debezium.context.*,
	// which Debezium writes unless extended.headers.enabled is false. Defaults to
	// none: they are not written.
	Context string `yaml:"context"`
	// Envelope puts columns beside the payload, under these names; then the value
	// is an object with payload and them. Defaults to none.
	Envelope Pairs `yaml:"envelope"`
	// ExpandJSON writes a JSON payload as JSON, re-encoded as Debezium does:
	// decimals lose their trailing zeros, and members that are null or an empty
	// array are left out. It needs value json. Defaults to false.
	ExpandJSON bool `yaml:"expand_json" default:"false"`
	// KeepNulls keeps members that are null. Defaults to false.
	KeepNulls bool `yaml:"keep_nulls" default:"false"`
	// KeepEmptyArrays keeps members that are an empty array. Defaults to false.
	KeepEmptyArrays bool `yaml:"keep_empty_arrays" default:"false"`
	// TopicPrefix begins the name of the envelope's schema, for json_schema.
	// Defaults to none.
	TopicPrefix string `yaml:"topic_prefix"`
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
	// Token for the registry, as a bearer token in place of Username and Password.
	// Whoever issues it replaces it: ${file:} is read again at each request. Defaults
	// to none.
	Token Secret `yaml:"token"`
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
	// Path is the part, as a JSONPath (RFC 9535) such as $.card.number. It has no default.
	Path string `yaml:"path" required:"yes"`
	// How is remove, hash or encrypt. It has no default.
	How string `yaml:"how" enum:"remove,hash,encrypt" required:"yes"`
	// Key names one of value.keys. Defaults to none.
	Key string `yaml:"key"`
}
