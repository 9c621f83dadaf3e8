package decoder

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"outboxd/internal/testbed"
)

// The golden frames are what real servers sent for one scenario. To record them
// again, and the listing of what they decode to:
//
//	go test ./decoder -run TestGolden -update
var update = flag.Bool("update", false, "record the golden frames from real PostgreSQL servers")

var goldenVersions = []string{"14", "15", "16", "17", "18"}

// The scenario's tables: an ordinary outbox with every field, a partitioned one,
// and the ordinary one together with messages.
var (
	goldenOutbox = Table{Schema: "public", Name: "outbox", Columns: named(map[Field]string{
		ID: "id", Type: "type", AggregateType: "aggregatetype", AggregateID: "aggregateid", Version: "version",
		SchemaVersion: "schema_version", CorrelationID: "correlation", CausationID: "correlation", TraceParent: "traceparent", Payload: "payload",
	})}
	goldenMessages = Table{Schema: "public", Name: "outbox", MessagePrefix: "outbox", Columns: goldenOutbox.Columns}
	goldenParted   = Table{Schema: "Shop", Name: "out box", Columns: named(map[Field]string{
		ID: "id", Type: "type", AggregateType: "aggregatetype", AggregateID: "aggregateid", Payload: "payload",
	})}
)

// goldenSchema runs before the slot is made.
const goldenSchema = `
CREATE TYPE kind AS ENUM ('OrderPlaced', 'OrderPaid', 'Größe geändert');
CREATE TABLE outbox (
	id uuid PRIMARY KEY, aggregatetype varchar(40), aggregateid text, type kind,
	note text, payload jsonb, version bigint, schema_version smallint, correlation text, traceparent char(12));
CREATE TABLE orders (id int PRIMARY KEY, state kind, payload text);
CREATE SCHEMA "Shop";
CREATE TABLE "Shop".outbox (LIKE public.outbox INCLUDING ALL);
CREATE TABLE "Shop"."out box" (day date, id uuid, aggregatetype text, aggregateid text, type text, payload text) PARTITION BY RANGE (day);
CREATE TABLE "Shop".january PARTITION OF "Shop"."out box" FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE "Shop".later PARTITION OF "Shop"."out box" DEFAULT;
CREATE PUBLICATION outbox FOR TABLE outbox, orders, "Shop".outbox, "Shop"."out box" WITH (publish_via_partition_root = true);`

