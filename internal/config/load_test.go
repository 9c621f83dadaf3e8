package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// given is the least a file must hold.
const given = "postgres: {dsn: 'host=db user=app'}\nkafka: {brokers: [k1]}\n"

// files is a file system for load.
type files map[string]string

func (f files) read(path string) ([]byte, error) {
	content, ok := f[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return []byte(content), nil
}

// loadText loads one file's text.
func loadText(text string, env ...string) (*Config, error) {
	return load(DefaultPath, env, files{DefaultPath: text}.read)
}

// mustLoad loads what has no problems.
func mustLoad(t *testing.T, text string, env ...string) *Config {
	t.Helper()
	config, err := loadText(text, env...)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	config.origins, config.file, config.secretFiles = nil, "", nil // so that two can be compared
	return config
}

func TestLoadTakesEveryKindOfValue(t *testing.T) {
	config := mustLoad(t, `
postgres:
  dsn: postgres://app:pw@db1,db2/shop?target_session_attrs=read-write
  slot: orders_1
  create: false
  failover: on
outbox:
  table: '"My Schema"."Out.Box"'
  columns: {version: v, payload: body}
route: {topic: "shop.{aggregate_type}.v1", key: none}
value: {headers: none, timestamp: now, null_payload: null, empty_is_tombstone: true}
kafka:
  brokers:
    - k1
    - k2:9093
    - "[::1]"
  compression: zstd
  linger: 5ms
  max_buffered: 1GiB
  tls: {enabled: true, ca: /ca.pem, cert: /c.pem, key: /k.pem, server_name: kafka}
  sasl: {mechanism: SCRAM-SHA-512, username: app, password: "12345"}
delivery: {store: file, file: /var/lib/outboxd/position, confirm_interval: 250ms}
errors: {retry: {min: 1s, max: 1d12h}}
http: {listen: ""}
log: {level: debug, format: json}
`)
	want := Default()
	want.Postgres = Postgres{
		DSN:  NewSecret("postgres://app:pw@db1,db2/shop?target_session_attrs=read-write"),
		Slot: "orders_1", Publication: "outboxd", Mode: "wal", Failover: "on", Origin: "any",
	}
	want.Outbox.Table = Table{Schema: "My Schema", Name: "Out.Box"}
	want.Outbox.Columns.Version = "v"
	want.Outbox.Columns.Payload = "body"
	want.Route.Topic = "shop.{aggregate_type}.v1"
	want.Route.Key = "none"
	want.Value.Headers = "none"
	want.Value.Timestamp = "now"
	want.Value.EmptyIsTombstone = true
	want.Kafka = Kafka{
		Brokers: []string{"k1:9092", "k2:9093", "[::1]:9092"}, ClientID: "outboxd", Compression: "zstd",
		Linger: 5 * time.Millisecond, MaxBuffered: 1 << 30,
		TLS:  TLS{Enabled: true, CA: "/ca.pem", Cert: "/c.pem", Key: "/k.pem", ServerName: "kafka"},
		SASL: SASL{Mechanism: "SCRAM-SHA-512", Username: "app", Password: NewSecret("12345")},
	}
	want.Delivery.Store = "file"
	want.Delivery.File = "/var/lib/outboxd/position"
	want.Delivery.ConfirmInterval = 250 * time.Millisecond
	want.Errors.Retry = Retry{Min: time.Second, Max: 36 * time.Hour}
	want.HTTP.Listen = ""
	want.Log = Log{Level: "debug", Format: "json"}
	if !reflect.DeepEqual(config, want) {
		t.Errorf("got  %+v\nwant %+v", config, want)
	}
}

func TestDefaultIsTheContract(t *testing.T) {
	config := mustLoad(t, given+`
outbox: {table: public.outbox, columns: {id: id, aggregate_type: aggregatetype, aggregate_id: aggregateid, type: type,
  payload: payload, timestamp: "", version: "", schema_version: "", correlation_id: "", causation_id: "", traceparent: ""},
  headers: {}, headers_column: "", message_prefix: "", backfill: none}
route: {topic: "outbox.event.{type}", rules: [], key: aggregate_id, partition: "",
  create_topics: {enabled: false, partitions: 6, replication_factor: -1, config: {}}}
value: {format: raw, headers: plain, timestamp: commit, null_payload: "null", empty_is_tombstone: false,
  avro: {registry: "", subject: "{topic}-value", payload: string, register: true}, schema: {}, mask: []}
delivery: {guarantee: at_least_once, transactional_id: "", store: slot, file: "", topic: outboxd.positions,
  confirm_interval: 1s, rewind: 0s}
scale: {shards: 1, group: ""}
errors: {poison: stop, dead_letter_topic: outbox.dead-letter, retry: {min: 100ms, max: 30s}}
retention: {mode: off, keep: 24h, batch: 1000, interval: 1m}
http: {listen: "127.0.0.1:9188"}
log: {level: info, format: auto}
`)
	want := Default()
	want.Postgres.DSN = NewSecret("host=db user=app")
	want.Kafka.Brokers = []string{"k1:9092"}
	if !reflect.DeepEqual(config, want) {
		t.Errorf("got  %+v\nwant %+v", config, want)
	}
	if want.Kafka.MaxBuffered != 64<<20 || want.Delivery.ConfirmInterval != time.Second || want.Postgres.Slot != "outboxd" {
		t.Errorf("defaults: %+v", want)
	}
}

func TestLoadWithoutFile(t *testing.T) {
	enough := []string{"OUTBOXD_POSTGRES_DSN=host=db", "OUTBOXD_KAFKA_BROKERS=k1, k2:1"}
	none := files{}.read

	config, err := load(DefaultPath, enough, none)
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Kafka.Brokers; !reflect.DeepEqual(got, []string{"k1:9092", "k2:1"}) {
		t.Errorf("brokers: %q", got)
	}

	_, err = load(DefaultPath, enough[:1], none)
	wantError(t, err, "outboxd.yaml: no such file; write one, name another with --config, or set OUTBOXD_POSTGRES_DSN and OUTBOXD_KAFKA_BROKERS")
	_, err = load("other.yaml", enough, none)
	wantError(t, err, "other.yaml: cannot read the file: file does not exist")

	for _, empty := range []string{"", "\n", "# nothing\n", "---\n", "kafka:\n", "\ufeff", "%YAML 1.2\n---\n"} {
		mustLoad(t, empty, enough...)
	}
}

func TestLoadReadsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(given), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err != nil {
		t.Error(err)
	}

	_, err := Load(filepath.Dir(path), nil)
	wantError(t, err, filepath.Dir(path)+": cannot read the file: is a directory")
	if err := os.WriteFile(path, make([]byte, maxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(path, nil)
	wantError(t, err, path+": cannot read the file: larger than 1MiB")
}

func TestSubstitution(t *testing.T) {
	const nasty = `a: "b" #'c' ${X} {` + "\n" + `d`
	fs := files{
		DefaultPath: `
postgres: {dsn: "${DSN}", create: "${CREATE}"}
kafka:
  brokers: ["${B1}", "b${N}:9${N}"]
  client_id: $${X} $5 ${N}${N}
  max_buffered: ${SIZE}
  linger: ${LINGER}
  sasl: {mechanism: PLAIN, username: "${file:/user}", password: "${file:/password}"}
`,
		"/user":     "app\r\n",
		"/password": nasty + "\n\n",
	}
	config, err := load(DefaultPath, []string{"DSN=host=db password='" + `x: #y"` + "'", "CREATE=false", "B1=k1", "N=2", "SIZE=3000000", "LINGER=1s"}, fs.read)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := config.Postgres.DSN.Reveal(), `host=db password='x: #y"'`; got != want {
		t.Errorf("dsn %q, want %q", got, want)
	}
	if got, want := config.Kafka.SASL.Password.Reveal(), nasty+"\n"; got != want {
		t.Errorf("password %q, want %q", got, want)
	}
	fs["/password"] = "rotated\n"
	if got, err := config.Kafka.SASL.Password.Current(); got != "rotated" || err != nil {
		t.Errorf("a password that was replaced is %q, %v", got, err)
	}
	delete(fs, "/password")
	if _, err := config.Kafka.SASL.Password.Current(); err == nil || err.Error() != "${file:/password}: file does not exist" {
		t.Errorf("a password whose file is gone: %v", err)
	}
	if got, err := config.Postgres.DSN.Current(); got != config.Postgres.DSN.Reveal() || err != nil {
		t.Errorf("a secret without a file is %q, %v", got, err)
	}
	if got, want := config.Kafka.SASL.Username, "app"; got != want {
		t.Errorf("username %q, want %q", got, want)
	}
	if got, want := config.Kafka.ClientID, "${X} $5 22"; got != want {
		t.Errorf("client_id %q, want %q", got, want)
	}
	if got, want := config.Kafka.Brokers, []string{"k1:9092", "b2:92"}; !reflect.DeepEqual(got, want) {
		t.Errorf("brokers %q, want %q", got, want)
	}
	if config.Postgres.Create || config.Kafka.MaxBuffered != 3000000 || config.Kafka.Linger != time.Second {
		t.Errorf("create %t, max_buffered %s, linger %s", config.Postgres.Create, config.Kafka.MaxBuffered, config.Kafka.Linger)
	}

	config = mustLoad(t, "postgres: {dsn: host=a}\nkafka: {brokers: \"${LIST}\"}", "LIST=a,b:1")
	if got, want := config.Kafka.Brokers, []string{"a:9092", "b:1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("brokers %q, want %q", got, want)
	}
}

func TestAliases(t *testing.T) {
	config := mustLoad(t, given+"log: {level: &a debug}\noutbox: {columns: {id: &a event_id, type: *a}}\n")
	if got := config.Outbox.Columns.Type; got != "event_id" {
		t.Errorf("type is read from %q", got)
	}
}

func TestLoadErrorGivesProblems(t *testing.T) {
	_, err := loadText("kafka: {brokers: [a], linger: x}\n", "OUTBOXD_LOG_LEVEL=loud")
	var problems *LoadError
	if !errors.As(err, &problems) {
		t.Fatalf("%T is not a LoadError", err)
	}
	got := problems.Problems()
	want := []Problem{
		{File: "outboxd.yaml", Line: 1, Key: "kafka.linger", Message: "x is not a duration such as 100ms, 30s, 24h or 7d"},
		{File: "outboxd.yaml", Key: "postgres.dsn", Message: "missing; give it here or as OUTBOXD_POSTGRES_DSN"},
		{Variable: "OUTBOXD_LOG_LEVEL", Key: "log.level", Message: "loud is not one of trace, debug, info, warn, error"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	got[0].Message = "changed"
	if strings.Contains(err.Error(), "changed") {
		t.Error("Problems gives away its own slice")
	}
}

// wantError compares a whole error text.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("error:\n%s\nwant:\n%s", got, want)
	}
}
