package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/testbed"
)

// connectWorker returns the Kafka Connect worker that these tests share.
func connectWorker(t *testing.T) *testbed.Connect {
	t.Helper()
	brokers := sharedKafka(t).Brokers()
	shared.Lock()
	defer shared.Unlock()
	if shared.connect == nil {
		c, err := testbed.StartConnect(context.Background(), testbed.ConnectOptions{Brokers: brokers, Group: "connect", Heap: "1g"})
		if err != nil {
			t.Fatal(err)
		}
		shared.connect = c
	}
	return shared.connect
}

const (
	stringConverter = "org.apache.kafka.connect.storage.StringConverter"
	jsonConverter   = "org.apache.kafka.connect.json.JsonConverter"
)

// connectorOptions are what every connector needs for the scenario's outbox.
func (s *scenario) connectorOptions(name string) map[string]string {
	s.t.Helper()
	db, err := pgx.ParseConfig(s.postgres.DSN(s.database))
	if err != nil {
		s.t.Fatal(err)
	}
	return map[string]string{
		"connector.class":   "io.debezium.connector.postgresql.PostgresConnector",
		"plugin.name":       "pgoutput",
		"database.hostname": db.Host, "database.port": strconv.Itoa(int(db.Port)),
		"database.user": db.User, "database.password": db.Password, "database.dbname": db.Database,
		"topic.prefix":                "dbz." + name, // two of one name wait for each other's metrics
		"table.include.list":          "public.outbox",
		"slot.name":                   name,
		"publication.name":            "dbz",
		"publication.autocreate.mode": "disabled",
		"snapshot.mode":               "no_data",
		"poll.interval.ms":            "50",
		"transforms":                  "outbox",
		"transforms.outbox.type":      "io.debezium.transforms.outbox.EventRouter",
		"transforms.outbox.route.topic.replacement": name + ".${routedByValue}",
		"key.converter":   stringConverter,
		"value.converter": stringConverter,
	}
}

// importDebezium returns the configuration that equals a connector's.
func importDebezium(t *testing.T, options map[string]string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"name": "outbox", "config": options})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "connector.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := invoke(t, "import-debezium", file)
	if code != 0 {
		t.Fatalf("import-debezium ends with %d:\n%s", code, errs)
	}
	return out
}

const (
	everyHeader = "type:header:eventType,n2:header,n4:header,n8:header,f4:header,f8:header,ok:header,u:header,at:header,ts:header,ts3:header,tx:header,d:header,payload:header:json,pt:header:text"
	everyField  = "type:envelope:eventType,n2:envelope,n4:envelope,n8:envelope,f4:envelope,f8:envelope,ok:envelope,u:envelope,at:envelope,ts:envelope,ts3:envelope,tx:envelope,d:envelope,pj:envelope:json,pt:envelope:te\"xt"
)

