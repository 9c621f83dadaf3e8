package debezium

import (
	"maps"
	"slices"
	"strings"
)

// placement is one of table.fields.additional.placement.
type placement struct{ column, where, alias string }

func (im *importer) placements() (all []placement) {
	const option = "table.fields.additional.placement"
	for _, field := range list(im.smt(option, "")) {
		parts := strings.Split(field, ":")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		if len(parts) == 2 {
			parts = append(parts, parts[0])
		}
		if len(parts) != 3 || parts[0] == "" || parts[2] == "" || !slices.Contains([]string{"header", "envelope", "partition"}, strings.ToLower(parts[1])) {
			im.refuse(im.router+option, "%q is not COLUMN:header, COLUMN:envelope or COLUMN:partition, with an alias or not", clip(field))
			continue
		}
		all = append(all, placement{parts[0], strings.ToLower(parts[1]), parts[2]})
	}
	return all
}

// outbox writes the groups outbox, route and value: what the router and the
// converters do.
func (im *importer) outbox() {
	placements := im.placements()
	of := func(where string) (found []placement) {
		for _, p := range placements {
			if p.where == where {
				found = append(found, p)
			}
		}
		return found
	}
	key, routeBy := im.smt("table.field.event.key", "aggregateid"), im.smt("route.by.field", "aggregatetype")
	timestamp, version := im.smt("table.field.event.timestamp", ""), im.smt("table.field.event.schema.version", "")
	typ := im.smt("table.field.event.type", "")

	im.out.group(0, "outbox")
	im.out.text(1, "table", im.table.String())
	im.out.group(1, "columns")
	im.out.text(2, "id", im.smt("table.field.event.id", "id"))
	im.out.text(2, "aggregate_type", routeBy, "route.by.field")
	im.out.text(2, "aggregate_id", key, "table.field.event.key")
	im.out.text(2, "type", typ, "Debezium's router makes no use of it; name it to use it in route.rules.")
	im.out.text(2, "payload", im.smt("table.field.event.payload", "payload"))
	if timestamp != "" {
		im.out.text(2, "timestamp", timestamp)
	}
	if version != "" {
		im.out.text(2, "schema_version", version)
	}
	if headers := of("header"); len(headers) > 0 {
		im.out.group(1, "headers")
		im.columns(2, headers)
	}
	im.missing()
	im.operations()

	im.route(routeBy)
	switch partitions := of("partition"); len(partitions) {
	case 0:
	case 1:
		im.out.text(1, "partition", partitions[0].column)
	default:
		im.refuse(im.router+"table.fields.additional.placement", "two columns name the partition")
	}
	im.topics()
	im.value(of("envelope"), timestamp)
}

// columns writes a mapping from aliases to columns.
func (im *importer) columns(depth int, placements []placement) {
	seen := make(map[string]bool)
	for _, p := range placements {
		if seen[p.alias] {
			im.refuse(im.router+"table.fields.additional.placement", "the alias %s stands twice", clip(p.alias))
			continue
		}
		seen[p.alias] = true
		im.out.text(depth, p.alias, p.column)
	}
}

// missing reads what is done when an additional column does not exist, in the two
// spellings that it has.
func (im *importer) missing() {
	behaviour := im.router + "table.field.additional.missing"
	boolean := im.router + "table.fields.additional.error.on.missing"
	ignore := im.given(behaviour) && im.choice(behaviour, "error", "error", "ignore") == "ignore"
	ignore = im.given(boolean) && !im.flag(boolean, true) || ignore
	if ignore {
		name := behaviour
		if !im.given(behaviour) {
			name = boolean
		}
		im.refuse(name, "cannot be honoured: outboxd refuses to start when a column that the configuration names does not exist. "+
			"Leave out of table.fields.additional.placement what the table does not have, and this option")
	}
}

func (im *importer) operations() {
	if im.choice(im.router+"table.op.invalid.behavior", "warn", "warn", "error", "fatal", "skip-and-warn", "skip-and-error") == "fatal" {
		im.refuse(im.router+"table.op.invalid.behavior", "fatal cannot be honoured: updates of the outbox are not looked at, so they never end the run")
	}
	im.note("Updates of the outbox are not looked at; Debezium logs them (table.op.invalid.behavior).")
}

// route writes the topic.
func (im *importer) route(routeBy string) {
	im.out.group(0, "route")
	pattern := im.smt("route.topic.regex", "(?<routedByValue>.*)")
	replacement := im.smt("route.topic.replacement", "outbox.event.${routedByValue}")
	if topic, ok := template(pattern, replacement, "{aggregate_type}"); ok {
		im.out.text(1, "topic", topic)
	} else {
		im.regex(routeBy, pattern, replacement)
	}
	im.out.text(1, "key", "aggregate_id")
}