// goldenSteps run one after the other, each on the session whose number it
// begins with, so that transactions can overlap.
var goldenSteps = []string{
	// Ordinary rows; other tables, in the same transaction and alone.
	`1 INSERT INTO outbox VALUES (id(1), 'order', 'order-1', 'OrderPlaced', 'first', '{"a": 1}', 1, 2, 'c-1', '00-abc')`,
	`1 BEGIN; INSERT INTO orders VALUES (1, 'OrderPlaced', 'x');
	   INSERT INTO outbox VALUES (id(2), 'order', 'order-1', 'OrderPaid', NULL, '{"big": 123456789012345678901234567890, "dec": 1.10, "n": null, "ü": "\u00e9\\"}');
	   INSERT INTO "Shop".outbox VALUES (id(3), 'order', 'order-1', 'OrderPaid', 'a namesake in another schema');
	   INSERT INTO outbox VALUES (id(4), 'order', '', 'Größe geändert', '', NULL, -9223372036854775808, 0, '', '');
	   COMMIT`,
	`1 UPDATE orders SET payload = 'y'; DELETE FROM orders; TRUNCATE orders`,
	`1 UPDATE outbox SET note = 'seen'; DELETE FROM outbox WHERE id = id(1)`,
	`1 BEGIN; INSERT INTO outbox (id) VALUES (id(5)); DELETE FROM outbox WHERE id = id(5); COMMIT`,
	// What is rolled back, whole or to a savepoint, is never sent.
	`1 BEGIN; INSERT INTO outbox (id) VALUES (id(6)); ROLLBACK`,
	`1 BEGIN; INSERT INTO outbox (id, payload) VALUES (id(7), '"kept"'); SAVEPOINT s;
	   INSERT INTO outbox (id, payload) VALUES (id(8), '"lost"'); ROLLBACK TO s;
	   INSERT INTO outbox (id, payload) VALUES (id(9), '"kept too"'); COMMIT`,
	// Messages: alone, rolled back, of another prefix, outside every transaction,
	// and between rows; whole, large, and not what they should be.
	`1 SELECT pg_logical_emit_message(true, 'outbox', '{"message": 1}')`,
	`1 BEGIN; SELECT pg_logical_emit_message(true, 'outbox', '{"id": "rolled back"}'); ROLLBACK`,
	`1 SELECT pg_logical_emit_message(true, 'outbox.other', '{"id": "other"}'), pg_logical_emit_message(false, 'outbox', '{"id": "stray"}')`,
	`1 BEGIN; INSERT INTO outbox (id, payload) VALUES (id(13), '"row 1"');
	   SELECT pg_logical_emit_message(true, 'outbox', '{"id": "message 2", "type": "OrderPaid", "aggregatetype": "order", "aggregate_id": "order-1", "correlation": null,
	     "payload": {"big": 123456789012345678901234567890,  "ü": "\u00e9\\", "n": null}, "version": 3}');
	   INSERT INTO outbox (id, payload) VALUES (id(14), '"row 3"'); SAVEPOINT s; SELECT pg_logical_emit_message(true, 'outbox', '{"id": "lost"}'); ROLLBACK TO s;
	   SELECT pg_logical_emit_message(true, 'outbox', '[]'), pg_logical_emit_message(true, 'outbox', ''), pg_logical_emit_message(true, 'outbox', '\x7b22ff227d'::bytea);
	   INSERT INTO outbox (id, payload) VALUES (id(15), '"row 7"'); COMMIT`,
	`1 SELECT pg_logical_emit_message(true, 'outbox', '{"id": "large", "payload": "' || string_agg(md5(i::text), '') || '"}') FROM generate_series(1, 2000) i`,
	// Transactions that overlap: the first to begin commits last.
	`1 BEGIN; INSERT INTO outbox (id, note) VALUES (id(10), 'begins first')`,
	`2 BEGIN; INSERT INTO outbox (id, note) VALUES (id(11), 'begins second')`,
	`1 INSERT INTO outbox (id, note) VALUES (id(12), 'begins first')`,
	`2 COMMIT`,
	`1 COMMIT`,
	// The table changes, between transactions and inside one.
	`1 ALTER TABLE outbox DROP COLUMN note, ADD COLUMN extra int DEFAULT 7; INSERT INTO outbox (id, payload) VALUES (id(20), '[1,  2]')`,
	`1 ALTER TABLE outbox ALTER payload TYPE json; INSERT INTO outbox (id, payload) VALUES (id(21), ' { "b":1,"a" : 1.0e2,   "a":2}')`,
	`1 ALTER TABLE outbox ALTER payload TYPE text; INSERT INTO outbox (id, payload) VALUES (id(22), ''), (id(23), E'  \t\n'), (id(24), 'plain \x41 text'), (id(25), NULL)`,
	`1 ALTER TABLE outbox ALTER payload TYPE varchar(100); INSERT INTO outbox (id, payload) VALUES (id(26), 'varchar')`,
	`1 ALTER TABLE outbox ALTER payload TYPE bytea USING convert_to(payload, 'UTF8');
	   INSERT INTO outbox (id, payload) VALUES (id(27), '\x00ff10'), (id(28), ''), (id(29), NULL), (id(30), convert_to('Größe', 'UTF8'))`,
	`1 BEGIN; INSERT INTO outbox (id) VALUES (id(31)); ALTER TABLE outbox RENAME correlation TO trace; INSERT INTO outbox (id) VALUES (id(32));
	   ALTER TABLE outbox RENAME trace TO correlation; INSERT INTO outbox (id) VALUES (id(33)); COMMIT`,
	`1 BEGIN; ALTER TABLE outbox DROP COLUMN payload; INSERT INTO outbox (id) VALUES (id(34)); ALTER TABLE outbox ADD COLUMN payload text;
	   INSERT INTO outbox (id, payload, extra) VALUES (id(35), 'back', 1); COMMIT`,
	`1 ALTER TABLE outbox RENAME TO old; INSERT INTO old (id) VALUES (id(36)); ALTER TABLE old RENAME TO outbox`,
	// A value that is stored out of line.
	`1 INSERT INTO outbox (id, payload) SELECT id(40), string_agg(md5(i::text), '') FROM generate_series(1, 320) i`,
	`1 INSERT INTO outbox (id, aggregatetype, aggregateid, type, version) SELECT id(i), 'order', 'order-' || i % 3, 'OrderPaid', i FROM generate_series(50, 59) i`,
	// A partitioned table, by its root and by a partition's name.
	`1 INSERT INTO "Shop"."out box" VALUES ('2026-01-15', id(60), 'cart', 'cart-1', 'Added', 'january'), ('2026-03-15', id(61), 'cart', 'cart-1', 'Added', 'march')`,
	`1 INSERT INTO "Shop".january VALUES ('2026-01-16', id(62), 'cart', 'cart-2', 'Added', 'by name')`,
	`1 CREATE TABLE "Shop".may PARTITION OF "Shop"."out box" FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
	   INSERT INTO "Shop"."out box" VALUES ('2026-05-15', id(63), 'cart', 'cart-2', 'Added', 'may')`,
	`1 INSERT INTO outbox (id, payload) VALUES (id(99), 'the end')`,
}

