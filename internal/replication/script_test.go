package replication

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

func TestParseHistory(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    map[int32]pglogrepl.LSN
	}{
		"empty": {"", map[int32]pglogrepl.LSN{}},
		"two switches": {
			"1\t0/9000000\tno recovery target specified\n\n2\t1/A0000F8\tbefore 2000-01-01 05:00:00+05\n",
			map[int32]pglogrepl.LSN{1: 0x9000000, 2: 0x1_0A0000F8},
		},
		"no newline at the end": {"1\t0/10", map[int32]pglogrepl.LSN{1: 0x10}},
		"comments and rubbish":  {"# 1 0/1\n  \nx\t0/1\n3\n4\tnowhere\n5\t0/5\n", map[int32]pglogrepl.LSN{5: 5}},
		"number out of range":   {"99999999999\t0/1\n", map[int32]pglogrepl.LSN{}},
	} {
		if got := parseHistory(c.content); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		``:          `''`,
		`outbox`:    `'outbox'`,
		`it's`:      `'it''s'`,
		`a"b`:       `'a"b'`,
		`back\`:     `E'back\\'`,
		`\'; DROP `: `E'\\''; DROP '`,
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%s) is %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		`outbox`:   `"outbox"`,
		`Order`:    `"Order"`,
		`a"b`:      `"a""b"`,
		`it's \ x`: `"it's \ x"`,
	} {
		if got := QuoteIdent(in); got != want {
			t.Errorf("QuoteIdent(%s) is %s, want %s", in, got, want)
		}
	}
}

func options() Options {
	return Options{
		Slot: "outboxd", Publication: "outboxd", Failover: "auto", Schema: "public", Table: "outbox",
		Columns: []Column{
			{Key: "outbox.columns.id", Name: "id"},
			{Key: "outbox.columns.aggregate_type", Name: "aggregatetype"},
			{Key: "outbox.columns.aggregate_id", Name: "aggregateid"},
			{Key: "outbox.columns.type", Name: "type"},
			{Key: "outbox.columns.payload", Name: "payload"},
		},
	}
}

func TestScriptWithoutATable(t *testing.T) {
	o := options()
	o.Schema, o.Table, o.MessagePrefix = "", "", "shop"
	var got strings.Builder
	for _, s := range Script(o, "app") {
		got.WriteString(s.SQL + "\n")
	}
	for _, part := range []string{`CREATE ROLE "app" LOGIN`, `ALTER ROLE "app" REPLICATION`, `CREATE PUBLICATION "outboxd" WITH (publish = 'insert')`, "pg_create_logical_replication_slot('outboxd'"} {
		if !strings.Contains(got.String(), part) {
			t.Errorf("no %s in\n%s", part, &got)
		}
	}
	for _, part := range []string{"TABLE", "GRANT USAGE", "GRANT SELECT"} {
		if strings.Contains(got.String(), part) {
			t.Errorf("%s in\n%s", part, &got)
		}
	}
}

// The backfill makes the slot itself: one that is there means that it is done.
func TestScriptLeavesTheSlotToTheBackfill(t *testing.T) {
	o := options()
	o.Backfill = true
	for _, s := range Script(o, "app") {
		if strings.Contains(s.SQL, "slot") {
			t.Errorf("it makes a slot: %s", s.SQL)
		}
	}
}

