package config

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// withoutSecrets returns what a configuration is but for its secrets and where it
// comes from.
func withoutSecrets(c *Config) Config {
	bare := *c
	for k := range schema().leaves() {
		if k.isSecret() {
			k.of(&bare).SetZero()
		}
	}
	bare.origins, bare.file, bare.secretFiles = nil, "", nil
	return bare
}

// roundTrip prints a configuration, loads what was printed without the environment,
// and fails unless it is the same.
func roundTrip(t *testing.T, c *Config) string {
	t.Helper()
	printed := string(c.Print())
	again, err := load("printed.yaml", nil, files{"printed.yaml": printed}.read)
	if err != nil {
		t.Fatalf("what was printed does not load: %v\n%s", err, printed)
	}
	if got, want := withoutSecrets(again), withoutSecrets(c); !reflect.DeepEqual(got, want) {
		t.Fatalf("loaded again it is another configuration:\ngot  %+v\nwant %+v\n%s", got, want, printed)
	}
	for k := range schema().leaves() {
		if secret, ok := k.of(c).Interface().(Secret); ok && secret.IsEmpty() != k.of(again).Interface().(Secret).IsEmpty() {
			t.Errorf("%s is given in one and empty in the other", k.path)
		}
	}
	return printed
}

func TestPrintNamesTheSource(t *testing.T) {
	c, err := load("dir/a.yaml", []string{"OUTBOXD_POSTGRES_SLOT=orders", "OUTBOXD_KAFKA_BROKERS=k1, k2", "LEVEL=debug", "SECRET=" + hush,
		"NAME=postgres"}, files{"/run/topic": "positions\n", "/run/pw": hush + "\n", "dir/a.yaml": `postgres:
  dsn: postgres://app:` + hush + `@db1:5433,db2/shop?sslmode=require&target_session_attrs=primary&options=-cx%3D` + hush + `
  publication: Out.Box # mine
outbox: {table: '"My Schema"."Out.Box"', headers: {b: "b c", a: '${LEVEL}_column'}}
route:
  topic: 'x.{type}'
  rules:
    - {type: "Order*", topic: orders}
    - aggregate_type: t-*
      topic: ""
  forbidden: [a, '${LEVEL}*']
  create_topics: {config: {retention.ms: 1000, cleanup.policy: 'x${LEVEL}', "a: b": "no"}}
value: {null_payload: null}
kafka:
  sasl: {mechanism: PLAIN, username: '${NAME}', password: '${file:/run/pw}'}
delivery:
  store: kafka
  topic: outboxd.${file:/run/topic}
  rewind: 10GiB
http: {token: '${SECRET}', listen: ""}
log: {level: "${LEVEL}"}
`}.read)
	if err != nil {
		t.Fatal(err)
	}
	printed := roundTrip(t, c)
	wantHidden(t, printed)
	for _, want := range []string{
		"  dsn: postgres://app@db1:5433,db2:5432/shop?sslmode=require&target_session_attrs=primary  # password hidden, and options that may be secret; file dir/a.yaml line 2\n",
		"  slot: orders  # environment OUTBOXD_POSTGRES_SLOT\n",
		"  publication: Out.Box  # file dir/a.yaml line 3\n",
		"  create: true  # default\n",
		"  table: \"\\\"My Schema\\\".\\\"Out.Box\\\"\"  # file dir/a.yaml line 4\n",
		"  headers:  # file dir/a.yaml line 4\n    b: b c  # file dir/a.yaml line 4\n    a: debug_column  # file dir/a.yaml line 4: ${LEVEL}\n",
		"  topic: x.{type}  # file dir/a.yaml line 6\n",
		"    replace: $${1}  # default\n",
		"  rules:  # file dir/a.yaml line 7\n    - type: Order*  # file dir/a.yaml line 8\n      topic: orders  # file dir/a.yaml line 8\n" +
			"    - aggregate_type: t-*  # file dir/a.yaml line 9\n      topic: \"\"  # file dir/a.yaml line 10\n",
		"  forbidden:  # file dir/a.yaml line 11\n    - a\n    - debug*  # file dir/a.yaml line 11: ${LEVEL}\n",
		"    config:  # file dir/a.yaml line 12\n      \"a: b\": no  # file dir/a.yaml line 12\n      cleanup.policy: xdebug  # file dir/a.yaml line 12: ${LEVEL}\n      retention.ms: \"1000\"  # file",
		"  null_payload: \"null\"  # file dir/a.yaml line 13\n",
		"  brokers:  # environment OUTBOXD_KAFKA_BROKERS\n    - k1:9092\n    - k2:9092\n",
		"    username: postgres  # file dir/a.yaml line 15: ${NAME}\n",
		"    password: hidden-by-outboxd-config  # hidden; file dir/a.yaml line 15: ${file:/run/pw}\n",
		"  topic: outboxd.positions  # file dir/a.yaml line 18: ${file:/run/topic}\n",
		"  rewind: 10GiB  # file dir/a.yaml line 19\n",
		"  token: hidden-by-outboxd-config  # hidden; file dir/a.yaml line 20: ${SECRET}\n",
		"  level: debug  # file dir/a.yaml line 21: ${LEVEL}\n",
		"  schema: {}  # default\n",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("not there: %s", want)
		}
	}
	for _, unbuilt := range []string{"scale:"} {
		if strings.Contains(printed, unbuilt) {
			t.Errorf("%s is not built, but printed", unbuilt)
		}
	}
	if t.Failed() {
		t.Log(printed)
	}
}