// goldenID makes a UUID that is the same in every recording.
const goldenID = `CREATE FUNCTION id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$`

func TestGolden(t *testing.T) {
	if *update {
		for i, version := range goldenVersions {
			frames := record(t, version)
			write(t, goldenPath(version), encodeGolden(frames))
			if i == 0 {
				write(t, goldenEvents, []byte(listing(t, frames)))
			}
		}
	}
	want, err := os.ReadFile(goldenEvents)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range goldenVersions {
		t.Run("PostgreSQL "+version, func(t *testing.T) {
			frames := readGolden(t, version)
			for _, kind := range "BCRIUDTYM" {
				if !slices.ContainsFunc(frames, func(f []byte) bool { return f[0] == byte(kind) }) {
					t.Errorf("no frame of kind %q was recorded", kind)
				}
			}
			got := listing(t, frames)
			if got != string(want) {
				t.Errorf("the events differ from %s:\n%s", goldenEvents, firstDifference(got, string(want)))
			}
		})
	}
}

var goldenEvents = filepath.Join("testdata", "golden.events")

func goldenPath(version string) string {
	return filepath.Join("testdata", "pg"+version+".golden")
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// encodeGolden writes each frame as a line with a Go string, which shows the
// names and values in it.
func encodeGolden(frames [][]byte) []byte {
	var b []byte
	for _, f := range frames {
		b = append(strconv.AppendQuoteToASCII(b, string(f)), '\n')
	}
	return b
}

func readGolden(t testing.TB, version string) (frames [][]byte) {
	t.Helper()
	data, err := os.ReadFile(goldenPath(version))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		frame, err := strconv.Unquote(lines.Text())
		if err != nil {
			t.Fatalf("%s: %v: %s", goldenPath(version), err, lines.Text())
		}
		frames = append(frames, []byte(frame))
	}
	return frames
}

