package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What the configuration says of columns is checked against the table before
// anything is made: exit 1, with the key, the column and what to do.
func TestMappingRefused(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec(`CREATE DOMAIN amount AS int;
		ALTER TABLE outbox ADD note text, ADD at timestamptz, ADD day date, ADD n numeric, ADD body amount, ADD list json[],
			ADD twice text GENERATED ALWAYS AS (aggregateid || aggregateid) STORED`)
	for name, test := range map[string]struct {
		route, extra string
		says         []string
	}{
		"no such time":           {"", "outbox: {columns: {timestamp: happened}}", []string{"outbox.columns.timestamp", `no column "happened"`, `set it to ""`}},
		"time of a wrong type":   {"", "outbox: {columns: {timestamp: day}}", []string{"outbox.columns.timestamp", `"day"`, "date", "timestamptz, timestamp, int8"}},
		"version of text":        {"", "outbox: {columns: {version: note}}", []string{"outbox.columns.version", `"note"`, "text", "int8"}},
		"payload of a domain":    {"", "outbox: {columns: {payload: body}}", []string{"outbox.columns.payload", `"body"`, "int4", "jsonb"}},
		"no such header":         {"", "outbox: {headers: {x: note, tenant: tenant_id}}", []string{"outbox.headers.tenant", `no column "tenant_id"`}},
		"headers of text":        {"", "outbox: {headers_column: note}", []string{"outbox.headers_column", `"note"`, "json, jsonb"}},
		"headers of an array":    {"", "outbox: {headers_column: list}", []string{"outbox.headers_column", `"list"`, "json, jsonb"}},
		"no such topic column":   {`{topic: "{column:tenant}"}`, "", []string{"route.topic", `no column "tenant"`}},
		"no such key column":     {`{topic: a, key: "{column:tenant}"}`, "", []string{"route.key", `no column "tenant"`}},
		"no such rule column":    {`{topic: a, rules: [{topic: b}, {type: x, topic: "{column:tenant}"}]}`, "", []string{"route.rules[1].topic", `no column "tenant"`}},
		"partition of a numeric": {`{topic: a, partition: n}`, "", []string{"route.partition", `"n"`, "numeric", "int4"}},
		"a generated column":     {`{topic: a, key: "{column:twice}"}`, "", []string{"route.key", `"twice"`, "generated", "PostgreSQL 18"}},
	} {
		t.Run(name, func(t *testing.T) {
			run := *s
			run.t, run.route, run.extra = t, test.route, test.extra
			run.start().failsWith(1, test.says...)
			if n := s.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'"); n != "0" {
				t.Error("a slot was made that nobody reads")
			}
		})
	}
}