// debeziumCases are connectors over one table, by what they add to the options that
// all have.
var debeziumCases = map[string]map[string]string{
	"strings": {
		"smt.table.fields.additional.placement": everyHeader,
	},
	"text_tombstones": {
		"smt.table.field.event.payload":         "pt",
		"smt.route.tombstone.on.empty.payload":  "true",
		"smt.table.field.event.timestamp":       "ts",
		"smt.table.op.invalid.behavior":         "error",
		"smt.table.fields.additional.placement": "part:partition, type:header",
		"extended.headers.enabled":              "false",
		"predicates":                            "outbox", "predicates.outbox.pattern": `dbz\.text_.*\.public\.outbox`,
		"predicates.outbox.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
		"smt.predicate":          "outbox",
		"heartbeat.interval.ms":  "1000",
	},
	"json_text": {
		"smt.table.field.event.payload": "pv",
		"key.converter":                 jsonConverter, "key.converter.schemas.enable": "false",
		"value.converter": jsonConverter, "value.converter.schemas.enable": "false",
		"header.converter": jsonConverter, "header.converter.schemas.enable": "false",
		"smt.table.fields.additional.placement": everyHeader,
	},
	"json_schemas": {
		"smt.table.field.event.payload": "pj",
		"smt.table.field.event.key":     "u",
		"key.converter":                 jsonConverter,
		"value.converter":               jsonConverter,
		"header.converter":              jsonConverter,

		"smt.table.fields.additional.placement": everyHeader,
		"smt.route.tombstone.on.empty.payload":  "true",
	},
	"envelope": {
		"smt.table.field.event.key": "n8",
		"value.converter":           jsonConverter, "value.converter.schemas.enable": "false",
		"smt.table.fields.additional.placement": everyField + ",part:partition,type:header",
	},
	"envelope_schemas": {
		"smt.table.field.event.key":            "at",
		"smt.table.field.event.schema.version": "ver",
		"key.converter":                        jsonConverter, "key.converter.schemas.enable": "true",
		"value.converter":                       jsonConverter,
		"smt.table.fields.additional.placement": everyField,
	},
	"envelope_text": {
		"smt.table.field.event.key":             "f8",
		"smt.table.fields.additional.placement": everyField,
	},
	"binary": {
		"smt.table.field.event.payload":                "pb",
		"smt.table.field.event.key":                    "ok",
		"value.converter":                              "io.debezium.converters.BinaryDataConverter",
		"value.converter.delegate.converter.type":      jsonConverter,
		"smt.route.tombstone.on.empty.payload":         "true",
		"smt.table.fields.additional.error.on.missing": "true",
	},
	"byte_array": {
		"smt.table.field.event.payload":      "pb",
		"smt.table.field.event.key":          "ts3",
		"value.converter":                    "org.apache.kafka.connect.converters.ByteArrayConverter",
		"smt.table.field.additional.missing": "error",
	},
	"json_binary": {
		"smt.table.field.event.payload": "pb",
		"smt.table.field.event.key":     "d",
		"key.converter":                 jsonConverter, "key.converter.schemas.enable": "true",
		"value.converter": jsonConverter, "value.converter.schemas.enable": "true",
	},
	"expand": {
		"smt.table.field.event.payload": "px",
		"smt.table.expand.json.payload": "true",
		"value.converter":               jsonConverter, "value.converter.schemas.enable": "false",
	},
	"expand_keep": {
		"smt.table.field.event.payload":               "pk",
		"smt.table.expand.json.payload":               "true",
		"smt.table.json.payload.null.behavior":        "optional_bytes",
		"smt.table.json.payload.empty.array.behavior": "optional_string",
		"smt.table.fields.additional.placement":       "type:envelope",
		"value.converter":                             jsonConverter, "value.converter.schemas.enable": "false",
	},
	"regex": {
		"smt.route.by.field":          "topic",
		"smt.route.topic.regex":       `(?<kind>or|order)-?(\d{2})?(?:x|xy)?(?i)[A-Z]*`,
		"smt.route.topic.replacement": `regex.$0-$12${kind}`,
	},
}

// Rows for every option and every type. All connectors read all of them.
const debeziumTable = `DROP TABLE outbox;
CREATE DOMAIN kind AS text;
CREATE TABLE outbox (
	id uuid PRIMARY KEY, seq int NOT NULL,
	aggregatetype kind NOT NULL, aggregateid text, type varchar(50), topic text NOT NULL DEFAULT 'order',
	payload jsonb, pj json, pt text, pv varchar(4000), pb bytea, px json, pk json,
	n2 smallint, n4 int NOT NULL, n8 bigint, f4 real, f8 double precision, ok boolean, u uuid,
	at timestamptz, ts timestamp, ts3 timestamp(3), d date NOT NULL, part int, ver int NOT NULL, tx timestamp)`