func TestScript(t *testing.T) {
	var got strings.Builder
	for _, s := range Script(options(), "app") {
		if s.Comment == "" || strings.Contains(s.Comment, "\n") {
			t.Errorf("comment %q: it is printed as one line", s.Comment)
		}
		fmt.Fprintf(&got, "%s;\n", s.SQL)
	}
	const want = `CREATE TABLE IF NOT EXISTS "public"."outbox" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "aggregatetype" text NOT NULL,
  "aggregateid" text NOT NULL,
  "type" text NOT NULL,
  "payload" jsonb,
  created_at timestamptz NOT NULL DEFAULT now()
);
DO $outboxd$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') THEN
    CREATE ROLE "app" LOGIN;
  END IF;
END $outboxd$;
DO $outboxd$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN
    GRANT rds_replication TO "app";
  ELSIF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app' AND (rolreplication OR rolsuper)) THEN
    ALTER ROLE "app" REPLICATION;
  END IF;
END $outboxd$;
GRANT USAGE ON SCHEMA "public" TO "app";
GRANT SELECT ON "public"."outbox" TO "app";
DO $outboxd$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'outboxd') THEN
    IF current_setting('server_version_num')::int >= 180000 AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = '"public"."outbox"'::regclass
        AND attgenerated = 's' AND attname IN ('id', 'aggregatetype', 'aggregateid', 'type', 'payload')) THEN
      CREATE PUBLICATION "outboxd" FOR TABLE "public"."outbox" WITH (publish = 'insert', publish_via_partition_root = true, publish_generated_columns = stored);
    ELSE
      CREATE PUBLICATION "outboxd" FOR TABLE "public"."outbox" WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
  END IF;
END $outboxd$;
DO $outboxd$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'outboxd') THEN
    IF current_setting('server_version_num')::int >= 170000 THEN
      PERFORM pg_create_logical_replication_slot('outboxd', 'pgoutput', false, false, true);
    ELSE
      PERFORM pg_create_logical_replication_slot('outboxd', 'pgoutput');
    END IF;
  END IF;
END $outboxd$;
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestScriptWithoutRole(t *testing.T) {
	for _, s := range Script(options(), "") {
		if strings.Contains(s.SQL, "ROLE") || strings.Contains(s.SQL, "GRANT") {
			t.Errorf("a role is touched though none was named: %s", s.SQL)
		}
	}
}

func TestScriptQuotesNames(t *testing.T) {
	o := options()
	o.Schema, o.Table, o.Publication = `My"Schema`, "Out Box", "it's"
	var all strings.Builder
	for _, s := range Script(o, "o'brien") {
		all.WriteString(s.SQL)
	}
	for _, want := range []string{
		`"My""Schema"."Out Box"`, `pubname = 'it''s'`, `PUBLICATION "it's"`, `rolname = 'o''brien'`, `ROLE "o'brien"`,
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the script has no %s", want)
		}
	}
}

func TestScriptColumns(t *testing.T) {
	o := options()
	o.Columns = []Column{
		{Key: "outbox.columns.id", Name: "id"},
		{Key: "outbox.columns.aggregate_id", Name: "key"},
		{Key: "outbox.columns.correlation_id", Name: "key"}, // shared
		{Key: "outbox.columns.version", Name: "created_at"},
	}
	sql := Script(o, "")[0].SQL
	for column, want := range map[string]int{`"key"`: 1, "created_at": 1} {
		if n := strings.Count(sql, column); n != want {
			t.Errorf("column %s stands %d times:\n%s", column, n, sql)
		}
	}
	if strings.Contains(sql, ",\n)") {
		t.Errorf("a comma before the end:\n%s", sql)
	}
}

// A row has its time without the writer's doing, whether created_at is mapped or not: by
// it go --since and retention.
func TestScriptTimeOfARow(t *testing.T) {
	for _, name := range []string{"created_at", "happened"} {
		o := options()
		o.Columns = append(o.Columns, Column{Key: "outbox.columns.timestamp", Name: name})
		if sql := Script(o, "")[0].SQL; !strings.Contains(sql, `"`+name+`" timestamptz DEFAULT now()`) {
			t.Errorf("a row that does not say its %s has none:\n%s", name, sql)
		}
	}
}

func TestSlotSQL(t *testing.T) {
	const plain, failover = `pg_create_logical_replication_slot('s', 'pgoutput')`, `pg_create_logical_replication_slot('s', 'pgoutput', false, false, true)`
	for _, c := range []struct {
		failover string
		version  int
		want     string // "": refused
	}{
		{"auto", 130000, plain}, {"auto", 169999, plain}, {"auto", 170000, failover},
		{"off", 130000, plain}, {"off", 180000, plain},
		{"on", 160004, ""}, {"on", 170000, failover},
	} {
		got, err := CreateSlotSQL("s", c.failover, c.version)
		if c.want == "" {
			if err == nil {
				t.Errorf("failover %s on %d is not refused", c.failover, c.version)
			}
			continue
		}
		if err != nil || got != "SELECT "+c.want {
			t.Errorf("failover %s on %d: %s, %v", c.failover, c.version, got, err)
		}
	}
	for setting, want := range map[string]string{"on": failover, "off": plain} {
		o := options()
		o.Slot, o.Failover = "s", setting
		script := Script(o, "")
		if sql := script[len(script)-1].SQL; strings.Count(sql, "PERFORM") != 1 || !strings.Contains(sql, "PERFORM "+want) {
			t.Errorf("failover %s:\n%s", setting, sql)
		}
	}
}

// What removes rows needs the right to.
func TestScriptGrantsWhatRetentionNeeds(t *testing.T) {
	o := Options{Slot: "outboxd", Publication: "outboxd", Schema: "public", Table: "outbox", Columns: []Column{{Name: "id"}}}
	for _, removes := range []bool{true, false} {
		o.Removes = removes
		var got strings.Builder
		for _, s := range Script(o, "app") {
			got.WriteString(s.SQL + "\n")
		}
		if strings.Contains(got.String(), `GRANT DELETE ON "public"."outbox" TO "app"`) != removes {
			t.Errorf("removes %t:\n%s", removes, &got)
		}
	}
}
