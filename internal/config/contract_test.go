package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// contract are the keys that users are promised, with a value other than the
// default. Each is taken, or refused by name as not built yet; none is unknown, and
// none is ignored.
const contract = `
postgres.dsn: host=db
postgres.slot: s
postgres.publication: p
postgres.create: false
postgres.mode: polling
postgres.failover: off
postgres.origin: none
outbox.table: a.b
outbox.columns.id: c
outbox.columns.aggregate_type: c
outbox.columns.aggregate_id: c
outbox.columns.type: c
outbox.columns.payload: c
outbox.columns.timestamp: c
outbox.columns.version: c
outbox.columns.schema_version: c
outbox.columns.correlation_id: c
outbox.columns.causation_id: c
outbox.columns.traceparent: c
outbox.headers: {tenant: c}
outbox.headers_column: c
outbox.message_prefix: m
outbox.backfill: existing
outbox.backfill_timeout: 1h
route.topic: t
route.rules: [{type: "Order*", topic: orders}]
route.key: none
route.partition: c
route.forbidden: [internal-*]
route.create_topics.enabled: true
route.create_topics.partitions: 7
route.create_topics.replication_factor: 3
route.create_topics.config: {retention.ms: "1"}
value.format: json
value.headers: none
value.timestamp: now
value.null_payload: error
value.empty_is_tombstone: true
value.avro.registry: http://r
value.avro.subject: "{type}"
value.avro.payload: schema
value.avro.register: false
value.schema: {a: a.json}
value.mask: [{path: $.a, how: hash, key: k}]
value.keys: {k: v}
kafka.brokers: [other:1]
kafka.client_id: c
kafka.compression: zstd
kafka.linger: 5ms
kafka.max_buffered: 65MiB
kafka.tls.enabled: true
kafka.tls.ca: f
kafka.tls.cert: f
kafka.tls.key: f
kafka.tls.server_name: n
kafka.sasl.mechanism: OAUTHBEARER
kafka.sasl.username: u
kafka.sasl.password: p
delivery.guarantee: exactly_once
delivery.transactional_id: i
delivery.store: kafka
delivery.file: f
delivery.topic: t
delivery.confirm_interval: 2s
delivery.rewind: 1h
scale.shards: 2
scale.group: g
errors.poison: dead_letter
errors.dead_letter_topic: t
errors.dead_letter_headers: connect
errors.max_dead_letters.count: 1
errors.max_dead_letters.within: 1m
errors.retry.min: 1s
errors.retry.max: 40s
retention.mode: archive
retention.keep: 1h
retention.archive_table: a.b
retention.batch: 1
retention.interval: 2m
reconcile.every: 1h
reconcile.late: 2m
http.listen: ":1"
http.token: t
http.tls.cert: f
http.tls.key: f
monitor.consumer_groups: [g]
monitor.trace.endpoint: http://o
log.level: warn
log.format: json
`

func TestKeysOfTheContract(t *testing.T) {
	listed := map[string]bool{}
	for line := range strings.Lines(strings.TrimSpace(contract)) {
		path, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		listed[path] = true
		// Each alone, so that what one key needs does not hide another.
		parts := strings.Split(path, ".")
		text, closing := "", ""
		for _, part := range parts[:len(parts)-1] {
			text, closing = text+part+": {", closing+"}"
		}
		text += parts[len(parts)-1] + ": " + value + closing
		config, err := loadText(text)
		message := ""
		if err != nil {
			message = err.Error()
		}
		var k *key
		for leaf := range schema().leaves() {
			if leaf.path == path {
				k = leaf
			}
		}
		switch {
		case k == nil || strings.Contains(message, "unknown key"):
			t.Errorf("%s: not a key: %s", path, message)
		case strings.Contains(message, path+": ") && strings.Contains(message, "not built yet"):
			if !k.isUnbuilt() && k.unbuilt == nil {
				t.Errorf("%s: %s", path, message)
			}
		case k.isUnbuilt() || k.unbuilt != nil && k.enum != nil && slices.Contains(k.unbuilt, value):
			t.Errorf("%s: %s is not built, and was taken: %s", path, value, message)
		case config != nil && reflect.DeepEqual(k.of(config).Interface(), k.of(Default()).Interface()):
			t.Errorf("%s: %s changes nothing", path, value)
		}
	}
	for k := range schema().leaves() {
		// Beyond the contract: what a take-over from Debezium needs, and switches for
		// who suspects an optimisation.
		if !listed[k.path] && !strings.HasPrefix(k.path, "tuning.") && !strings.HasPrefix(k.path, "value.debezium.") && !strings.HasPrefix(k.path, "route.regex.") &&
			!strings.HasPrefix(k.path, "value.avro.") && !strings.HasPrefix(k.path, "kafka.sasl.") {
			t.Errorf("%s is a key, and the contract does not have it", k.path)
		}
	}
}