// Every built key is printed, once, and loads again with a value that is not the
// default.
func TestEveryKeyIsPrinted(t *testing.T) {
	root, err := parse(mustLoad(t, given).Print())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	paths(root, "", found)
	for k := range schema().leaves() {
		if found[k.path] == k.isUnbuilt() {
			t.Errorf("%s: printed %t, unbuilt %t", k.path, found[k.path], k.isUnbuilt())
		}
	}
}

// Keys that depend on each other allow what was printed, in which all are given.
func TestPrintKeepsRelations(t *testing.T) {
	for _, text := range []string{
		"value: {format: avro, avro: {registry: 'https://r:1', subject: '{topic}', tls: {enabled: true, ca: x}}}",
		"value: {format: avro, avro: {registry: 'http://r'}}",
		"value: {format: json, headers: none}\noutbox: {columns: {id: '', timestamp: t}}",
		"value: {format: cloudevents, schema: {a: b}}", "value: {headers: cloudevents}", "value: {headers: debezium, timestamp: now}",
		"value: {format: debezium}", "value: {format: debezium, headers: debezium, debezium: {key: json, value: json_schema, headers: json, envelope: {a: b, c: d}, topic_prefix: x}}",
		"value: {format: debezium, debezium: {value: json, expand_json: true, keep_nulls: true}}", "value: {format: debezium, debezium: {value: bytes}}",
		"delivery: {guarantee: exactly_once, rewind: 24h}", "delivery: {store: file, file: /f}", "delivery: {store: kafka, topic: t, rewind: 7d}",
		"outbox: {table: '', message_prefix: m}", "outbox: {backfill: existing}", "outbox: {headers_column: h, headers: {z: a, a: z}}",
		"route: {topic: 't.{column:c}', key: '{column:k}', partition: p}", "route: {regex: {column: c, match: '(a)(b)', replace: '$${2}$1'}}", "route: {key: none}",
		"http: {tls: {cert: c, key: k}}", "errors: {retry: {min: 1ms, max: 36h}}",
	} {
		c, err := loadText(given + text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		roundTrip(t, c)
	}
}

// Texts that YAML or substitution would take for something else.
func TestPrintQuotes(t *testing.T) {
	odd := []string{"", " ", "a ", " a", "null", "~", "true", "1", "1e3", "0x1f", "1.5", "*a", "&a", "!a", "%a", "@a", "`a", "- a", "-", "? a", ": a", "a: b", "a #b", "#a",
		"[a]", "{a}", "'a'", "\"a\"", "a\\b", "a\nb", "a\tb", "\x00", "\x7f", "\u0085", "\u2028", "\ufeff", "é", "日本", "😀", "${A}", "$${A}", "$$${A}", "${", "}", "$", "$$",
		"<<", "---", "...", "=", "|", ">", "a,b", "2024-01-01", "yes", "on", "\r\n", "a\r"}
	c := mustLoad(t, given)
	for _, text := range odd {
		c.Kafka.ClientID = text
		c.Outbox.MessagePrefix = strings.ReplaceAll(text, "\x00", "")
		c.Kafka.TLS = TLS{Enabled: true, CA: text, ServerName: text}
		c.Value.Schema = map[string]string{text: text, "z" + text: text}
		c.Outbox.Headers = Pairs{{"h" + text, "c"}, {text, "d"}}
		c.Route.CreateTopics.Config = map[string]string{text: text}
		roundTrip(t, c)
	}
	var all []string
	for _, text := range odd {
		all = append(all, "p"+strings.NewReplacer("[", "", "]", "", "{", "", "}", "", "\\", "").Replace(text))
	}
	c.Route.Forbidden = all
	roundTrip(t, c)
}

// A secret in any secret key, given in any way, is not printed.
func TestPrintShowsNoSecret(t *testing.T) {
	base := map[string]string{
		"postgres.dsn": "host=db user=app", "kafka.brokers": "${K}", "kafka.sasl.mechanism": "PLAIN", "kafka.sasl.username": "u", "kafka.sasl.password": "p",
		"value.format": "avro", "value.avro.registry": "https://r", "value.avro.username": "u", "value.avro.password": "p",
	}
	values := map[string][]string{
		"postgres.dsn": {
			"postgres://app:" + hush + "@db/shop", "postgres://app@db/shop?password=" + hush, "postgres://app@db/shop?sslpassword=" + hush + "&sslmode=disable",
			"host=db password=" + hush, "host=db password = '" + hush + "' user=a", "host=db password=a\\ " + hush, "host=db options='-c a=" + hush + "'",
			"postgres://app:1/" + hush + "@db/shop", "postgres://app:x?" + hush + "@db/shop", "host=db password='a \\' sslcert=" + hush + "'",
			"postgres://app:" + hush + "%40a@db1,db2/shop", "user=a host=db search_path=" + hush, "postgres://app:1,x/" + hush + "@db/shop",
		},
		"value.avro.registry":    {"https://r/" + hush, "https://r:1/a/" + hush + "/"},
		"monitor.trace.endpoint": {"https://o/" + hush},
	}
	n := 0
	for k := range schema().leaves() {
		if !k.isSecret() || k.isUnbuilt() || k.typ.Kind() == reflect.Map {
			continue // of a mapping: TestPrintShowsNoKey
		}
		n++
		all := values[k.path]
		if all == nil {
			all = []string{hush}
		}
		for _, value := range all {
			for _, way := range []string{"literal", "environment", "variable", "file", "part"} {
				env := []string{"K=k1", "S=" + value, "P=" + value[1:]}
				settings := maps.Clone(base)
				if k.path == "kafka.sasl.token" {
					settings["kafka.sasl.mechanism"] = "OAUTHBEARER"
					delete(settings, "kafka.sasl.username")
					delete(settings, "kafka.sasl.password")
				}
				if k.path == "value.avro.token" {
					delete(settings, "value.avro.username")
					delete(settings, "value.avro.password")
				}
				switch way {
				case "literal":
					settings[k.path] = value
				case "environment":
					env = append(env, k.variable+"="+value)
				case "variable":
					settings[k.path] = "${S}"
				case "file":
					settings[k.path] = "${file:/s}"
				case "part":
					settings[k.path] = value[:1] + "${P}"
				}
				c, err := load("c.yaml", env, files{"c.yaml": fileOf(settings), "/s": value}.read)
				if err != nil {
					t.Fatalf("%s %s %s: %v", k.path, way, value, err)
				}
				printed := roundTrip(t, c)
				wantHidden(t, printed)
				again, err := load("c.yaml", nil, files{"c.yaml": printed}.read)
				if err != nil {
					t.Fatal(err)
				}
				isDSN := k.path == "postgres.dsn"
				if found := len(again.Placeholders()); found == 0 && !isDSN {
					t.Errorf("%s: its placeholder is not found", k.path)
				}
				if found := c.Placeholders(); len(found) > 0 {
					t.Errorf("%s: a secret is taken for a placeholder: %v", k.path, found)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d keys are secret", n)
	}
}

// fileOf writes a file with keys by their full names.
func fileOf(settings map[string]string) string {
	var b strings.Builder
	var before []string
	for _, path := range slices.Sorted(maps.Keys(settings)) {
		parts := strings.Split(path, ".")
		for i, part := range parts {
			switch {
			case i == len(parts)-1:
				b.WriteString(strings.Repeat(" ", i) + part + ": " + strconv.Quote(settings[path]) + "\n")
			case i >= len(before) || !slices.Equal(before[:i+1], parts[:i+1]):
				b.WriteString(strings.Repeat(" ", i) + part + ":\n")
			}
		}
		before = parts[:len(parts)-1]
	}
	return b.String()
}

// Nor is one of value.keys.
func TestPrintShowsNoKey(t *testing.T) {
	for _, value := range []string{hush, "${S}", "${file:/s}"} {
		text := given + "value: {mask: [{path: $.a, how: hash, key: k}], keys: {k: '" + value + "'}}"
		c, err := load("c.yaml", []string{"S=" + hush}, files{"c.yaml": text, "/s": hush}.read)
		if err != nil {
			t.Fatal(err)
		}
		if found := c.Placeholders(); len(found) > 0 {
			t.Errorf("a secret is taken for a placeholder: %v", found)
		}
		printed := roundTrip(t, c)
		wantHidden(t, printed)
		again, err := load("c.yaml", nil, files{"c.yaml": printed}.read)
		if err != nil {
			t.Fatal(err)
		}
		if found := again.Placeholders(); len(found) != 1 {
			t.Errorf("its placeholder is not found: %v in\n%s", found, printed)
		}
	}
}

func FuzzPrint(f *testing.F) {
	f.Add(string(Example), "hunter2")
	f.Add(given+"log: {level: '${S}'}\noutbox: {headers: {a: b}, message_prefix: '${S}'}", "debug")
	f.Add("postgres: {dsn: 'host=d password=${S}'}\nkafka: {brokers: [\"k\"], sasl: {password: '${S}', mechanism: PLAIN, username: u}}", "x y=z")
	f.Add("postgres: {dsn: 'postgres://a:${S}@b/c?sslmode=prefer'}\nkafka: {brokers: k}\nhttp: {token: '${S}'}", "secret")
	f.Fuzz(func(t *testing.T, text, secret string) {
		c, err := load("c.yaml", []string{"S=" + secret}, files{"c.yaml": text, "/s": secret}.read)
		if err == nil {
			roundTrip(t, c)
		}
	})
}
