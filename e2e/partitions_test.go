package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// A partitioned outbox whose partitions come and go under the stream, and differ
// from it in how they store their columns. Its publication was made by someone
// else, for everything. Rows with an id from 9000 on never were the outbox's.
func TestPartitions(t *testing.T) {
	t.Parallel()
	for version, publication := range map[string]string{"13": "FOR ALL TABLES", "18": "FOR TABLES IN SCHEMA public"} {
		t.Run(version, func(t *testing.T) {
			s := newScenario(t, ownPostgres(t, testbed.PostgresOptions{Version: version}), nil)
			s.extra = "outbox: {backfill: existing}"
			const columns = "day int, id bigint, aggregatetype text DEFAULT 'order', aggregateid text, type text, payload jsonb"
			s.execIn(s.database, `DROP TABLE outbox;
				CREATE TABLE outbox (`+columns+`) PARTITION BY RANGE (day);
				CREATE TABLE day1 PARTITION OF outbox FOR VALUES FROM (1) TO (2);
				CREATE TABLE day2 (payload jsonb, gone int, type text, id bigint, aggregateid text, gone2 text, aggregatetype text DEFAULT 'order', day int);
				ALTER TABLE day2 DROP COLUMN gone, DROP COLUMN gone2;
				ALTER TABLE outbox ATTACH PARTITION day2 FOR VALUES FROM (2) TO (3);
				CREATE TABLE day3 (`+columns+`) PARTITION BY LIST (aggregateid);
				CREATE TABLE day3a PARTITION OF day3 FOR VALUES IN ('k0', 'k1');
				CREATE TABLE day3b PARTITION OF day3 DEFAULT;
				ALTER TABLE outbox ATTACH PARTITION day3 FOR VALUES FROM (3) TO (4);
				CREATE TABLE otherdays PARTITION OF outbox DEFAULT;
				CREATE PUBLICATION outboxd `+publication)
			id := 0
			insert := func(table string, day, count int) {
				t.Helper()
				s.exec(fmt.Sprintf(`INSERT INTO %s (id, day, aggregateid, type, payload)
					SELECT i, %d, 'k' || i %% 4, 't0', jsonb_build_object('n', i) FROM generate_series($1::int, $2::int) i`, table, day), id+1, id+count)
				id += count
			}
			foreign := 9000
			notOurs := func(table string, day int) {
				t.Helper()
				foreign++
				s.exec(fmt.Sprintf(`INSERT INTO %s (id, day, aggregateid, type, payload) VALUES (%d, %d, 'k0', 't0', '{"n": %[2]d}')`, table, foreign, day))
			}
			// Before PostgreSQL 15 a stream does not notice that a table that it
			// has met became a partition, or is none any more, until its
			// publication is touched.
			touch := ""
			if version == "13" {
				touch = "; ALTER PUBLICATION outboxd SET (publish = 'insert')"
			}
			everywhere := func() {
				t.Helper()
				for day := 1; day <= 5; day++ {
					insert("outbox", day, 4)
				}
				insert("day2", 2, 4)
				insert("day3", 3, 4)
			}
			// Under another name, every partition is another table.
			s.start().failsWith(1, "publish_via_partition_root", "ALTER PUBLICATION")
			s.exec("ALTER PUBLICATION outboxd SET (publish_via_partition_root = true)")
			everywhere()
			c := s.startStreaming()
			everywhere()

			// A new partition, and one that brings rows and an order of its own.
			s.exec("CREATE TABLE day10 PARTITION OF outbox FOR VALUES FROM (10) TO (11)")
			insert("outbox", 10, 4)
			s.execIn(s.database, `CREATE TABLE day11 (type text, extra int, payload jsonb, aggregatetype text DEFAULT 'order', aggregateid text, day int, id bigint);
				ALTER TABLE day11 DROP COLUMN extra`)
			notOurs("day11", 11)
			s.execIn(s.database, "ALTER TABLE outbox ATTACH PARTITION day11 FOR VALUES FROM (11) TO (12)"+touch)
			insert("outbox", 11, 4)
			insert("day11", 11, 4)
			everywhere()

			// One that goes, lives on its own, and comes back.
			s.execIn(s.database, "ALTER TABLE outbox DETACH PARTITION day2"+touch)
			notOurs("day2", 2)
			s.exec("ALTER TABLE day2 ADD COLUMN mine int")
			notOurs("day2", 2)
			s.exec("ALTER TABLE day2 DROP COLUMN mine")
			s.execIn(s.database, "ALTER TABLE outbox ATTACH PARTITION day2 FOR VALUES FROM (2) TO (3)"+touch)
			everywhere()

			// The same below a partition, in one transaction with rows.
			s.execIn(s.database, fmt.Sprintf(`BEGIN;
				INSERT INTO outbox (id, day, aggregateid, type, payload) VALUES (%d, 3, 'k1', 't0', '{"n": %[1]d}');
				ALTER TABLE day3 DETACH PARTITION day3a%[3]s;
				INSERT INTO day3a (id, day, aggregateid, type, payload) VALUES (9900, 3, 'k1', 't0', '{"n": 9900}');
				ALTER TABLE day3 ATTACH PARTITION day3a FOR VALUES IN ('k0', 'k1')%[3]s;
				INSERT INTO day3a (id, day, aggregateid, type, payload) VALUES (%[2]d, 3, 'k1', 't0', '{"n": %[2]d}');
				COMMIT`, id+1, id+2, touch))
			id += 2
			everywhere()

			// The table gets a column; a partition is truncated, and one dropped.
			s.exec("ALTER TABLE outbox ADD COLUMN note text DEFAULT 'x'")
			rows := s.rows()
			s.exec("TRUNCATE day1")
			s.exec("DROP TABLE day10")
			everywhere()
			for id, r := range s.rows() {
				rows[id] = r
			}
			for id := range rows {
				if n, err := strconv.Atoi(id); err != nil || n >= 9000 {
					delete(rows, id)
				}
			}
			s.waitConfirmed(30 * time.Second)
			c.stop()
			if r := s.verifyRows(rows, nil); r.committed != id || r.repeated != 0 {
				t.Errorf("%+v, %d rows", r, id)
			}
		})
	}
}
