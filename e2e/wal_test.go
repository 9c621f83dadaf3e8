package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Transactions whose rows interleave in the WAL and whose commits are adjacent:
// rows of a later commit lie before rows of an earlier one. With a kill after
// each group, the position must be a transaction's end and nothing else.
func TestInterleavedTransactionsWithAdjacentCommits(t *testing.T) {
	const sessions, groups = 4, 12
	s := newScenario(t, nil, nil)
	s.extra = "delivery: {confirm_interval: 10ms}"
	conns := make([]*pgx.Conn, sessions)
	for i := range conns {
		conns[i] = s.connect()
	}
	ctx := context.Background()
	s.startStreaming().kill()
	n := 0
	for group := range groups {
		for _, conn := range conns {
			if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
				t.Fatal(err)
			}
		}
		// The first session to write is the last to commit, every other time.
		for range 5 {
			n++
			for i, conn := range conns {
				if _, err := conn.Exec(ctx, `INSERT INTO outbox (aggregateid, type, payload) VALUES ($1, 't0', $2)`,
					fmt.Sprintf("s%d", i), fmt.Sprintf(`{"n": %d, "text": %q}`, n, strings.Repeat("wide ", 200*(i%2)))); err != nil {
					t.Fatal(err)
				}
			}
		}
		c := s.start()
		if group%3 == 0 {
			c.waitLog(`"message":"streaming"`, 30*time.Second)
		}
		var commits sync.WaitGroup
		for i := range conns {
			conn := conns[i]
			if group%2 == 0 {
				conn = conns[sessions-1-i]
			}
			commits.Go(func() {
				if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
					t.Errorf("commit: %v", err)
				}
			})
		}
		commits.Wait()
		time.Sleep(time.Duration(20*group) * time.Millisecond) // kill at different moments
		c.kill()
		s.checkpoint()
	}
	c := s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.committed != sessions*groups*5 {
		t.Errorf("%+v", r)
	}
}

