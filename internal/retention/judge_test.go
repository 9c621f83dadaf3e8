package retention

import (
	"errors"
	"strings"
	"testing"
	"time"

	"outboxd/internal/finding"
	"outboxd/internal/replication"
)

// What can never work ends a start with one line, before anything is touched. The SQL that
// is offered puts it right.
func TestBadSetups(t *testing.T) {
	for _, test := range []struct {
		name, setup string
		o           func(*Options)
		want        string
		left        string // what the SQL leaves wrong; "": nothing
	}{
		{"no time", "", func(o *Options) { o.Keep = time.Hour }, "retention.keep needs the time of a row, and none can be read", "a restart"},
		{"time of another type", "", func(o *Options) { o.Timestamp = "payload" }, `column "payload" of "public"."outbox" is missing, or is of a type that is no time`, "the column"},
		{"no column", "", func(o *Options) { o.Timestamp = "when" }, `column "when"`, "the column"},
		{"row filter", "CREATE PUBLICATION p FOR TABLE outbox WHERE (id > 5) WITH (publish = 'insert')", nil, "has a row filter", ""},

		{"no archive", "", archiveOption, `table "public"."archive" does not exist`, ""},
		{"archive lacks a column", "CREATE TABLE archive (id bigint, payload text)", archiveOption, `has no column "at"`, ""},
		{"archive of another type", "CREATE TABLE archive (id int, payload text, at timestamptz)", archiveOption, `column "id" of "public"."archive" is of type integer`, ""},
		{"archive with more NOT NULL", "CREATE TABLE archive (id bigint, payload text NOT NULL, at timestamptz)", archiveOption, `"payload" of "public"."archive" is NOT NULL`, ""},
		{"archive with a column of its own", "CREATE TABLE archive (id bigint, payload text, at timestamptz, more int NOT NULL)", archiveOption, `"more" of "public"."archive" is NOT NULL without a default`, ""},
		{"archive generates", "CREATE TABLE archive (id bigint, payload text GENERATED ALWAYS AS ('x') STORED, at timestamptz)", archiveOption, `"payload" of "public"."archive" is generated`, ""},
		{"archive is unlogged", "CREATE UNLOGGED TABLE archive (LIKE outbox)", archiveOption, "unlogged", ""},
		{"archive is a view", "CREATE VIEW archive AS SELECT * FROM outbox", archiveOption, "is not a table", "another table"},
		{"archive is the outbox", "", func(o *Options) { archiveOption(o); o.ArchiveTable = "outbox" }, "is the outbox table", "another table"},
		{"archive is a partition", partitioned, func(o *Options) { archiveOption(o); o.ArchiveTable = "y2020" }, "or a partition of it", "another table"},

		{"not partitioned", "", dropOption, "is not partitioned", "partitions"},
		{"partitioned by list", "DROP TABLE outbox; CREATE TABLE outbox (at timestamptz, payload text) PARTITION BY LIST (at)", dropOption, "does not know the partition scheme", "partitions"},
		{"partitioned by an expression", "DROP TABLE outbox; CREATE TABLE outbox (at timestamp, payload text) PARTITION BY RANGE (date_trunc('day', at))", dropOption, "does not know the partition scheme", "partitions"},
		{"partitioned by a text", "DROP TABLE outbox; CREATE TABLE outbox (at timestamptz, payload text) PARTITION BY RANGE (payload)", dropOption, "does not know the partition scheme", "partitions"},
		{"partitioned by an id", "DROP TABLE outbox; CREATE TABLE outbox (id bigint, payload text) PARTITION BY RANGE (id)", dropOption, `does not know whether column "id"`, "partitions"},
		{"pg_partman", partitioned + "; CREATE SCHEMA partman; CREATE TABLE partman.part_config (parent_table text, retention text); INSERT INTO partman.part_config VALUES ('public.outbox', '7 days')",
			dropOption, "pg_partman removes partitions of \"public\".\"outbox\" after 7 days", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "17", nil)
			if test.setup != "" {
				w.exec(test.setup)
			}
			w.o.Source.Shared = new(replication.Shared)
			if test.o != nil {
				test.o(&w.o)
			}
			err := w.retention().Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || !errors.Is(err, replication.ErrSetup) {
				t.Fatalf("%v, want %s", err, test.want)
			}
			if strings.Count(err.Error(), "\n") != 0 || strings.Count(err.Error(), "; ") == 0 {
				t.Errorf("not one line with what to do: %s", err)
			}
			found := Findings(t.Context(), w.o)
			if len(found) == 0 || found[0].Level != finding.Fail || !strings.Contains(found[0].Text, test.want) || found[0].Fix == "" {
				t.Errorf("check finds %+v", found)
			}
			if test.left != "" {
				return
			}
			for _, f := range found {
				for _, sql := range f.SQL {
					w.exec(sql)
				}
			}
			if err := w.retention().Check(t.Context()); err != nil {
				t.Errorf("after its own SQL: %v", err)
			}
			if found := Findings(t.Context(), w.o); len(found) != 1 || found[0].Level != finding.OK {
				t.Errorf("check finds %+v", found)
			}
		})
	}
}