// listing is what the frames decode to, for each table, without what differs
// from server to server: LSNs, times, and transactions without an event (which
// PostgreSQL sends up to version 14).
func listing(t *testing.T, frames [][]byte) string {
	t.Helper()
	var out strings.Builder
	for _, table := range []Table{goldenOutbox, goldenParted, goldenMessages} {
		fmt.Fprintf(&out, "== %s.%s %s\n", table.Schema, table.Name, table.MessagePrefix)
		d := New(table)
		var last Position
		lastEnd, transaction := pglogrepl.LSN(0), 0
		for i, frame := range frames {
			kind, err := d.Decode(bytes.Clone(frame))
			if err != nil && !errors.Is(err, ErrRow) {
				t.Fatalf("frame %d: %v", i+1, err)
			}
			switch kind {
			case Commit:
				// Resuming at a commit's end must skip it and nothing else.
				if d.CommitEnd() <= lastEnd || d.CommitEnd() <= d.Position().CommitLSN {
					t.Errorf("frame %d: Commit of %s ends at %s, after one that ended at %s", i+1, d.Position(), d.CommitEnd(), lastEnd)
				}
				lastEnd = d.CommitEnd()
			case NonTransactional:
				fmt.Fprintln(&out, "a message outside every transaction")
			case Insert:
				ev := d.Event()
				if !ev.Position.After(last) || ev.Position.String() <= last.String() {
					t.Errorf("frame %d: event %s comes after %s", i+1, ev.Position, last)
				}
				if ev.Position.CommitLSN != last.CommitLSN {
					transaction++
				}
				last = ev.Position
				if y := ev.CommittedAt.Year(); y < 2020 || y > 2100 {
					t.Errorf("frame %d: committed at %s", i+1, ev.CommittedAt)
				}
				fmt.Fprintf(&out, "%d-%d payload type %d\n", transaction, ev.Position.Number, ev.Types[Payload])
				if err != nil {
					fmt.Fprintf(&out, "  error %v\n", err)
				}
				for f, v := range ev.Values {
					if v != nil {
						fmt.Fprintf(&out, "  %s %s\n", Field(f), showValue(v))
					}
				}
			}
		}
	}
	return out.String()
}

func showValue(v []byte) string {
	if len(v) > 200 {
		return fmt.Sprintf("%d bytes, sha256 %x", len(v), sha256.Sum256(v))
	}
	return strconv.Quote(string(v))
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// record runs the scenario on a server of its own and returns what its walsender
// sent.
func record(t *testing.T, version string) (frames [][]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("PostgreSQL %s: %v", version, err)
		}
	}
	server, err := testbed.StartPostgres(ctx, testbed.PostgresOptions{Version: version})
	check(err)
	defer server.Close()
	check(server.Exec(ctx, "postgres", goldenSchema+goldenID))

	connect := func(parameters string) *pgconn.PgConn {
		conn, err := pgconn.Connect(ctx, server.DSN("postgres")+parameters)
		check(err)
		return conn
	}
	stream := connect("&replication=database")
	defer stream.Close(ctx)
	_, err = pglogrepl.CreateReplicationSlot(ctx, stream, "outbox", "pgoutput", pglogrepl.CreateReplicationSlotOptions{Temporary: true})
	check(err)
	sessions := []*pgconn.PgConn{connect(""), connect("")}
	for _, step := range goldenSteps {
		session := sessions[step[0]-'1']
		_, err := session.Exec(ctx, step[2:]).ReadAll()
		check(err)
	}
	for _, s := range sessions {
		check(s.Close(ctx))
	}

	check(pglogrepl.StartReplication(ctx, stream, "outbox", 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'outbox'", "messages 'true'"},
	}))
	for ended := false; ; {
		message, err := stream.ReceiveMessage(ctx)
		check(err)
		data, ok := message.(*pgproto3.CopyData)
		if !ok {
			t.Fatalf("PostgreSQL %s: unexpected %T", version, message)
		}
		if data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		frame, err := pglogrepl.ParseXLogData(data.Data[1:])
		check(err)
		frames = append(frames, bytes.Clone(frame.WALData))
		ended = ended || bytes.Contains(frame.WALData, []byte("the end"))
		if ended && frame.WALData[0] == 'C' {
			return frames
		}
	}
}