// Payloads that PostgreSQL compresses and that it cannot: both leave the row in
// pieces. The bytes are those of the table, and a position computed from lengths
// would lie far behind the rows.
func TestLargePayloads(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ALTER payload TYPE text")
	s.extra = "delivery: {confirm_interval: 10ms}"
	s.startStreaming().kill()
	conn := s.connect()
	for round := range 6 {
		c := s.startStreaming()
		for i := range 4 {
			compressible := strings.Repeat(fmt.Sprintf("compressible %d ", i), 27_000/15)
			noise := make([]byte, 450_000)
			if _, err := rand.Read(noise); err != nil {
				t.Fatal(err)
			}
			for _, payload := range []string{compressible, base64.StdEncoding.EncodeToString(noise), "small"} {
				if _, err := conn.Exec(context.Background(), `INSERT INTO outbox (aggregateid, type, payload) VALUES ($1, 't0', $2)`,
					fmt.Sprintf("k%d", i), payload); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Duration(40*round) * time.Millisecond)
		c.kill()
		s.checkpoint()
	}
	c := s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.verify()
}

// All rows of a COPY share one LSN.
func TestCopy(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.startStreaming().kill()
	conn := s.connect()
	n, err := conn.CopyFrom(context.Background(), pgx.Identifier{"outbox"}, []string{"aggregateid", "type", "payload"},
		pgx.CopyFromSlice(5000, func(i int) ([]any, error) {
			return []any{fmt.Sprintf("k%d", i%50), "t0", fmt.Sprintf(`{"n": %d}`, i+1)}, nil
		}))
	if err != nil || n != 5000 {
		t.Fatal(n, err)
	}
	c := s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.committed != 5000 || r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}

// One transaction of 300,000 rows passes in bounded memory, also when the
// connector is killed in its midst: the transaction is then sent again.
func TestLargeTransaction(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.startStreaming().kill()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 500, 't' || i % 2, jsonb_build_object('n', i, 'text', repeat(md5(i::text), 8)) FROM generate_series(1, 300000) i`)
	end := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
	c := s.startStreaming()
	waitFor(t, 60*time.Second, func() (string, bool) { return "nothing arrives", s.arrived() > 20_000 })
	c.kill()
	s.checkpoint()
	if got := s.confirmed(); got >= end {
		t.Fatalf("the slot was confirmed up to %s, over a transaction that ended before %s", got, end)
	}
	c = s.startStreaming()
	s.waitConfirmed(120 * time.Second)
	c.checkMemory("a large transaction")
	c.stop()
	if r := s.verify(); r.committed != 300_000 {
		t.Errorf("%+v", r)
	}
}

// A row that is deleted in the transaction that wrote it is an event all the
// same; a savepoint that was rolled back to leaves none.
func TestInsertDeleteAndSavepoints(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	c := s.startStreaming()
	conn := s.connect()
	ctx := context.Background()
	deleted := make(map[string]row)
	for n := 1; n <= 200; n++ {
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r := row{key: fmt.Sprintf("k%d", n%5), typ: "t0", payload: fmt.Appendf(nil, `{"n": %d}`, 2*n)}
		if err := tx.QueryRow(ctx, `INSERT INTO outbox (aggregateid, type, payload) VALUES ($1, $2, $3) RETURNING id::text`, r.key, r.typ, string(r.payload)).Scan(&r.id); err != nil {
			t.Fatal(err)
		}
		deleted[r.id] = r
		for _, sql := range []string{
			`SAVEPOINT a`,
			`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k0', 't0', '{"n": -1}')`,
			`ROLLBACK TO a`,
			`DELETE FROM outbox`,
			fmt.Sprintf(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k%d', 't0', '{"n": %d}')`, n%5, 2*n+1),
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		for id, r := range s.rowsBy(tx) {
			deleted[id] = r
		}
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.waitConfirmed(30 * time.Second)
	c.stop()
	r := s.verifyRows(deleted, nil) // all of them are expected, though the table has one
	if r.records != 400 {
		t.Errorf("%d records, want 400", r.records)
	}
}

// A partitioned outbox is one outbox, whatever partitions come and go.
func TestPartitionedOutbox(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec(`DROP TABLE outbox`)
	s.exec(`CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY, day int NOT NULL DEFAULT 1,
		aggregatetype text NOT NULL DEFAULT 'order', aggregateid text, type text, payload jsonb) PARTITION BY LIST (day)`)
	s.exec(`CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES IN (1)`)
	s.exec(`CREATE TABLE outbox_2 PARTITION OF outbox FOR VALUES IN (2)`)
	c := s.startStreaming()
	write := func(day, from, to int) {
		s.exec(`INSERT INTO outbox (day, aggregateid, type, payload) SELECT $1, 'k' || i % 7, 't0', jsonb_build_object('n', i) FROM generate_series($2::int, $3::int) i`, day, from, to)
	}
	write(1, 1, 100)
	write(2, 101, 200)
	s.exec(`CREATE TABLE outbox_3 PARTITION OF outbox FOR VALUES IN (3)`)
	write(3, 201, 300)
	s.exec(`CREATE TABLE outbox_4 (LIKE outbox INCLUDING DEFAULTS)`)
	s.exec(`ALTER TABLE outbox ATTACH PARTITION outbox_4 FOR VALUES IN (4)`)
	write(4, 301, 400)
	all := s.rows()
	s.exec(`ALTER TABLE outbox DETACH PARTITION outbox_1`)
	s.exec(`INSERT INTO outbox_1 (id, aggregateid, type, payload) VALUES (999999, 'k0', 't0', '{"n": 0}')`) // no longer the outbox
	write(2, 401, 500)
	for id, r := range s.rows() {
		all[id] = r
	}
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verifyRows(all, nil); r.records != 500 {
		t.Errorf("%+v", r)
	}
}

// Each payload type arrives as the bytes that PostgreSQL prints; nothing is
// parsed on the way.
func TestPayloadBytes(t *testing.T) {
	t.Parallel()
	for typ, payloads := range map[string][]any{
		"json":    {`{"b":1,  "a" : 9007199254740993, "a":0.1000000000000000055511151231257827}`, ` [1,2 , 3] `, `null`, nil},
		"jsonb":   {`{"b": 1, "a": 12345678901234567890.00001}`, `"text"`, nil},
		"text":    {"not json", "", "line\nbreak\t\u00e9\u4e16", nil},
		"varchar": {"not json", "", nil},
		"bytea":   {[]byte{0, 1, 2, 0xFF, '\\', 0}, []byte{}, bytes.Repeat([]byte{0xAB}, 5000), nil},
	} {
		t.Run(typ, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.exec("ALTER TABLE outbox ALTER payload TYPE " + typ + " USING NULL")
			c := s.startStreaming()
			conn := s.connect()
			var want []row
			for i, payload := range payloads {
				var id string
				var text *string
				if err := conn.QueryRow(context.Background(), `INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', $1) RETURNING id::text, payload::text`, payload).Scan(&id, &text); err != nil {
					t.Fatalf("payload %d: %v", i, err)
				}
				r := row{id: id, key: "k", typ: "t0"}
				if b, ok := payload.([]byte); ok {
					r.payload = b
				} else if text != nil {
					r.payload = []byte(*text)
				}
				want = append(want, r)
			}
			s.waitConfirmed(30 * time.Second)
			c.stop()
			records := s.read()
			if len(records) != len(want) {
				t.Fatalf("%d records, want %d", len(records), len(want))
			}
			for i, r := range records {
				if r.id != want[i].id || !bytes.Equal(r.value, want[i].payload) || (r.value == nil) != (want[i].payload == nil) {
					t.Errorf("payload %d: %v: %q, want id %s %q", i, r, r.value, want[i].id, want[i].payload)
				}
			}
		})
	}
}
