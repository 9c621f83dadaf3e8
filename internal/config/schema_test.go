package config

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestKeysAreWellDefined(t *testing.T) {
	byVariable := map[string]string{}
	for k := range schema().leaves() {
		if k.name == "" {
			t.Errorf("a field below %q has no yaml tag", k.path)
		}
		if other, taken := byVariable[k.variable]; taken {
			t.Errorf("%s and %s have the variable %s in common", other, k.path, k.variable)
		}
		byVariable[k.variable] = k.path
		for _, word := range k.unbuilt {
			if word != unbuiltKey && !slices.Contains(k.enum, word) {
				t.Errorf("%s: %q is marked unbuilt, but is not in its enum", k.path, word)
			}
		}
		if k.enum != nil && !slices.Contains(k.enum, k.deflt) {
			t.Errorf("%s: the default %q is not in its enum", k.path, k.deflt)
		}
		if slices.Contains(k.unbuilt, k.deflt) {
			t.Errorf("%s: the default %q is not built", k.path, k.deflt)
		}
		if k.min != "" {
			beyond(k.of(Default()), k.min, -1) // panics unless min has the key's type
		}
		if k.check != nil && k.isScalar() && !k.required {
			if complaint := k.check(k.deflt); complaint != "" {
				t.Errorf("%s: the default %q %s", k.path, k.deflt, complaint)
			}
		}
	}
}

// TestKeysAreDocumented reads the source: each field says what it is and, if it
// is a value, what it defaults to.
func TestKeysAreDocumented(t *testing.T) {
	for _, file := range []string{"config.go", "source.go", "record.go", "kafka.go", "operation.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			field, ok := n.(*ast.Field)
			if !ok || field.Tag == nil {
				return true
			}
			doc := strings.Join(strings.Fields(field.Doc.Text()), " ")
			tag := reflect.StructTag(strings.Trim(field.Tag.Value, "`"))
			deflt := tag.Get("default")
			switch {
			case !strings.HasPrefix(doc, field.Names[0].Name+" "):
				t.Errorf("%s: %s: the comment does not begin with the name: %q", file, field.Names[0], doc)
			case deflt != "" && !strings.Contains(doc, "Defaults to "+deflt):
				t.Errorf("%s: %s: the comment does not say %q", file, field.Names[0], "Defaults to "+deflt)
			}
			return true
		})
	}
}

// TestEveryScalarHasAVariable gives each key a legal value that is not its
// default, and each key that is not built any such value.
func TestEveryScalarHasAVariable(t *testing.T) {
	needed := []string{"OUTBOXD_POSTGRES_DSN=host=db", "OUTBOXD_KAFKA_BROKERS=k", "OUTBOXD_DELIVERY_FILE=f",
		"OUTBOXD_KAFKA_SASL_USERNAME=u", "OUTBOXD_KAFKA_SASL_PASSWORD=p", "OUTBOXD_KAFKA_SASL_MECHANISM=",
		"OUTBOXD_VALUE_FORMAT=raw", "OUTBOXD_VALUE_AVRO_REGISTRY=https://r", "OUTBOXD_VALUE_AVRO_USERNAME=u", "OUTBOXD_VALUE_AVRO_PASSWORD=p",
		"OUTBOXD_VALUE_AVRO_TLS_CERT=c", "OUTBOXD_VALUE_AVRO_TLS_KEY=k", "OUTBOXD_VALUE_AVRO_TLS_ENABLED=false",
		"OUTBOXD_HTTP_TLS_CERT=c", "OUTBOXD_HTTP_TLS_KEY=k",
		"OUTBOXD_RETENTION_MODE=archive", "OUTBOXD_RETENTION_ARCHIVE_TABLE=x.y",
		"OUTBOXD_KAFKA_TLS_CERT=c", "OUTBOXD_KAFKA_TLS_KEY=k", "OUTBOXD_KAFKA_TLS_ENABLED=false"}
	special := map[string]string{
		"postgres.dsn": "host=elsewhere",
		"route.key":    "none",
		// Another value needs a store.
		"delivery.rewind": "0s",
		// The other word needs a column.
		"value.timestamp": "now",
		"http.listen":     ":1",
		"outbox.table":    "a.b",
		"http.tls.cert":   "c",
		"http.tls.key":    "k",

		"retention.archive_table": "a.b",
		"monitor.consumer_groups": "g",
		"monitor.trace.endpoint":  "http://o",
		"kafka.brokers":           "b:1",

		"value.avro.registry": "https://elsewhere",
	}
	for k := range schema().leaves() {
		if !k.isScalar() && !k.isTextList() {
			continue
		}
		value := special[k.path]
		if value == "" {
			value = otherValue(t, k)
		}
		config, err := loadText("", append(slices.Clone(needed), k.variable+"="+value)...)
		switch {
		case k.isUnbuilt() || slices.Contains(k.unbuilt, value):
			if err == nil || !strings.HasPrefix(err.Error(), k.variable+": "+k.path+": ") || !strings.Contains(err.Error(), "not built yet") {
				t.Errorf("%s=%s, which is not built: %v", k.variable, value, err)
			}
		case err != nil:
			t.Errorf("%s=%s: %v", k.variable, value, err)
		default:
			want := Default()
			if k.isTextList() {
				k.of(want).Set(reflect.ValueOf([]string{value}))
			} else if err := setText(k.of(want), value); err != nil {
				t.Fatal(err)
			}
			if got, want := k.of(config).Interface(), k.of(want).Interface(); !reflect.DeepEqual(got, want) {
				t.Errorf("%s=%s gives %v, want %v", k.variable, value, got, want)
			}
		}
	}
}

