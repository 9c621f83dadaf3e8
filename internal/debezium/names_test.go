package debezium

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestTableName(t *testing.T) {
	const several, none = "may fit several tables", "is not SCHEMA.TABLE"
	for pattern, want := range map[string]string{
		"public.outbox":                     "public.outbox",
		"order-service.outbox_events":       `"order-service".outbox_events`,
		`order\-service\.outbox_events`:     `"order-service".outbox_events`,
		"public.outbox$":                    "public.outbox",
		"^public.outbox":                    "public.outbox",
		`^public\.outbox$`:                  "public.outbox",
		"public[.]outbox":                   "public.outbox",
		`"public"."outbox"`:                 "public.outbox",
		`sales\.Outbox`:                     `sales."Outbox"`,
		`public.out\$box`:                   "public.out$box",
		"öffentlich.ausgang":                `"öffentlich".ausgang`,
		"2024.outbox":                       `"2024".outbox`,
		"my schema.outbox":                  `"my schema".outbox`,
		`public.a"b`:                        `public."a""b"`,
		"public.outbox.*":                   several,
		".*.outbox":                         several,
		`public\.outbox.?`:                  several,
		"public.(outbox|events)":            several,
		"public.outbox_[0-9]":               several,
		`public\.outbox\d`:                  several,
		`public\.out.box`:                   several,
		"a.b.c":                             several,
		`public.outbox\$$`:                  "public.outbox$",
		`public.outbox\`:                    several,
		"outbox":                            none,
		`a\.b\.c`:                           none,
		".outbox":                           none,
		"public.":                           none,
		"^$":                                none,
		"public." + strings.Repeat("x", 64): none,
		"public.out\x00box":                 none,
	} {
		schema, name, err := tableName(pattern)
		got := ""
		if err == nil {
			got = table{schema, name}.String()
		} else if got = err.Error(); strings.Contains(got, want) {
			got = want
		}
		if got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
}

// with returns base with further options.
func with(options ...string) []byte {
	text := base
	for i := 0; i+1 < len(options); i += 2 {
		name, _ := json.Marshal(options[i])
		value, _ := json.Marshal(options[i+1])
		text += ", " + string(name) + ": " + string(value)
	}
	return []byte(text + "}")
}

// Each old name is refused with what it is called now.
func TestOldNames(t *testing.T) {
	for old, now := range successors {
		if strings.HasPrefix(old, "table.field.") || old == "route.topic" || old == "debezium.op.invalid.action" {
			old, now = "transforms.o."+old, "transforms.o."+now
		}
		_, err := Import(with(old, "x"))
		if err == nil || !strings.HasPrefix(err.Error(), old+": ") || !strings.HasSuffix(err.Error(), "write "+now) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", old, err)
		}
	}
}

// What does nothing in Kafka Connect does nothing here, and is said.
func TestIdleOptions(t *testing.T) {
	for _, name := range []string{
		"transforms.unwrap.type", "transforms.unwrap.drop.tombstones", "transforms.router", "database.history.kafka.topic",
		"schema.history.internal.kafka.bootstrap.servers", "database.server.id", "log.mining.strategy", "mongodb.connection.string", "database.names",
	} {
		out, err := Import(with(name, "topsecret"))
		if err != nil || !strings.Contains(string(out), "# - "+name+": ") || strings.Contains(string(out), "topsecret") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	// A transform that is named is another matter.
	_, err := Import([]byte(strings.Replace(string(with("transforms.unwrap.type", "io.debezium.transforms.ExtractNewRecordState")), `"transforms": "o"`, `"transforms": "o,unwrap"`, 1)))
	if err == nil || !strings.HasPrefix(err.Error(), "transforms.unwrap.type: ") {
		t.Error(err)
	}
}

// The size of requests is not harmless: it refused events that may arrive now.
func TestRequestSizeIsADifference(t *testing.T) {
	out, err := Import(with("producer.override.max.request.size", "2097152"))
	before, _, _ := strings.Cut(string(out), "Options that change nothing here:")
	if err != nil || !strings.Contains(before, "producer.override.max.request.size is 2097152") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestSlotName(t *testing.T) {
	for _, name := range []string{"Orders", "a-b", "\ufffd", strings.Repeat("a", 64), "${env:SLOT}", "a b"} {
		if _, err := Import(with("slot.name", name)); err == nil || !strings.HasPrefix(err.Error(), "slot.name: ") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := Import([]byte(base + ", \"slot.name\": \"\xff\"}")); err == nil || err.Error() != "the file is not UTF-8" {
		t.Error(err)
	}
}