// javaDoubles are numbers that Java prints in all of its ways.
var javaDoubles = []string{
	"0", "-0", "1", "-1.5", "100", "1234567.125", "9999999", "10000000", "12345678", "1e21", "1e22", "0.001", "0.00099", "1e-5", "-1.25e-7",
	"3.4028234663852886e38", "1.7976931348623157e308", "0.1", "123456789.125", "NaN", "Infinity", "-Infinity",
}

// nestedJSON is as deep as Jackson reads, or deeper.
func nestedJSON(depth int) string {
	return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
}

func debeziumRows() (rows [][]any) {
	texts := []any{
		`{"a": 1.10}`, `{"b":  [1, 2, {"c": null}], "a": 12345678901234567890.10}`, `"text"`, `9007199254740993`, `{}`, `[]`, `null`, `true`,
		`{"größe": "ключ 鍵 🔑", "esc": "\"\\\/\b\f\n\r\t\u0001\u001f\u007f"}`, `{"empty": "", "sp ace": " "}`, nil,
	}
	plain := []any{
		"", " ", "\t\n ", "plain", "with \"quotes\" and \\ and / and\nlines\r\t\b\f\x01\x1f\x7f", "ключ 鍵 🔑\u2028\u00a0\u0085", "\u00a0", nil, "{\"a\": 1}", "x",
	}
	bytea := []any{[]byte{}, []byte{0}, []byte("abc"), []byte{0xff, 0xfe, 0, 1, 2}, nil, []byte(" "), []byte("ключ")}
	expand := []any{
		`{"a": 1, "b": "x", "c": true, "d": null, "e": [], "f": {}, "g": 1.10, "h": 1e2, "i": 3000000000, "j": -0, "k": -0.0}`,
		`{"a": [1, 2, 3], "b": [1.5, 2.0], "c": ["x", null, "y"], "d": [[1], [2]], "e": [true]}`,
		`{"a": [{"x": 1}, {"x": 2}], "b": {"c": {"d": null, "e": [{"f": []}]}}}`,
		`{"mixed": [1, "x"]}`, `{"numbers": [1, 2.5]}`, `{"nulls": [null, null]}`, `"scalar"`, `12`, ` {"space": "before"}`, `[]`, nil,
		`{"dup": 1, "x": 2, "dup": "last"}`, `{"ключ": "鍵 🔑 \ud83d\udd11 \u0041\/\b\u0001"}`, `{"": 1}`, `{"a": 1, "": null}`, `{}`, `{"only": null}`,
		`{"big": 9223372036854775807, "small": -9223372036854775808, "i": 2147483647, "j": 2147483648}`, `null`,
		`{"d": [0.1, 100.0, 1e-7, 12345678.9, 1E22], "longs": [3000000000, 4000000000]}`, `[1, "mixed"]`,
		`{"half": "x\ud83dy", "\ude00": 1}`, nestedJSON(1000), nestedJSON(1001), `{"` + strings.Repeat("n", 50_000) + `": 1}`, `{"` + strings.Repeat("n", 50_001) + `": 1}`,
		`{"n": ` + strings.Repeat("7", 1001) + `}`, `{"n": 0.` + strings.Repeat("7", 998) + `}`, `{"n": 0.` + strings.Repeat("7", 999) + `}`, `{"n": -0.` + strings.Repeat("7", 1000) + `}`, `{"n": -0.` + strings.Repeat("7", 1001) + `}`,
	}
	topics := []any{"order", "or", "order-12", "order-12x", "order-12xyABC", "orx", "ORDER", "plain", "order_1", "other.topic", "or-7", "ord-12"}
	pick := func(from []any, i int) any { return from[i%len(from)] }
	const n = 78
	for i := range n {
		jsonText, keep := pick(texts, i), pick(expand, i)
		if keep == "[]" {
			keep = nil // it ends Debezium's task where empty arrays are kept
		}
		if keep == nestedJSON(1000) {
			keep = nestedJSON(999) // within the envelope, it would be deeper than Jackson writes
		}
		row := []any{
			fmt.Sprintf("00000000-0000-4000-8000-%012d", i), i, []string{"order", "customer", "order-item"}[i%3],
			pick([]any{"k1", "k2", "ключ \"q\"", "", nil, "a long key " + strings.Repeat("x", 100)}, i),
			pick([]any{"OrderPlaced", "Größe \"x\"", "", nil}, i), pick(topics, i),
			jsonText, jsonText, pick(plain, i), pick(plain, i+3), pick(bytea, i), pick(expand, i), keep,
			pick([]any{"-32768", "0", "32767", nil}, i), pick([]any{"-2147483648", "0", "2147483647"}, i),
			pick([]any{"-9223372036854775808", "9007199254740993", "0", nil}, i),
			pick([]any{"1.5", "0.1", "3.4028235e38", "1e-10", "16777216", nil, "NaN", "-Infinity"}, i),
			javaDoubles[i%len(javaDoubles)], pick([]any{"true", "false", nil}, i),
			pick([]any{"6F9619FF-8B86-D011-B42D-00C04FC964FF", nil}, i),
			pick([]any{"2024-05-06 07:08:09.123456+02", "2024-05-06 07:08:09+00", "1969-12-31 23:59:59.9Z", "2024-02-29 12:00:00.12Z", nil, "0999-01-01 00:00:00Z",
				"infinity", "-infinity", "15000-01-01 00:00:00Z", "0044-03-15 00:00:00.5Z BC", "294276-12-31 23:59:59.999999Z"}, i),
			pick([]any{"2024-05-06 07:08:09.123456", "2001-12-31 23:59:59.9", "2024-02-29 00:00:00", nil}, i),
			pick([]any{"2024-05-06 07:08:09.123", "2001-12-31 23:59:59.9", nil, "1970-01-01 00:00:00",
				"infinity", "-infinity", "15000-01-01 00:00:00", "0044-03-15 00:00:00.5 BC", "294276-12-31 23:59:59.999"}, i),
			pick([]any{"2024-05-06", "1970-01-01", "1969-12-31", "0999-06-01", "infinity", "-infinity", "15000-01-01", "0044-03-15 BC", "5874897-12-31"}, i),
			pick([]any{"0", "2", nil, "1"}, i), pick([]any{"1", "2", "7"}, i),
			pick([]any{"infinity", "-infinity", "15000-01-01 00:00:00", "0044-03-15 00:00:00.5 BC", "294276-12-31 23:59:59.999999", nil, "294247-01-10 04:00:54.775808"}, i),
		}
		rows = append(rows, row)
	}
	return rows
}