// otherValue returns a value that is not the default.
func otherValue(t *testing.T, k *key) string {
	t.Helper()
	if k.enum != nil {
		return k.enum[(slices.Index(k.enum, k.deflt)+1)%len(k.enum)]
	}
	switch k.typ {
	case reflect.TypeFor[string](), reflect.TypeFor[Secret](), reflect.TypeFor[[]string]():
		return "other"
	case reflect.TypeFor[bool]():
		return map[string]string{"true": "false", "false": "true"}[k.deflt]
	case reflect.TypeFor[int](), reflect.TypeFor[Processors]():
		return "7"
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[Rewind]():
		return "15s"
	case reflect.TypeFor[ByteSize]():
		return "3MiB"
	case reflect.TypeFor[MemoryLimit]():
		return "off"
	}
	t.Fatalf("%s: no other value for a %s", k.path, k.typ)
	return ""
}

func TestAVariableWinsOverTheFile(t *testing.T) {
	config := mustLoad(t, "postgres: {dsn: '${NONE}', slot: [a]}\nkafka: {brokers: [x]}\nlog: {level: warn}",
		"OUTBOXD_POSTGRES_DSN=host=${db}", "OUTBOXD_KAFKA_BROKERS=y", "OUTBOXD_POSTGRES_SLOT=s", "OUTBOXD_LOG_LEVEL=error")
	if got := config.Postgres.DSN.Reveal(); got != "host=${db}" {
		t.Errorf("dsn %q", got)
	}
	if config.Kafka.Brokers[0] != "y:9092" || config.Postgres.Slot != "s" || config.Log.Level != "error" {
		t.Errorf("%+v", config)
	}
}

// TestStructuresDecode covers lists and maps that no built key has yet.
func TestStructuresDecode(t *testing.T) {
	tests := []struct {
		path, yaml string
		want       any
		err        string
	}{
		{path: "route.rules", yaml: "[{type: 'Order*', topic: orders}, {aggregate_type: x, topic: ''}]",
			want: []Rule{{Type: "Order*", Topic: "orders"}, {AggregateType: "x"}}},
		{path: "route.rules", yaml: "\n- {typ: a, topic: 'a b'}\n- {type: '[a]'}\n- a",
			err: `c.yaml:2: route.rules[0].typ: unknown key; did you mean type?
c.yaml:2: route.rules[0].topic: "a b" is not a Kafka topic: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'
c.yaml:3: route.rules[1].type: "[a]" is not a pattern: only * and ? are special, and brackets, braces and \ are not allowed
c.yaml:3: route.rules[1].topic: missing
c.yaml:4: route.rules[2]: got text; want a mapping`},
		{path: "route.create_topics.config", yaml: "{retention.ms: 1000, cleanup.policy: compact}",
			want: map[string]string{"retention.ms": "1000", "cleanup.policy": "compact"}},
		{path: "value.keys", yaml: "{a: one, b: '${B}'}", want: map[string]Secret{"a": NewSecret("one"), "b": NewSecret("two")}},
		{path: "value.keys", yaml: "{a: 1, a: 2, b: [x], c: '${C}'}",
			err: `c.yaml:1: value.keys.a: duplicate key
c.yaml:1: value.keys.b: got a list; want text
c.yaml:1: value.keys.c: the environment variable C is not set`},
		{path: "value.mask", yaml: "[{path: $.a, how: hash, key: k}]", want: []Mask{{Path: "$.a", How: "hash", Key: "k"}}},
		{path: "value.mask", yaml: "[{path: $.a, how: burn}]", err: "c.yaml:1: value.mask[0].how: burn is not one of remove, hash, encrypt"},
	}
	for _, test := range tests {
		for k := range schema().leaves() {
			if k.path != test.path {
				continue
			}
			built := *k
			built.unbuilt = nil
			n, err := parse([]byte(test.yaml))
			if err != nil {
				t.Fatal(err)
			}
			l := &loader{path: "c.yaml", env: map[string]string{"B": "two"}, origins: map[string]place{}, refused: map[string]bool{}}
			field := reflect.New(k.typ).Elem()
			l.decode(&built, field, n, place{key: k.path, line: 1})
			if err := NewLoadError(l.problems); err != nil || test.err != "" {
				wantError(t, err, test.err)
				continue
			}
			if got := field.Interface(); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.yaml, got, test.want)
			}
		}
	}
}
