package config

import (
	"strings"
	"testing"
)

// TestProblems loads given, which takes lines 1 and 2, with text from line 3.
func TestProblems(t *testing.T) {
	tests := []struct {
		name string
		text string
		env  []string
		want []string
	}{
		// Names.
		{name: "misspelt key", text: "value: {formt: raw}",
			want: []string{"outboxd.yaml:3: value.formt: unknown key; did you mean format?"}},
		{name: "swapped letters and a dash", text: "value: {null-paylaod: error}",
			want: []string{"outboxd.yaml:3: value.null-paylaod: unknown key; did you mean null_payload?"}},
		{name: "misspelt group", text: "retnetion: {mode: off}",
			want: []string{"outboxd.yaml:3: retnetion: unknown key; did you mean retention?"}},
		{name: "key of another group", text: "compression: lz4",
			want: []string{"outboxd.yaml:3: compression: unknown key; did you mean kafka.compression?"}},
		{name: "key of several groups", text: "format: raw",
			want: []string{"outboxd.yaml:3: format: unknown key"}},
		{name: "path as a key", text: "kafka.linger: 1s",
			want: []string{"outboxd.yaml:3: kafka.linger: unknown key; did you mean linger below kafka?"}},
		{name: "strange key", text: `"a b": 1`,
			want: []string{`outboxd.yaml:3: "a b": unknown key`}},
		{name: "duplicate key", text: "log:\n  level: info\n  level: warn",
			want: []string{"outboxd.yaml:5: log.level: duplicate key; it is on line 4 already"}},
		{name: "duplicate group", text: "kafka: {linger: 1s}",
			want: []string{"outboxd.yaml:3: kafka: duplicate key; it is on line 2 already"}},

		// Types.
		{name: "number for text", text: "route: {key: 5}",
			want: []string{"outboxd.yaml:3: route.key: 5 is a whole number; want text, so put it in quotes"}},
		{name: "boolean for text", text: "http: {listen: false}",
			want: []string{"outboxd.yaml:3: http.listen: false is true or false; want text, so put it in quotes"}},
		{name: "list for text", text: "route: {key: [id]}",
			want: []string{"outboxd.yaml:3: route.key: got a list; want text"}},
		{name: "mapping for text", text: "route:\n  key:\n    id: 1",
			want: []string{"outboxd.yaml:4: route.key: got a mapping; want text, in quotes if it begins with {"}},
		{name: "text for boolean", text: "value: {empty_is_tombstone: yes}",
			want: []string{"outboxd.yaml:3: value.empty_is_tombstone: yes is text; want true or false"}},
		{name: "quoted boolean", text: "value: {empty_is_tombstone: 'true'}",
			want: []string{"outboxd.yaml:3: value.empty_is_tombstone: true is text; want true or false"}},
		{name: "text for number", text: "scale: {shards: many}",
			want: []string{"outboxd.yaml:3: scale.shards: many is text; want a whole number"}},
		{name: "fraction for number", text: "scale: {shards: 1.5}",
			want: []string{"outboxd.yaml:3: scale.shards: 1.5 is a number; want a whole number"}},
		{name: "text for group", text: "log: info",
			want: []string{"outboxd.yaml:3: log: got text; want a mapping"}},
		{name: "list for group", text: "log: [info]",
			want: []string{"outboxd.yaml:3: log: got a list; want a mapping"}},
		{name: "mapping for list", text: "route: {rules: {a: b}}",
			want: []string{"outboxd.yaml:3: route.rules: got a mapping; want a list"}},
		{name: "list for map", text: "outbox: {headers: [a]}",
			want: []string{"outboxd.yaml:3: outbox.headers: got a list; want a mapping"}},
		{name: "no value", text: "log:\n  level:\n  format: ~",
			want: []string{
				"outboxd.yaml:4: log.level: has no value; want text",
				"outboxd.yaml:5: log.format: has no value; want text",
			}},

		// Values.
		{name: "enum", text: "log: {level: loud}",
			want: []string{"outboxd.yaml:3: log.level: loud is not one of trace, debug, info, warn, error"}},
		{name: "duration without unit", text: "delivery: {confirm_interval: 5}",
			want: []string{"outboxd.yaml:3: delivery.confirm_interval: 5 is not a duration such as 100ms, 30s, 24h or 7d"}},
		{name: "duration", text: "delivery: {confirm_interval: soon}",
			want: []string{"outboxd.yaml:3: delivery.confirm_interval: soon is not a duration such as 100ms, 30s, 24h or 7d"}},
		{name: "short duration", text: "delivery: {confirm_interval: 9ms}",
			want: []string{"outboxd.yaml:3: delivery.confirm_interval: 9ms is less than 10ms"}},
		{name: "negative duration", text: "errors: {retry: {min: -1s}}",
			want: []string{"outboxd.yaml:3: errors.retry.min: -1s is less than 1ms"}},
		{name: "retry order", text: "errors:\n  retry:\n    min: 1m\n    max: 1s",
			want: []string{"outboxd.yaml:5: errors.retry.min: is more than errors.retry.max"}},
		{name: "retry order with a bad one", text: "errors: {retry: {min: x, max: 1ms}}",
			want: []string{"outboxd.yaml:3: errors.retry.min: x is not a duration such as 100ms, 30s, 24h or 7d"}},
		{name: "table", text: "outbox: {table: a.b.c}",
			want: []string{`outboxd.yaml:3: outbox.table: a.b.c is not a table name such as public.outbox or "My Schema"."outbox"`}},
		{name: "column", text: "outbox: {columns: {id: " + strings.Repeat("x", 64) + "}}",
			want: []string{"outboxd.yaml:3: outbox.columns.id: " + strings.Repeat("x", 64) + " is not a PostgreSQL name: 1 to 63 bytes"}},
		{name: "listen", text: "http: {listen: localhost}",
			want: []string{"outboxd.yaml:3: http.listen: localhost is not an address such as 127.0.0.1:9188 or :9188"}},
		{name: "listen port", text: "http: {listen: ':65536'}",
			want: []string{"outboxd.yaml:3: http.listen: :65536 is not an address such as 127.0.0.1:9188 or :9188"}},

		// Routes.
		{name: "unknown placeholder", text: "route: {topic: 'a.{typ}'}",
			want: []string{`outboxd.yaml:3: route.topic: "a.{typ}" has an unknown placeholder; there are {type}, {aggregate_type} and {column:NAME}`}},
		{name: "open brace", text: "route: {topic: 'a.{type'}",
			want: []string{`outboxd.yaml:3: route.topic: "a.{type" has a { or } without its partner`}},
		{name: "closing brace", text: "route: {topic: 'a.type}'}",
			want: []string{`outboxd.yaml:3: route.topic: "a.type}" has a { or } without its partner`}},
		{name: "topic characters", text: "route: {topic: 'a/{type}'}",
			want: []string{`outboxd.yaml:3: route.topic: "a/{type}" has characters that no Kafka topic has; there are a-z, A-Z, 0-9, '.', '_' and '-'`}},
		{name: "fixed topic", text: "route: {topic: '..'}",
			want: []string{`outboxd.yaml:3: route.topic: .. is not a Kafka topic: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'`}},
		{name: "empty topic", text: "route: {topic: ''}",
			want: []string{`outboxd.yaml:3: route.topic: "" is not a Kafka topic: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'`}},
		{name: "key", text: "route: {key: order_id}",
			want: []string{"outboxd.yaml:3: route.key: order_id is not one of none, id, aggregate_type, aggregate_id, type, timestamp, version, schema_version, correlation_id, causation_id, traceparent, {column:NAME}"}},
		{name: "columns that the route needs", text: "outbox:\n  columns:\n    type: ''\n    aggregate_id: ''\n    payload: ''",
			want: []string{
				"outboxd.yaml:5: outbox.columns.type: must not be empty; route.topic {type} needs it",
				"outboxd.yaml:6: outbox.columns.aggregate_id: must not be empty; route.key aggregate_id needs it",
				"outboxd.yaml:7: outbox.columns.payload: must not be empty",
			}},
		{name: "no source", text: "outbox: {table: ''}",
			want: []string{"outboxd.yaml:3: outbox.table: must not be empty, unless outbox.message_prefix is given"}},
		{name: "message prefix", text: `outbox: {table: "", message_prefix: "a\0"}`,
			want: []string{`outboxd.yaml:3: outbox.message_prefix: "a\x00" has a character that no text in PostgreSQL has`}},
		{name: "backfill of nothing", text: "outbox: {table: '', message_prefix: shop, backfill: existing}",
			want: []string{"outboxd.yaml:3: outbox.backfill: existing needs a table, and outbox.table is empty"}},
		{name: "backfill beside a slot made by hand", text: "outbox: {backfill: existing}", env: []string{"OUTBOXD_POSTGRES_CREATE=false"},
			want: []string{"outboxd.yaml:3: outbox.backfill: existing makes the slot itself, together with a snapshot of the table; it needs postgres.create: true"}},
		{name: "rows of the table with an origin", text: "outbox: {backfill: existing}\nreconcile: {every: 1h}", env: []string{"OUTBOXD_POSTGRES_ORIGIN=none"},
			want: []string{
				"outboxd.yaml:3: outbox.backfill: existing goes by the rows of the table, which do not say where they were written; it needs postgres.origin: any",
				"outboxd.yaml:4: reconcile.every: goes by the rows of the table, which do not say where they were written; it needs postgres.origin: any",
			}},
		{name: "field without a column", text: "route: {key: version}",
			want: []string{"outboxd.yaml:3: outbox.columns.version: must not be empty; route.key version needs it"}},

		{name: "columns that rules need", text: "outbox: {columns: {aggregate_type: ''}}\nroute:\n  rules:\n    - {aggregate_type: a, topic: b}\n    - {topic: '{aggregate_type}'}",
			want: []string{"outboxd.yaml:3: outbox.columns.aggregate_type: must not be empty; route.rules[0].aggregate_type needs it"}},
		{name: "time without a column", text: "value: {timestamp: column}",
			want: []string{"outboxd.yaml:3: outbox.columns.timestamp: must not be empty; value.timestamp column needs it"}},
		{name: "CloudEvents without an id", text: "outbox: {columns: {id: ''}}\nvalue: {format: cloudevents}",
			want: []string{"outboxd.yaml:3: outbox.columns.id: must not be empty; value.format cloudevents needs it"}},
		{name: "both modes of CloudEvents", text: "value: {format: json, headers: cloudevents}",
			want: []string{"outboxd.yaml:3: value.format: must be raw with value.headers cloudevents: that is CloudEvents' binary mode"}},
		{name: "headers that nobody gets", text: "outbox: {headers: {a: b}, headers_column: c}\nvalue: {headers: none}",
			want: []string{
				"outboxd.yaml:3: outbox.headers: has no effect with value.headers none",
				"outboxd.yaml:3: outbox.headers_column: has no effect with value.headers none",
			}},
		{name: "headers' columns", text: "outbox: {headers: {a: '', b: [c], d: e, d: f}}",
			want: []string{
				`outboxd.yaml:3: outbox.headers.a: "" is not a PostgreSQL name: 1 to 63 bytes`,
				"outboxd.yaml:3: outbox.headers.b: got a list; want text",
				"outboxd.yaml:3: outbox.headers.d: duplicate key",
			}},

		{name: "no endpoint", text: "monitor: {trace: {endpoint: 'localhost:4318'}}",
			want: []string{"outboxd.yaml:3: monitor.trace.endpoint: the value is not a URL such as http://localhost:4318"}},
		{name: "an endpoint's credentials", text: "monitor: {trace: {endpoint: 'https://u:p@o'}}",
			want: []string{"outboxd.yaml:3: monitor.trace.endpoint: the value has credentials; let a collector beside outboxd add them"}},
		{name: "an endpoint's query", text: "monitor: {trace: {endpoint: 'https://o?key=k'}}",
			want: []string{"outboxd.yaml:3: monitor.trace.endpoint: the value has more than a host and a path"}},

		// What is not built.
		{name: "retention without a table", text: "retention: {mode: delete}\noutbox: {table: '', message_prefix: m}",
			want: []string{"outboxd.yaml:3: retention.mode: must be off: outbox.table is empty"}},
		{name: "archive without a table", text: "retention: {mode: archive}",
			want: []string{"outboxd.yaml:3: retention.archive_table: must not be empty; retention.mode archive needs it"}},
		{name: "an archive in vain", text: "retention: {archive_table: a.b}",
			want: []string{"outboxd.yaml:3: retention.archive_table: has no effect without retention.mode: archive"}},
		{name: "archive into itself", text: "retention: {mode: archive, archive_table: outbox}",
			want: []string{"outboxd.yaml:3: retention.archive_table: must not be outbox.table"}},
		{name: "retention's bounds", text: "retention: {mode: delete, batch: 0, interval: 1ms, keep: -1s}",
			want: []string{
				"outboxd.yaml:3: retention.batch: 0 is less than 1",
				"outboxd.yaml:3: retention.interval: 1ms is less than 1s",
				"outboxd.yaml:3: retention.keep: -1s is less than 0s",
			}},
		{name: "group not built", text: "scale: {shards: 4, group: g}",
			want: []string{
				"outboxd.yaml:3: scale.shards: 4 is not built yet; this version has 1",
				`outboxd.yaml:3: scale.group: g is not built yet; this version has ""`,
			}},
		{name: "mask without a key", text: "value:\n  mask:\n    - {path: $.a, how: hash}",
			want: []string{"outboxd.yaml:4: value.mask[0].key: must not be empty; how: hash needs it"}},
		{name: "mask with a key that is not there", text: "value:\n  mask:\n    - {path: $.a, how: encrypt, key: b}\n  keys: {a: 0123456789abcdef}",
			want: []string{"outboxd.yaml:5: value.mask[0].key: b is none of value.keys"}},
		{name: "mask with a key in vain", text: "value:\n  mask:\n    - {path: $.a, how: remove, key: a}\n  keys: {a: 0123456789abcdef}",
			want: []string{"outboxd.yaml:5: value.mask[0].key: has no effect with how: remove"}},
		{name: "keys without mask", text: "value: {keys: {a: b}}",
			want: []string{"outboxd.yaml:3: value.keys.a: has no effect without value.mask"}},

		// Avro and JSON Schema.
		{name: "Avro without a registry", text: "value: {format: avro}",
			want: []string{"outboxd.yaml:3: value.avro.registry: must not be empty; value.format avro needs it"}},
		{name: "registry that nobody asks", text: "value: {avro: {registry: 'http://r'}}",
			want: []string{"outboxd.yaml:3: value.avro.registry: has no effect without value.format: avro"}},
		{name: "registry", text: "value: {format: avro, avro: {registry: 'registry:8081'}}",
			want: []string{"outboxd.yaml:3: value.avro.registry: the value is not a URL such as https://registry:8081"}},
		{name: "registry with a query", text: "value: {format: avro, avro: {registry: 'http://r/?a=b'}}",
			want: []string{"outboxd.yaml:3: value.avro.registry: the value has more than a host and a path"}},
		{name: "registry with credentials", text: "value: {format: avro, avro: {registry: 'http://app:hush@r'}}",
			want: []string{"outboxd.yaml:3: value.avro.registry: the value has credentials; give them in value.avro.username and value.avro.password"}},
		{name: "registry's user alone", text: "value: {format: avro, avro: {registry: 'http://r', username: u}}",
			want: []string{"outboxd.yaml:3: value.avro.password: must not be empty; value.avro.username needs it"}},
		{name: "registry's password alone", text: "value: {format: avro, avro: {registry: 'http://r', password: hush}}",
			want: []string{"outboxd.yaml:3: value.avro.username: must not be empty; value.avro.password needs it"}},
		{name: "registry's user and token", text: "value: {format: avro, avro: {registry: 'http://r', username: u, password: p, token: hush}}",
			want: []string{"outboxd.yaml:3: value.avro.token: must be empty with value.avro.username: a request has one or the other"}},
		{name: "registry's TLS", text: "value: {format: avro, avro: {registry: 'http://r', tls: {enabled: true}}}",
			want: []string{"outboxd.yaml:3: value.avro.registry: must begin with https:; value.avro.tls.enabled needs it"}},
		{name: "subject", text: "value: {avro: {subject: '{topic}-{record}'}}",
			want: []string{`outboxd.yaml:3: value.avro.subject: "{topic}-{record}" has an unknown placeholder; there are {topic}, {type} and {aggregate_type}`}},
		{name: "empty subject", text: "value: {avro: {subject: ''}}",
			want: []string{`outboxd.yaml:3: value.avro.subject: "" must not be empty`}},
		{name: "columns that the subject and schemas need", text: "outbox: {columns: {aggregate_type: '', type: ''}}\nroute: {topic: t}\nvalue: {format: avro, avro: {registry: 'http://r', subject: '{aggregate_type}'}, schema: {a: b}}",
			want: []string{
				"outboxd.yaml:3: outbox.columns.aggregate_type: must not be empty; value.avro.subject {aggregate_type} needs it",
				"outboxd.yaml:3: outbox.columns.type: must not be empty; value.schema needs it",
			}},

		// Relations.
		{name: "exactly once with a file", text: "delivery: {guarantee: exactly_once, store: file, file: p}",
			want: []string{"outboxd.yaml:3: delivery.store: must not be file with delivery.guarantee exactly_once: the position is committed in the same Kafka transaction as its events"}},
		{name: "file store", text: "delivery: {store: file}",
			want: []string{"outboxd.yaml:3: delivery.file: must not be empty; delivery.store file needs it"}},

		// Substitution.
		{name: "unset variable", text: "log: {level: '${NONE}'}",
			want: []string{"outboxd.yaml:3: log.level: the environment variable NONE is not set"}},
		{name: "absent file", text: "log: {level: '${file:/none}'}",
			want: []string{"outboxd.yaml:3: log.level: ${file:/none}: file does not exist"}},
		{name: "not a name", text: "log: {level: '${A:-b}'}",
			want: []string{"outboxd.yaml:3: log.level: ${...} holds neither a variable's name nor file: and a path; write $${ for a literal ${"}},
		{name: "open reference", text: "log: {level: '${A'}",
			want: []string{"outboxd.yaml:3: log.level: ${ without a closing }; write $${ for a literal ${"}},
		{name: "bad value put in", text: "log: {level: 'x${A}'}", env: []string{"A=b"},
			want: []string{"outboxd.yaml:3: log.level: the value is not one of trace, debug, info, warn, error"}},
		{name: "number put in", text: "scale: {shards: '${A}'}", env: []string{"A=b"},
			want: []string{"outboxd.yaml:3: scale.shards: the value is not a whole number"}},

		// Variables.
		{name: "bad variables", env: []string{"OUTBOXD_LOG_LEVEL=loud", "OUTBOXD_KAFKA_LINGER=5", "OUTBOXD_SCALE_SHARDS=2"},
			want: []string{
				"OUTBOXD_KAFKA_LINGER: kafka.linger: 5 is not a duration such as 100ms, 30s, 24h or 7d",
				"OUTBOXD_LOG_LEVEL: log.level: loud is not one of trace, debug, info, warn, error",
				"OUTBOXD_SCALE_SHARDS: scale.shards: 2 is not built yet; this version has 1",
			}},
		{name: "unknown variable", env: []string{"OUTBOXD_KAFKA_COMPRESION=lz4"},
			want: []string{"OUTBOXD_KAFKA_COMPRESION: unknown variable; did you mean OUTBOXD_KAFKA_COMPRESSION?"}},
		{name: "somebody else's variable", env: []string{"OUTBOXD_X=1"}},
		{name: "variable of a list", env: []string{"OUTBOXD_ROUTE_RULES=[]"},
			want: []string{"OUTBOXD_ROUTE_RULES: route.rules: got text; want a list, which only the file can hold"}},
		{name: "variables of a service", env: []string{"OUTBOXD_SERVICE_HOST=x", "OUTBOXD_SERVICE_PORT=1", "OUTBOXD_SERVICE_PORT_HTTP=1",
			"OUTBOXD_PORT=tcp://x", "OUTBOXD_PORT_9188_TCP_ADDR=x", "OUTBOXD_METRICS_PORT_9188_TCP=x", "OUTBOXD_CONFIG=x", "OUTBOXD_CACHE=x"}},
		{name: "empty brokers", env: []string{"OUTBOXD_KAFKA_BROKERS= "},
			want: []string{"OUTBOXD_KAFKA_BROKERS: kafka.brokers: must not be empty"}},
		{name: "bad broker", env: []string{"OUTBOXD_KAFKA_BROKERS=a,kafka://b"},
			want: []string{"OUTBOXD_KAFKA_BROKERS: kafka.brokers: kafka://b is not host:port"}},
		{name: "relation by variables", env: []string{"OUTBOXD_DELIVERY_STORE=file"},
			want: []string{"OUTBOXD_DELIVERY_STORE: delivery.file: must not be empty; delivery.store file needs it"}},

		// YAML that is not for a configuration.
		{name: "alias", text: "log: {level: *x}",
			want: []string{"outboxd.yaml:3:14: a YAML alias without an anchor before it; quote a value that begins with *"}},
		{name: "alias of itself", text: "log: &x\n  level: *x",
			want: []string{"outboxd.yaml:4: log.level: a YAML alias of a value that it is a part of"}},
		{name: "tag", text: "log: {level: !!str info}",
			want: []string{"outboxd.yaml:3: log.level: YAML tags are not supported; quote a value that begins with !"}},
		{name: "merge", text: "log: &x {level: info}\nhttp:\n  <<: *x",
			want: []string{`outboxd.yaml:5: http."<<": YAML merge keys are not supported; write the keys out`}},
		{name: "documents", text: "---\nlog: {level: info}",
			want: []string{"outboxd.yaml:4: a second YAML document; the configuration is one document"}},
		{name: "syntax", text: "log: {level: [\n",
			want: []string{"outboxd.yaml:4:1: not valid YAML: while parsing a flow node: did not find expected node content"}},
		{name: "tab", text: "log:\n\tlevel: info",
			want: []string{"outboxd.yaml:4:1: not valid YAML: while scanning for the next token: found character that cannot start any token"}},
		{name: "syntax, and a variable", text: "log: [", env: []string{"OUTBOXD_LOG_LEVEL=loud"},
			want: []string{
				"outboxd.yaml:4:1: not valid YAML: while parsing a flow node: did not find expected node content",
				"OUTBOXD_LOG_LEVEL: log.level: loud is not one of trace, debug, info, warn, error",
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := loadText(given+test.text, test.env...)
			wantError(t, err, strings.Join(test.want, "\n"))
		})
	}
}