func archiveOption(o *Options) {
	o.Mode, o.ArchiveSchema, o.ArchiveTable = Archive, "public", "archive"
}

func dropOption(o *Options) { o.Mode = DropPartitions }

const partitioned = `DROP TABLE outbox; CREATE TABLE outbox (at timestamptz, payload text) PARTITION BY RANGE (at);
	CREATE TABLE y2020 PARTITION OF outbox FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')`

// A start that has passed is not judged again: later the same is said, and retried.
func TestLaterFaultsPass(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("CREATE TABLE archive (LIKE outbox)")
	archiveOption(&w.o)
	r := w.retention()
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec("ALTER TABLE archive DROP payload; INSERT INTO outbox (payload) VALUES ('a')")
	if err := r.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.once(t.Context(), all); err == nil || !strings.Contains(err.Error(), "has no column") {
		t.Error(err)
	}
	w.want("a")
	w.exec("ALTER TABLE archive ADD payload text")
	if err := r.once(t.Context(), all); err != nil {
		t.Error(err)
	}
	w.want("")
}

// A role needs what the manual says, and no more. What it lacks is no error of a start.
func TestRights(t *testing.T) {
	for _, mode := range []string{Delete, Archive, DropPartitions} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, "17", nil)
			role := "role_" + w.value("current_database()")
			w.exec("CREATE ROLE " + role + " LOGIN; ALTER ROLE " + role + " SET statement_timeout = '1ms'; ALTER ROLE " + role + " SET default_transaction_isolation = 'serializable'")
			w.exec("CREATE SCHEMA hidden; ALTER TABLE outbox SET SCHEMA hidden; REVOKE ALL ON SCHEMA hidden FROM public; SET search_path = hidden, public")
			grants := []string{"GRANT USAGE ON SCHEMA hidden TO " + role, "GRANT SELECT, DELETE ON hidden.outbox TO " + role}
			switch mode {
			case Archive:
				w.exec("CREATE TABLE hidden.archive (LIKE hidden.outbox)")
				grants = append(grants, "GRANT INSERT ON hidden.archive TO "+role)
			case DropPartitions:
				w.exec(strings.ReplaceAll(partitioned, "outbox", "hidden.outbox"))
				w.exec("ALTER TABLE y2020 SET SCHEMA hidden")
				w.exec("GRANT CREATE ON SCHEMA hidden TO " + role)
				grants = []string{"GRANT USAGE ON SCHEMA hidden TO " + role, "ALTER TABLE hidden.outbox OWNER TO " + role, "ALTER TABLE hidden.y2020 OWNER TO " + role}
			}
			w.exec("INSERT INTO outbox (at, payload) VALUES ('2020-05-05', 'a')")
			w.o.Source.Backfill = true // or the row stays, which was there before a slot
			w.o.Mode, w.o.Source.Schema, w.o.ArchiveSchema, w.o.ArchiveTable = mode, "hidden", "hidden", "archive"
			w.o.Source.DSN = strings.Replace(w.dsn, "postgres@", role+"@", 1)
			for i := 0; ; i++ {
				r := w.retention()
				if err := r.Check(t.Context()); err != nil {
					t.Errorf("a right that is missing ends a start: %v", err)
				}
				err := r.once(t.Context(), all)
				if i == len(grants) {
					if err != nil {
						t.Error(err)
					}
					break
				}
				if err == nil {
					t.Errorf("it works without %s", grants[i])
				}
				w.want("a")
				w.exec(grants[i])
			}
			w.want("")
			if mode == Archive && w.value("SELECT payload FROM archive") != "a" {
				t.Error("the row is not in the archive")
			}
		})
	}
}