// An event that cannot be mapped stops the run: exit 1, and the last line names
// its id, its position, and the column. What came before it is delivered and
// confirmed, it is not, and nothing behind it is published.
func TestEventThatCannotBeMapped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		columns      string // of the table, beside the usual
		route, extra string
		bad          string // what the bad event has in the columns type, payload and those
		encoding     string
		says         []string
	}{
		"infinite time": {
			columns: "at timestamptz", extra: "outbox: {columns: {timestamp: at}}",
			bad: `'t0', '{}', 'infinity'`, says: []string{"outbox.columns.timestamp", "infinity"},
		},
		"time before 1970": {
			columns: "at bigint", extra: "outbox: {columns: {timestamp: at}}\nvalue: {timestamp: column}",
			bad: `'t0', '{}', -1`, says: []string{"outbox.columns.timestamp", "1969-12-31", "1970"},
		},
		"time too far ahead for Kafka": {
			columns: "at timestamp", extra: "outbox: {columns: {timestamp: at}}\nvalue: {timestamp: column, format: json}",
			bad: `'t0', '{}', now() AT TIME ZONE 'UTC' + '3 days'`, says: []string{"outbox.columns.timestamp", "message.timestamp.after.max.ms", ".t0"},
		},
		"partition that is not there": {
			columns: "shard int", route: `{topic: "PREFIX.t0", partition: shard}`,
			bad: `'t0', '{}', 3`, says: []string{"route.partition", "partition 3", "3 partitions", ".t0"},
		},
		"negative partition": {
			columns: "shard smallint", route: `{topic: "PREFIX.t0", partition: shard}`,
			bad: `'t0', '{}', -1`, says: []string{"route.partition", `"-1"`},
		},
		"NULL key": {
			columns: "tenant text", route: `{topic: "PREFIX.t0", key: "{column:tenant}"}`,
			bad: `'t0', '{}', NULL`, says: []string{`"tenant"`, "route.key", "NULL"},
		},
		"topic of a rule": {
			columns: "tenant text", route: `{topic: "PREFIX.t0", rules: [{type: "x*", topic: "PREFIX.{column:tenant}"}]}`,
			bad: `'x1', '{}', 'a/b'`, says: []string{"{column:tenant}", "a/b"},
		},
		"headers that are no object": {
			columns: "more jsonb", extra: "outbox: {headers_column: more}",
			bad: `'t0', '{}', '[1]'`, says: []string{"outbox.headers_column", "object"},
		},
		"CloudEvent without a type": {
			columns: "x int", route: `{topic: "PREFIX.t0"}`, extra: "value: {headers: cloudevents}",
			bad: `'', '{}', 1`, says: []string{"outbox.columns.type", "CloudEvent"},
		},
		"bytes that are not UTF-8": {
			columns: "x int", extra: "value: {format: json}", encoding: "SQL_ASCII",
			bad: `'t0', E'{"a": "\xf6"}', 1`, says: []string{"outbox.columns.payload", "UTF-8"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			if test.encoding != "" {
				s.recreate(test.encoding)
				s.exec("CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, aggregatetype text, aggregateid text, type text, payload json)")
			}
			s.exec("ALTER TABLE outbox ADD " + test.columns)
			s.route, s.extra = strings.ReplaceAll(test.route, "PREFIX", s.topic), test.extra
			column, _, _ := strings.Cut(test.columns, " ")
			good := map[string]string{"at timestamptz": "now()", "at bigint": "extract(epoch FROM now())::bigint * 1000", "at timestamp": "now() AT TIME ZONE 'UTC'",
				"tenant text": "'a'", "more jsonb": `'{"h": "x"}'`}[test.columns]
			if good == "" {
				good = "1"
			}
			c := s.startStreaming()
			insert := "INSERT INTO outbox (aggregateid, type, payload, " + column + ") VALUES ('k', "
			s.exec(insert + `'t0', '{"n": 1}', ` + good + `)`)
			s.waitConfirmed(60 * time.Second)
			s.exec("DO $$ BEGIN " + insert + `'t0', '{"n": 2}', ` + good + `);` + insert + test.bad + `); END $$`)
			after := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			s.exec(insert + `'t0', '{"n": 4}', ` + good + `)`)
			says := append(test.says, "poison event", `id "3"`, "-00000002", "nothing after it is confirmed")
			c.failsWith(1, says...)
			if confirmed := s.confirmed(); confirmed >= after {
				t.Errorf("the slot is at %s, the bad event's transaction ends before %s", confirmed, after)
			}
			// The first of its transaction may be there twice: while a topic's limits
			// are not known yet, Kafka refuses the bad one, and it is sent once more.
			values := make(map[string]bool)
			for _, r := range s.read() {
				values[string(r.value)] = true
			}
			if len(values) != 2 {
				t.Errorf("%d events, want the 2 before the bad one", len(values))
			}
		})
	}
}

// Bytes that are no UTF-8 go through raw values as they are.
func TestBytesOfSQLASCII(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.recreate("SQL_ASCII")
	s.exec("CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, aggregatetype text, aggregateid text, type text, payload text)")
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES (E'k\xf6', 't0', E'Gr\xf6\xdfe'), ('k', 't0', E'Gr\xc3\xb6\xc3\x9fe')`)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	values := make(map[string]string)
	for _, r := range s.read() {
		values[r.key] = string(r.value)
	}
	if len(values) != 2 || values["k\xf6"] != "Gr\xf6\xdfe" || values["k"] != "Größe" {
		t.Errorf("%q", values)
	}
}

// A database in another encoding is read as UTF-8.
func TestLatin1(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.recreate("LATIN1")
	s.exec("CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, aggregatetype text, aggregateid text, type text, payload json)")
	s.extra = "value: {format: json}"
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT word, 't0', to_json(word) FROM concat('Gr', chr(246), chr(223), 'e') AS word`)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	records := s.read()
	if len(records) != 1 || records[0].key != "Größe" || !strings.Contains(string(records[0].value), `"aggregate_id":"Größe"`) ||
		!strings.HasSuffix(string(records[0].value), `"payload":"Größe"}`) {
		t.Errorf("%v", records)
	}
}

// The table that init makes for a mapping is one that run takes.
func TestInitOfAMapping(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("DROP TABLE outbox")
	s.route = fmt.Sprintf(`{topic: "%s.{column:Tenant}", key: "{column:Tenant}", partition: shard}`, s.topic)
	s.extra = `outbox:
  columns: {timestamp: happened, version: v, schema_version: sv, correlation_id: c, causation_id: c, traceparent: trace}
  headers: {tenant: Tenant, again: shard}
  headers_column: more`
	if code, stdout, stderr := invoke(t, "init", "--apply", "--role", "", "--config", s.configFile()); code != 0 {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (type, aggregatetype, aggregateid, payload, happened, v, "Tenant", shard, more)
		VALUES ('t', 'a', 'k', '{}', now(), 7, 'acme', 2, '{"x": 1}')`)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	if records := s.read(); len(records) != 1 || records[0].key != "acme" || records[0].partition != 2 || records[0].header("again") != "2" ||
		records[0].header("x") != "1" || records[0].header("version") != "7" {
		t.Errorf("%v", records)
	}
}