// TestProblemsOfGivenGroups has those that need postgres or kafka themselves.
func TestProblemsOfGivenGroups(t *testing.T) {
	tests := []struct {
		name            string
		postgres, kafka string
		want            []string
	}{
		{name: "missing groups",
			want: []string{
				"outboxd.yaml: postgres.dsn: missing; give it here or as OUTBOXD_POSTGRES_DSN",
				"outboxd.yaml: kafka.brokers: missing; give it here or as OUTBOXD_KAFKA_BROKERS",
			}},
		{name: "missing keys", postgres: "slot: a", kafka: "linger: 0s",
			want: []string{
				"outboxd.yaml:1: postgres.dsn: missing; give it here or as OUTBOXD_POSTGRES_DSN",
				"outboxd.yaml:2: kafka.brokers: missing; give it here or as OUTBOXD_KAFKA_BROKERS",
			}},
		{name: "empty keys", postgres: "dsn: ''", kafka: "brokers: []",
			want: []string{
				"outboxd.yaml:1: postgres.dsn: must not be empty",
				"outboxd.yaml:2: kafka.brokers: must not be empty",
			}},
		{name: "text for brokers", postgres: "dsn: host=a", kafka: "brokers: 'a,b'",
			want: []string{`outboxd.yaml:2: kafka.brokers: "a,b" is text; want a list`}},
		{name: "brokers", postgres: "dsn: host=a", kafka: "brokers: ['a:b', 5, '', 'a:0', 'a b', '::1', [a]]",
			want: []string{
				"outboxd.yaml:2: kafka.brokers[0]: a:b is not host:port",
				"outboxd.yaml:2: kafka.brokers[1]: 5 is a whole number; want text, so put it in quotes",
				`outboxd.yaml:2: kafka.brokers[2]: "" is not host:port`,
				"outboxd.yaml:2: kafka.brokers[3]: a:0 is not host:port",
				`outboxd.yaml:2: kafka.brokers[4]: "a b" is not host:port`,
				"outboxd.yaml:2: kafka.brokers[5]: ::1 is not host:port",
				"outboxd.yaml:2: kafka.brokers[6]: got a list; want text",
			}},
		{name: "slot and publication", postgres: "dsn: host=a, slot: My-Slot, publication: ''", kafka: "brokers: [a]",
			want: []string{
				"outboxd.yaml:1: postgres.slot: My-Slot is not a slot name: 1 to 63 of a-z, 0-9 and _",
				`outboxd.yaml:1: postgres.publication: "" is not a PostgreSQL name: 1 to 63 bytes`,
			}},
		{name: "polling", postgres: "dsn: host=a, mode: polling", kafka: "brokers: [a]",
			want: []string{"outboxd.yaml:1: postgres.mode: polling is not built yet; this version has wal"}},
		{name: "sizes", postgres: "dsn: host=a", kafka: "brokers: [a], max_buffered: 64XB, linger: -1s",
			want: []string{
				"outboxd.yaml:2: kafka.max_buffered: 64XB is not a size such as 64MiB, 500KB or 1000000",
				"outboxd.yaml:2: kafka.linger: -1s is less than 0s",
			}},
		{name: "empty buffer", postgres: "dsn: host=a", kafka: "brokers: [a], max_buffered: 0",
			want: []string{"outboxd.yaml:2: kafka.max_buffered: 0 is less than 1MiB"}},
		{name: "word not built", postgres: "dsn: host=a, mode: polling", kafka: "brokers: [a]",
			want: []string{"outboxd.yaml:1: postgres.mode: polling is not built yet; this version has wal"}},
		{name: "mechanism", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: GSSAPI}",
			want: []string{`outboxd.yaml:2: kafka.sasl.mechanism: GSSAPI is not one of "", PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM`}},
		{name: "no token", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: OAUTHBEARER}",
			want: []string{"outboxd.yaml:2: kafka.sasl.token_url: must not be empty, unless kafka.sasl.token is given"}},
		{name: "a token and a client", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: OAUTHBEARER, token: t, username: u, password: p}",
			want: []string{"outboxd.yaml:2: kafka.sasl.username: has no effect without kafka.sasl.token_url",
				"outboxd.yaml:2: kafka.sasl.password: has no effect without kafka.sasl.token_url"}},
		{name: "two sources of tokens", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: OAUTHBEARER, token: t, token_url: \"https://a\", username: u, password: p}",
			want: []string{"outboxd.yaml:2: kafka.sasl.token: must be empty with kafka.sasl.token_url: it is either this token, or one from there"}},
		{name: "token URL", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: OAUTHBEARER, token_url: idp.example.com, username: u}",
			want: []string{"outboxd.yaml:2: kafka.sasl.password: must not be empty; kafka.sasl.mechanism OAUTHBEARER needs it",
				"outboxd.yaml:2: kafka.sasl.token_url: is no http(s) URL"}},
		{name: "a token with another mechanism", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: PLAIN, username: u, password: p, token: t}",
			want: []string{"outboxd.yaml:2: kafka.sasl.token: has no effect without kafka.sasl.mechanism OAUTHBEARER"}},
		{name: "half a key of AWS", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: AWS_MSK_IAM, username: AKIA}",
			want: []string{"outboxd.yaml:2: kafka.sasl.password: must not be empty; kafka.sasl.username needs it"}},
		{name: "no credentials", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: PLAIN, username: u}",
			want: []string{"outboxd.yaml:2: kafka.sasl.password: must not be empty; kafka.sasl.mechanism PLAIN needs it"}},
		{name: "no mechanism", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {username: u, password: p}",
			want: []string{
				"outboxd.yaml:2: kafka.sasl.username: has no effect without kafka.sasl.mechanism",
				"outboxd.yaml:2: kafka.sasl.password: has no effect without kafka.sasl.mechanism",
			}},
		{name: "no mechanism on purpose", postgres: "dsn: host=a", kafka: "brokers: [a], sasl: {mechanism: '', username: u}"},
		{name: "certificate without key", postgres: "dsn: host=a", kafka: "brokers: [a], tls: {enabled: true, cert: c}",
			want: []string{"outboxd.yaml:2: kafka.tls.key: must not be empty; kafka.tls.cert needs it"}},
		{name: "tls not enabled", postgres: "dsn: host=a", kafka: "brokers: [a], tls: {ca: c}",
			want: []string{"outboxd.yaml:2: kafka.tls.ca: has no effect without kafka.tls.enabled: true"}},
		{name: "tls disabled on purpose", postgres: "dsn: host=a", kafka: "brokers: [a], tls: {enabled: false, ca: c}"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text := ""
			if test.postgres != "" {
				text = "postgres: {" + test.postgres + "}\nkafka: {" + test.kafka + "}\n"
			}
			_, err := loadText(text)
			wantError(t, err, strings.Join(test.want, "\n"))
		})
	}
}

// The same configuration has the same problems in the same order, each time.
func TestProblemsDoNotChange(t *testing.T) {
	const text = given + "outbox: {columns: {id: ''}}\nvalue: {format: cloudevents, headers: cloudevents}"
	const want = "outboxd.yaml:3: outbox.columns.id: must not be empty; value.format cloudevents needs it\n" +
		"outboxd.yaml:4: value.format: must be raw with value.headers cloudevents: that is CloudEvents' binary mode"
	for range 50 {
		_, err := loadText(text)
		wantError(t, err, want)
	}
}