// The SQL of a finding about rights is enough.
func TestRightsOfFindings(t *testing.T) {
	w := newWorld(t, "17", nil)
	role := "role_" + w.value("current_database()")
	w.exec("CREATE ROLE " + role + " LOGIN; CREATE TABLE archive (LIKE outbox); INSERT INTO outbox (payload) VALUES ('a')")
	archiveOption(&w.o)
	w.o.Source.DSN = strings.Replace(w.dsn, "postgres@", role+"@", 1)
	found := Findings(t.Context(), w.o)
	for _, f := range found {
		if f.Level != finding.Warn { // without it events are delivered all the same
			t.Errorf("%+v", f)
		}
		for _, sql := range f.SQL {
			w.exec(sql)
		}
	}
	if found := Findings(t.Context(), w.o); len(found) != 1 || found[0].Level != finding.OK || !strings.Contains(found[0].Text, "move to") {
		t.Errorf("%+v", found)
	}
	w.run(all)
	w.want("")
}

// A role that has rights to the table, and not to its partitions.
func TestThroughThePartitionedTable(t *testing.T) {
	for _, version := range []string{"13", "17"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, version, nil)
			role := "role_" + w.value("current_database()")
			w.exec("CREATE ROLE " + role + " LOGIN; " + partitioned + "; CREATE TABLE more PARTITION OF outbox DEFAULT PARTITION BY LIST (payload); CREATE TABLE more_b PARTITION OF more FOR VALUES IN ('b'); CREATE TABLE more_c PARTITION OF more DEFAULT")
			w.exec("GRANT SELECT, DELETE ON outbox TO " + role + "; INSERT INTO outbox (at, payload) VALUES ('2020-05-05', 'a'), (now() - interval '1 hour', 'b'), (now() - interval '1 hour', 'c'), (now(), 'd'), ('2020-05-05', 'e')")
			w.o.Timestamp, w.o.Keep = "at", time.Minute
			w.o.Source.DSN = strings.Replace(w.dsn, "postgres@", role+"@", 1)
			w.run(all)
			w.want("d")
		})
	}
}

// A publication with deletes sends them to outboxd: that works, and is said.
func TestPublishedDeletes(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("CREATE PUBLICATION p FOR TABLE outbox; INSERT INTO outbox (payload) VALUES ('a')")
	found := Findings(t.Context(), w.o)
	if len(found) != 1 || found[0].Level != finding.Warn || !strings.Contains(found[0].Text, "publishes deletes") {
		t.Fatalf("%+v", found)
	}
	w.run(all)
	w.want("")
	w.exec(found[0].SQL[0])
	if found := Findings(t.Context(), w.o); len(found) != 1 || found[0].Level != finding.OK || !strings.Contains(found[0].Text, "deleted as soon as") {
		t.Errorf("%+v", found)
	}
}