func (im *importer) regex(routeBy, pattern, replacement string) {
	if err := goRegex(pattern); err != nil {
		im.refuse(im.router+"route.topic.regex", "%s", err)
		return
	}
	replacement, err := goReplacement(replacement, pattern)
	if err != nil {
		im.refuse(im.router+"route.topic.replacement", "%s", err)
		return
	}
	im.out.group(1, "regex")
	im.out.text(2, "column", routeBy)
	im.out.text(2, "match", literal(pattern))
	im.out.text(2, "replace", literal(replacement))
}

// topics writes what Connect creates topics with.
func (im *importer) topics() {
	const prefix = "topic.creation.default."
	enabled := im.flag("topic.creation.enable", true)
	partitions, replicas := im.get(prefix+"partitions", ""), im.get(prefix+"replication.factor", "")
	im.get(prefix+"include", "")
	im.get(prefix+"exclude", "")
	if partitions == "" && replicas == "" || !enabled {
		im.seeAll(prefix)
		return
	}
	im.out.group(1, "create_topics")
	im.out.set(2, "enabled", "true")
	for key, v := range map[string]string{"partitions": partitions, "replication.factor": replicas} {
		if v == "" || strings.Trim(v, "0123456789-") != "" {
			im.refuse(prefix+key, "%q is not a number", clip(v))
		}
	}
	if partitions == "-1" {
		im.refuse(prefix+"partitions", "-1 cannot be honoured: give the number")
	}
	im.out.set(2, "partitions", partitions)
	im.out.set(2, "replication_factor", replicas)
	begun := false
	for _, name := range slices.Sorted(maps.Keys(im.values)) {
		config, ok := strings.CutPrefix(name, prefix)
		if !ok || im.seen[name] {
			continue
		}
		if !begun {
			im.out.group(2, "config")
			begun = true
		}
		im.out.set(3, config, quoted(im.get(name, "")))
	}
}

func quoted(s string) string {
	if q := scalar(s); strings.HasPrefix(q, `"`) {
		return q
	}
	return `"` + s + `"`
}

// converter reads one of Connect's converters.
func (im *importer) converter(side string) string {
	class := im.get(side+".converter", "")
	if im.server {
		// debezium.format.key and its like.
		option := "debezium.format." + side
		switch format := strings.ToLower(im.get(option, "json")); format {
		case "json":
			class = "org.apache.kafka.connect.json.JsonConverter"
		case "simplestring":
			class = "org.apache.kafka.connect.storage.StringConverter"
		case "binary":
			class = "io.debezium.converters.BinaryDataConverter"
		default:
			im.refuse(option, "%s cannot be honoured; there are json, simplestring and, for values, binary", clip(format))
			im.seeAll(side + ".converter.")
			return "string"
		}
	}
	if class == "" && side == "header" {
		class = "org.apache.kafka.connect.storage.SimpleHeaderConverter" // the worker's default, which hardly anyone changes
	}
	options := side + ".converter."
	switch class {
	case "":
		im.refuse(side+".converter", "missing, so the worker's own decides, which this file does not show: write it here as the worker has it "+
			"(Kafka's connect-distributed.properties has org.apache.kafka.connect.json.JsonConverter)")
	case "org.apache.kafka.connect.storage.StringConverter", "org.apache.kafka.connect.storage.SimpleHeaderConverter":
		if class == "org.apache.kafka.connect.storage.SimpleHeaderConverter" && side != "header" {
			im.refuse(side+".converter", "%s is for headers", class)
		}
		if e := strings.ToUpper(im.get(options+"encoding", "UTF-8")); e != "UTF-8" && e != "UTF8" {
			im.refuse(options+"encoding", "only UTF-8 can be honoured")
		}
		im.seen[options+"schemas.enable"] = true // it has none
		return "string"
	case "org.apache.kafka.connect.json.JsonConverter":
		im.get(options+"schemas.cache.size", "")
		im.get(options+"decimal.format", "") // no numeric is written
		if !im.flag(options+"replace.null.with.default", true) {
			im.seen[options+"replace.null.with.default"] = true
		} else {
			im.note("%s: a NULL in a column with a default is null; Connect's JsonConverter writes the default in its place.", im.spelling(side+".converter"))
		}
		if im.get(options+"schema.content", "") != "" {
			im.refuse(options+"schema.content", "it is for sinks")
		}
		if im.flag(options+"schemas.enable", true) {
			return "json_schema"
		}
		return "json"
	case "org.apache.kafka.connect.converters.ByteArrayConverter", "io.debezium.converters.ByteArrayConverter", "io.debezium.converters.BinaryDataConverter", "io.debezium.converters.ByteBufferConverter":
		if side != "value" {
			im.refuse(side+".converter", "%s cannot be honoured: a %s is never bytea", class, side)
		}
		return "bytes"
	default:
		im.refuse(side+".converter", "%s cannot be honoured; there are StringConverter, JsonConverter, and for a bytea payload the binary ones", clip(class))
		im.seeAll(options)
	}
	return "string"
}