// TestDebeziumSideBySide runs Debezium and outboxd on the same rows, each connector
// beside the configuration that import-debezium made of it, and compares the records
// byte for byte.
func TestDebeziumSideBySide(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.exec("ALTER DATABASE " + s.database + " SET timezone = 'Asia/Kathmandu'")
	s.exec(debeziumTable)
	s.exec("CREATE PUBLICATION dbz FOR TABLE outbox")
	names := slices.Sorted(maps.Keys(debeziumCases))
	options := make(map[string]map[string]string)
	for _, name := range names {
		options[name] = s.connectorOptions(name)
		for option, value := range debeziumCases[name] {
			if smt, ok := strings.CutPrefix(option, "smt."); ok {
				option = "transforms.outbox." + smt
			}
			options[name][option] = value
		}
		for _, slot := range []string{name, name + "_ours"} {
			s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	admin := s.admin()
	var topics []string
	for _, name := range names {
		topics = append(topics, name+".order", name+".customer", name+".order-item")
	}
	rows := debeziumRows()
	for _, row := range rows {
		topics = append(topics, row[5].(string)) // what its pattern does not match
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	// The rows' own times are years ago: the broker would remove such records.
	forever := "-1"
	if _, err := admin.CreateTopics(ctx, 3, 1, map[string]*string{"retention.ms": &forever}, topics...); err != nil {
		t.Fatal(err)
	}
	s.insert(rows)
	target := s.lsn("SELECT pg_current_wal_lsn()::text")

	connect := connectWorker(t)
	var wg sync.WaitGroup
	for _, name := range names {
		if err := connect.Create(ctx, name, options[name]); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, 3*time.Minute, func() (string, bool) {
		for _, name := range names {
			if err := connect.Check(ctx, name); err != nil {
				t.Fatalf("connector %s: %v", name, err)
			}
		}
		n := int64(0)
		ends := s.endsOf(admin, topics)
		ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
		if n < int64(len(rows)*len(names)) {
			return fmt.Sprintf("Debezium wrote %d records", n), false
		}
		for name, records := range s.between(nil, ends) {
			ids := make(map[string]bool)
			for _, r := range records {
				ids[r.id] = true
			}
			if len(ids) < len(rows) {
				return fmt.Sprintf("%s has %d of %d rows", name, len(ids), len(rows)), false
			}
		}
		return "", true
	})
	for _, name := range names {
		if err := connect.Delete(ctx, name); err != nil {
			t.Error(err)
		}
	}
	before := s.endsOf(admin, topics)
	limit := make(chan struct{}, 3)
	for _, name := range names {
		one := *s
		one.slotName = name + "_ours"
		one.whole = importDebezium(t, options[name])
		one.env = []string{"OUTBOXD_POSTGRES_SLOT=" + one.slotName, "OUTBOXD_HTTP_LISTEN=", "OUTBOXD_LOG_FORMAT=json",
			"OUTBOXD_DELIVERY_CONFIRM_INTERVAL=50ms", "KAFKA_BROKERS=" + strings.Join(s.brokers, ",")}
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			c := one.start()
			for deadline := time.Now().Add(60 * time.Second); c.running() && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if one.confirmed() >= target {
					break
				}
			}
			c.signal(syscall.SIGTERM)
			if code := c.exit(40 * time.Second); code != 0 {
				t.Errorf("%s: exit code %d:\n%s", name, code, c.tail(10))
			}
		})
	}
	wg.Wait()
	theirs, ours := s.between(nil, before), s.between(before, s.endsOf(admin, topics))
	compared := 0
	for _, name := range names {
		compared += compare(t, name, theirs[name], ours[name], len(rows))
	}
	t.Logf("%d records of %d rows and %d connectors are the same", compared, len(rows), len(names))
}

