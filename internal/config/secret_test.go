package config

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

const hush = "hunter2"

func TestSecretsDoNotPrint(t *testing.T) {
	config := mustLoad(t, `
postgres: {dsn: postgres://app:`+hush+`@db/shop}
kafka: {brokers: [k], tls: {enabled: true}, sasl: {mechanism: PLAIN, username: app, password: `+hush+`}}
`)
	if got := config.Kafka.SASL.Password.Reveal(); got != hush {
		t.Fatalf("Reveal gives %q", got)
	}
	var out strings.Builder
	for _, value := range []any{config, *config, config.Kafka.SASL, &config.Postgres, config.Kafka.SASL.Password,
		&config.Kafka.SASL.Password, []Secret{NewSecret(hush)}, map[string]Secret{"k": NewSecret(hush)}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%08.3s", "%T"} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Errorf("%T: %v", value, err)
		}
		out.Write(encoded)
		for _, writer := range []io.Writer{&out, zerolog.ConsoleWriter{Out: &out, NoColor: true}} {
			logger := zerolog.New(writer)
			logger.Info().Interface("v", value).Any("a", value).Msgf("%v", value)
		}
	}
	logger := zerolog.New(&out)
	logger.Info().Stringer("s", config.Postgres.DSN).Send()
	wantHidden(t, out.String())
	if got := fmt.Sprintf("%s", config.Postgres.DSN); got != "[hidden]" {
		t.Errorf("a secret prints as %q", got)
	}
}

// wantHidden fails when a text has hush, in plain or as hexadecimal digits.
func wantHidden(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		for _, form := range []string{hush, fmt.Sprintf("%x", hush), fmt.Sprintf("%X", hush), fmt.Sprintf("% x", hush)} {
			if strings.Contains(line, form) {
				t.Errorf("the secret shows, as %s, in: %s", form, line)
			}
		}
	}
}

// TestErrorsHideSecrets puts hush where it is misread in many ways. Each must
// be an error, and none may show it.
func TestErrorsHideSecrets(t *testing.T) {
	dsns := []string{
		"postgres://app:" + hush + "%zz@db/shop",
		"postgres://app:" + hush + "/x@db/shop",
		"postgres://app:" + hush + "@db:port/shop",
		"postgres://app@db/shop?password=" + hush + "&sslmode=bad",
		"postgres://app@db/shop?target_session_attrs=" + hush,
		"postgres://app@db/shop?min_protocol_version=" + hush,
		"postgres://app@db/shop?channel_binding=" + hush,
		"postgres://app:" + hush + "@db/shop?sslrootcert=/none&sslmode=verify-full",
		"postgres://app:" + hush + "@db/shop?service=none&servicefile=/none",
		"postgres://app:" + hush + "@[::1/shop",
		"host=db password=" + hush + " " + hush,
		"host=db password='" + hush,
		"host=db port=" + hush,
		"host=a,b port=1,2,3 password=" + hush,
		"host=db connect_timeout=" + hush,
		"host=db sslmode=" + hush,
		"host=db sslcertmode=" + hush,
		"host=db require_auth=" + hush,
		hush,
	}
	for _, dsn := range dsns {
		quoted := "'" + strings.ReplaceAll(dsn, "'", "''") + "'"
		for _, text := range []string{"postgres: {dsn: " + quoted + "}", "postgres: {dsn: '${DSN}'}", ""} {
			env := []string{"DSN=" + dsn, "OUTBOXD_KAFKA_BROKERS=k"}
			if text == "" {
				env = append(env, "OUTBOXD_POSTGRES_DSN="+dsn)
			}
			_, err := loadText(text, env...)
			if err == nil {
				t.Errorf("no error for %s", dsn)
				continue
			}
			if !strings.Contains(err.Error(), ": postgres.dsn: the value ") {
				t.Errorf("%s: %v", dsn, err)
			}
			wantHidden(t, err.Error())
			wantHidden(t, fmt.Sprintf("%+v %#v", err, err))
		}
	}
	for _, text := range []string{
		"postgres: {dsn: host=a," + hush + "}",
		"postgres:\n  dsn: host=a: " + hush,
		"postgres:\n  dsn:" + hush,
		"postgres:\n  slot: x\n  dsn:" + hush,
		"postgres:\n  dsn: *" + hush,
		"postgres:\n  dsn: !" + hush + " x",
		"postgres:\n  dsn: !!" + hush,
		"postgres:\n  dsn: &" + hush,
		"postgres:\n  dsn: |" + hush,
		"postgres:\n  dsn: >" + hush + "\n",
		"postgres:\n  dsn: %" + hush,
		"postgres:\n  dsn: @" + hush,
		"postgres:\n  dsn: '" + hush,
		"postgres:\n  dsn: \"" + hush,
		"postgres:\n  dsn: \"\\z" + hush + "\"",
		"postgres:\n  dsn: '" + hush + "'" + hush,
		"postgres:\n  dsn: [" + hush + "]",
		"postgres:\n  dsn: {" + hush + "}",
		"postgres:\n  dsn: {a: " + hush + "}",
		"postgres:\n  - dsn: " + hush,
		"postgres: " + hush,
		hush,
		"kafka: {sasl: {password: [" + hush + "]}}",
		"kafka: {sasl: {mechanism: PLAIN, password: " + hush + "}}",
		"kafka: {sasl: {password: a, " + hush + "}}",
		"log: {level: '${S}'}",
		"log: {level: 'x${S}'}",
		"kafka: {brokers: ['${S}:x']}",
		"kafka: {brokers: '${S}:x,b'}",
		"kafka: {linger: '${S}'}",
		"outbox: {table: '${S}.a.b'}",
		"route: {topic: '${S}{x}'}",
		"route: {key: '${S}'}",
		"delivery: {topic: '${S}'}",
		"delivery: {confirm_interval: '${file:/s}', guarantee: '${file:/s}'}",
		"value: {keys: " + hush + "}",
		"value: {keys: a, " + hush + "}",
		"value: {avro: {password: " + hush + ", token: " + hush + "}, keys: {a: " + hush + "}}",
	} {
		_, err := load("c.yaml", []string{"S=" + hush, "OUTBOXD_VALUE_AVRO_PASSWORD=" + hush}, files{"c.yaml": text, "/s": hush}.read)
		if err == nil {
			t.Errorf("no error for %s", text)
			continue
		}
		wantHidden(t, err.Error())
	}
}