// delegate reads the converter that a binary one hands other values to.
func (im *importer) delegate(needed bool) string {
	const option = "value.converter.delegate.converter.type"
	class := im.get(option, "")
	switch {
	case !needed:
		im.seeAll(option)
		if class != "" {
			im.ignored = append(im.ignored, im.spelling(option)+": the payload is bytea, and there are no heartbeats")
		}
		return "bytes"
	case class == "org.apache.kafka.connect.json.JsonConverter":
		im.seen[option+".schemas.enable"] = true
		if im.flag(option+".schemas.enable", true) {
			return "json_schema"
		}
		return "json"
	}
	im.refuse("value.converter", "it cannot write an envelope, and %s is no JsonConverter that could", option)
	return "string"
}

// value writes the value group.
func (im *importer) value(envelope []placement, timestamp string) {
	key, value := im.converter("key"), im.converter("value")
	headers := im.converter("header")
	if headers == "bytes" {
		headers = "string"
	}
	if value == "bytes" {
		value = im.delegate(len(envelope) > 0)
	}
	expand := im.flag(im.router+"table.expand.json.payload", false)
	nulls := im.choice(im.router+"table.json.payload.null.behavior", "ignore", "ignore", "optional_bytes") == "optional_bytes"
	arrays := im.choice(im.router+"table.json.payload.empty.array.behavior", "ignore", "ignore", "optional_string") == "optional_string"
	switch {
	case expand && value == "string":
		im.refuse(im.router+"table.expand.json.payload", "cannot be honoured with a StringConverter: it prints Java's Struct{…} in place of the JSON. "+
			"Leave the option out to have the payload as it is")
	case expand && value == "json_schema":
		im.refuse(im.router+"table.expand.json.payload", "cannot be honoured with a JsonConverter that has schemas: each payload has a schema of its own. "+
			"Set value.converter.schemas.enable to false")
	case expand && value == "bytes":
		im.ignored = append(im.ignored, im.spelling(im.router+"table.expand.json.payload")+": a bytea payload is not expanded")
		expand = false
	}
	im.out.group(0, "value")
	im.out.text(1, "format", "debezium", "Keys, values and headers byte for byte as the connector's.")
	im.out.text(1, "headers", "debezium")
	if timestamp == "" {
		im.out.text(1, "timestamp", "now", "Debezium stamps a record when it reads the event; commit is steadier.")
	} else {
		im.out.text(1, "timestamp", "column", "Where it is NULL the record has the commit's time; Debezium's that of reading.")
	}
	if im.flag(im.router+"route.tombstone.on.empty.payload", false) {
		im.out.set(1, "empty_is_tombstone", "true")
	}
	im.out.group(1, "debezium")
	im.out.text(2, "key", key)
	im.out.text(2, "value", value)
	if headers != "string" {
		im.out.text(2, "headers", headers)
	}
	if len(envelope) > 0 {
		im.out.group(2, "envelope")
		im.columns(3, envelope)
	}
	if expand {
		im.out.set(2, "expand_json", "true",
			"Numbers beyond 64 bits end Debezium's task, and the run here. In an array of objects with different members,",
			"the order of the members is left to chance by Debezium; here it is that of their first appearance.")
		if nulls {
			im.out.set(2, "keep_nulls", "true")
		}
		if arrays {
			im.out.set(2, "keep_empty_arrays", "true")
		}
	}
	prefix := im.get("topic.prefix", "")
	if prefix == "" {
		im.refuse("topic.prefix", "missing")
	}
	if value == "json_schema" && len(envelope) > 0 {
		im.out.text(2, "topic_prefix", prefix, "The schema is named after the first event that has its version since the start, as in Debezium.")
	}
	if im.flag("extended.headers.enabled", true) {
		im.out.text(2, "context", prefix, "extended.headers.enabled: Debezium's headers __debezium.context.*, but for runId, which it makes up anew at each start.")
	}
}