// compare says how the records of a case differ, by the events' ids.
func compare(t *testing.T, name string, theirs, ours []record, rows int) (same int) {
	t.Helper()
	// Debezium repeats what it had not confirmed when Connect moved its task.
	first := make(map[string]bool)
	theirs = slices.DeleteFunc(theirs, func(r record) bool {
		again := first[r.id]
		first[r.id] = true
		return again
	})
	if len(theirs) != rows {
		t.Errorf("%s: Debezium wrote %d of %d rows", name, len(theirs), rows)
	}
	byID := make(map[string]record)
	for _, r := range ours {
		if _, ok := byID[r.id]; ok {
			t.Errorf("%s: outboxd wrote %s twice", name, r.id)
		}
		byID[r.id] = r
	}
	different := 0
	for _, their := range theirs {
		text, ours := whole(their), "nothing"
		if our, ok := byID[their.id]; ok {
			ours = whole(our)
		}
		delete(byID, their.id)
		if text == ours {
			same++
			continue
		}
		if different++; different <= 4 {
			t.Errorf("%s: event %s\nDebezium: %s\noutboxd:  %s", name, their.id, text, ours)
		}
	}
	if different > 0 {
		t.Errorf("%s: %d of %d records differ", name, different, len(theirs))
	}
	for id := range byID {
		t.Errorf("%s: only outboxd wrote %s", name, id)
	}
	return same
}