func TestDSNErrorsSayWhatIsWrong(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://a:%zz@db":                                       "the value is not a valid URL; percent-encode special characters in the password",
		"nonsense":                                                  "the value is neither a postgres:// URL nor key=value pairs",
		"host=a port=x":                                             "the value has an invalid port; percent-encode special characters in the password",
		"host=a,b port=1,2,3":                                       "the value has neither one port nor one for each host",
		"host=a connect_timeout=x":                                  "the value has an invalid connect_timeout",
		"host=a sslmode=x":                                          "the value has an invalid sslmode",
		"host=a sslmode=require sslcert=/no":                        "the value has one of sslcert and sslkey, and needs both",
		"host=a sslmode=verify-ca sslrootcert=/nowhere":             "the value names an sslrootcert that cannot be read: file does not exist",
		"host=a sslmode=verify-ca sslrootcert=/dev/null":            "the value names an sslrootcert that is no certificate in PEM",
		"host=a sslmode=require sslcert=/nowhere sslkey=/nowhere":   "the value names an sslkey that cannot be read: file does not exist",
		"host=a sslmode=require sslcert=/dev/null sslkey=/dev/null": "the value names an sslkey that is no key in PEM",
		"host=a target_session_attrs=x":                             "the value has an unknown target_session_attrs",
		"host=a channel_binding=x":                                  "the value has an unknown channel_binding",
		"host=a require_auth=x":                                     "the value has an invalid require_auth",
		"host=a sslcertmode=x":                                      "the value has an invalid sslcertmode",
		"host=a min_protocol_version=x":                             "the value has an invalid min_protocol_version",
		"host=a service=x servicefile=none":                         "the value names a service that cannot be read",
	} {
		_, err := loadText("kafka: {brokers: [a]}\npostgres: {dsn: '" + dsn + "'}")
		wantError(t, err, "outboxd.yaml:2: postgres.dsn: "+want)
	}
}

func TestDSNTakesVariablesOfLibpq(t *testing.T) {
	t.Setenv("PGHOST", "db9")
	t.Setenv("PGUSER", "u")
	t.Setenv("PGDATABASE", "d")
	config := mustLoad(t, "kafka: {brokers: [a]}\npostgres: {dsn: 'postgres://'}")
	if got, want := RedactDSN(config.Postgres.DSN.Reveal()), "postgres://u@db9:5432/d"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	t.Setenv("PGPORT", "x")
	_, err := loadText("kafka: {brokers: [a]}\npostgres: {dsn: 'postgres://'}")
	if err == nil {
		t.Error("no error for PGPORT=x")
	}
}

func TestRedactDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://app:" + hush + "@db1:5433,db2/shop?sslmode=prefer":               "postgres://app@db1:5433,db2:5432/shop",
		"postgresql://app@db/shop?password=" + hush + "&sslmode=disable":             "postgres://app@db:5432/shop",
		"postgres://db/shop?user=app&password=" + hush:                               "postgres://app@db:5432/shop",
		"postgres://app:" + hush + "@[::1]:1/shop":                                   "postgres://app@[::1]:1/shop",
		"host=db port=6000 user=app password=" + hush + " dbname=shop":               "postgres://app@db:6000/shop",
		"host=db user='a b' password='x " + hush + "' dbname='my/db'":                "postgres://a%20b@db:5432/my%2Fdb",
		"host=/run/postgresql user=app dbname=shop password=" + hush:                 "postgres://app@%2Frun%2Fpostgresql:5432/shop",
		"host=db user=app dbname=shop passfile=/none sslpassword=" + hush:            "postgres://app@db:5432/shop",
		"postgres://app:" + hush + "%40x@db/shop":                                    "postgres://app@db:5432/shop",
		"postgres://app:1/" + hush + "@db/shop":                                      "[hidden]",
		"postgres://app:1?" + hush + "@db/shop":                                      "[hidden]",
		"postgres://app:1,x/" + hush + "@db/shop":                                    "[hidden]",
		"postgres://app:1#" + hush + "@db/shop":                                      "[hidden]",
		"postgres://app:" + hush + "@db:port/shop":                                   "[hidden]",
		"host=db password=" + hush + " x":                                            "[hidden]",
		"host=db password=" + hush + " sslrootcert=/none sslmode=verify-full user=a": "[hidden]",
		hush: "[hidden]",
	} {
		if got := RedactDSN(dsn); got != want {
			t.Errorf("%s: got %s, want %s", dsn, got, want)
		}
	}
}

// FuzzLoad: whatever the file, Load does not panic and does not show what the
// environment or a file put in.
func FuzzLoad(f *testing.F) {
	f.Add(string(Example))
	f.Add(given)
	f.Add(given + "log: {level: '${S}', format: \"${file:/s}\"}\nscale: {shards: ${S}}\n")
	f.Add("postgres: {dsn: 'host=${S} password=${S} port=${S}'}\nkafka: {brokers: [\"${S}\"], sasl: {password: '${S}', mechanism: PLAIN}}")
	f.Add("postgres:\n  dsn: postgres://a:${S}@b/${S}?sslmode=${S}\n  slot: &s ${S}\n  publication: *s\n")
	f.Add("route: {topic: 'x.{type}${S}', key: '${S}', rules: [{type: a, topic: '${S}'}]}\n")
	f.Add("value: {keys: {a: ${S}}, mask: [{path: a, how: ${S}}], schema: {x: y}}\noutbox: {headers: {a: ${S}}}")
	f.Add("a: |\n  x\n---\n? b\n: >-\n  c\n<<: *d\n!!str e: !f g\n%YAML 1.2\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, hush) {
			t.Skip("the secret stands in the file itself")
		}
		env := []string{"S=" + hush, "OUTBOXD_KAFKA_SASL_PASSWORD=" + hush, "OUTBOXD_POSTGRES_DSN_=" + hush}
		_, err := load("c.yaml", env, files{"c.yaml": text, "/s": hush}.read)
		if err == nil {
			t.Fatal("an unknown variable is no error")
		}
		if strings.Contains(err.Error(), hush) {
			t.Errorf("the secret shows in:\n%v", err)
		}
		config, err := load("c.yaml", []string{"S=" + hush}, files{"c.yaml": text, "/s": hush}.read)
		if err != nil {
			if strings.Contains(err.Error(), hush) {
				t.Errorf("the secret shows in:\n%v", err)
			}
			return
		}
		if got := RedactDSN(config.Postgres.DSN.Reveal()); strings.Contains(got, ":"+hush) {
			t.Errorf("the secret shows in %s", got)
		}
	})
}