// whole is all that consumers see of a record. One without a key lies anywhere,
// unless its event names the partition.
func whole(r record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "topic %s", r.topic)
	row, _ := strconv.Atoi(r.id[max(0, len(r.id)-12):])
	named := strings.HasPrefix(r.topic, "text_tombstones.") && row%4 != 2 // part is NULL in each fourth
	if r.hasKey || named {
		fmt.Fprintf(&b, " partition %d", r.partition)
	}
	text := func(name string, v []byte) {
		if v == nil {
			fmt.Fprintf(&b, " %s null", name)
		} else {
			fmt.Fprintf(&b, " %s %q", name, v)
		}
	}
	if r.hasKey {
		text("key", []byte(r.key))
	}
	text("value", r.value)
	for _, h := range r.headers {
		if h.Key == "__debezium.context.runId" {
			continue // Debezium makes it up anew at each start
		}
		text("header "+h.Key, h.Value)
	}
	return b.String()
}

func (s *scenario) insert(rows [][]any) {
	s.t.Helper()
	conn := s.connect()
	for i, row := range rows {
		places := make([]string, len(row))
		for j, v := range row {
			places[j] = "$" + strconv.Itoa(j+1)
			if _, ok := v.([]byte); !ok && v != nil {
				row[j] = fmt.Sprint(v) // PostgreSQL reads each type from text
			}
		}
		_, err := conn.Exec(context.Background(), `INSERT INTO outbox (id, seq, aggregatetype, aggregateid, type, topic,
			payload, pj, pt, pv, pb, px, pk, n2, n4, n8, f4, f8, ok, u, at, ts, ts3, d, part, ver, tx) VALUES (`+strings.Join(places, ", ")+")",
			append([]any{pgx.QueryExecModeExec}, row...)...)
		if err != nil {
			s.t.Fatalf("row %d: %v", i, err)
		}
	}
}

// endsOf are the ends of topics, and of those that one case's pattern makes up.
func (s *scenario) endsOf(admin *kadm.Client, topics []string) kadm.ListedOffsets {
	s.t.Helper()
	all, err := admin.ListTopics(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	topics = slices.Clone(topics)
	for _, name := range all.Names() {
		if strings.HasPrefix(name, "regex.") && !slices.Contains(topics, name) {
			topics = append(topics, name)
		}
	}
	ends, err := admin.ListEndOffsets(context.Background(), topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return ends
}

var eventID = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// between reads the records from one set of ends to another, by the part of the
// topic before the point.
func (s *scenario) between(from, to kadm.ListedOffsets) map[string][]record {
	s.t.Helper()
	offsets, remaining := make(map[string]map[int32]kgo.Offset), int64(0)
	to.Each(func(o kadm.ListedOffset) {
		start := int64(0)
		if f, ok := from.Lookup(o.Topic, o.Partition); ok {
			start = f.Offset
		}
		if o.Offset > start {
			if offsets[o.Topic] == nil {
				offsets[o.Topic] = make(map[int32]kgo.Offset)
			}
			offsets[o.Topic][o.Partition] = kgo.NewOffset().At(start)
			remaining += o.Offset - start
		}
	})
	client := s.client(kgo.ConsumePartitions(offsets))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	records := make(map[string][]record)
	for remaining > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			s.t.Fatalf("%d records are missing", remaining)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, _ := to.Lookup(r.Topic, r.Partition); r.Offset >= end.Offset {
				return // written since
			}
			remaining--
			one := record{topic: r.Topic, partition: r.Partition, offset: r.Offset, key: string(r.Key), hasKey: r.Key != nil, value: r.Value, headers: r.Headers}
			one.id = eventID.FindString(one.header("id"))
			name, _, _ := strings.Cut(r.Topic, ".")
			if _, ok := debeziumCases[name]; !ok {
				name = "regex"
			}
			records[name] = append(records[name], one)
		})
	}
	return records
}
