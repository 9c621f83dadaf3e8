package retention

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"outboxd/internal/replication"
	"outboxd/internal/testbed"
)

// servers are started once for each version and settings.
var servers struct {
	sync.Mutex
	there map[string]*testbed.Postgres
	names int
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, p := range servers.there {
		p.Close()
	}
	os.Exit(code)
}

func server(t *testing.T, version string, settings map[string]string) *testbed.Postgres {
	t.Helper()
	servers.Lock()
	defer servers.Unlock()
	key := version + fmt.Sprint(settings)
	if servers.there[key] == nil {
		p, err := testbed.StartPostgres(context.Background(), testbed.PostgresOptions{Version: version, Settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		if servers.there == nil {
			servers.there = make(map[string]*testbed.Postgres)
		}
		servers.there[key] = p
	}
	return servers.there[key]
}

// world is a database with an outbox, and what removes its rows.
type world struct {
	t    *testing.T
	db   *pgx.Conn
	o    Options
	dsn  string
	said output
}

// output is a log that can be read while it is written.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(line)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// tracked makes a server keep the commit times.
var tracked = map[string]string{"track_commit_timestamp": "on"}

func newWorld(t *testing.T, version string, settings map[string]string) *world {
	t.Helper()
	p := server(t, version, settings)
	servers.Lock()
	servers.names++
	name := fmt.Sprintf("w%d", servers.names)
	servers.Unlock()
	if err := p.Exec(t.Context(), "postgres", "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dsn: p.DSN(name)}
	w.db = w.connect()
	w.exec(`CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, payload text)`)
	w.o = Options{Source: replication.Options{DSN: w.dsn, Schema: "public", Table: "outbox", Slot: "s", Publication: "p"},
		Mode: Delete, Batch: 1000, Interval: time.Minute, Log: zerolog.New(&w.said)}
	return w
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	db, err := pgx.Connect(context.Background(), w.dsn)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { db.Close(context.Background()) })
	return db
}

func (w *world) exec(sql string) { w.t.Helper(); execOn(w.t, w.db, sql) }

func execOn(t *testing.T, db *pgx.Conn, sql string) {
	t.Helper()
	if _, err := db.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) value(sql string) (text string) {
	w.t.Helper()
	if err := w.db.QueryRow(context.Background(), "SELECT coalesce(("+sql+")::text, '')").Scan(&text); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// payloads are those of the outbox's rows.
func (w *world) payloads() string {
	w.t.Helper()
	return w.value(`SELECT string_agg(payload, ' ' ORDER BY payload) FROM outbox`)
}

func (w *world) want(payloads string) {
	w.t.Helper()
	if got := w.payloads(); got != payloads {
		w.t.Errorf("the outbox has %q, want %q", got, payloads)
	}
}

func (w *world) retention() *Retention {
	r := New(w.o)
	w.t.Cleanup(r.disconnect)
	return r
}

// all is a session in which everything is acknowledged.
var all = session{confirmed: func() pglogrepl.LSN { return math.MaxUint64 }}

// after is a session that does something between what is read and what is removed.
func after(do func()) session {
	var once sync.Once
	return session{confirmed: func() pglogrepl.LSN { once.Do(do); return math.MaxUint64 }}
}

// run is one run of a new Retention, which must work.
func (w *world) run(s session) *Retention {
	w.t.Helper()
	r := w.retention()
	if err := r.once(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// Until the position is confirmed at which rows were read, they stay; and rows that are
// committed later stay whatever is confirmed then.
func TestOnlyAcknowledgedRows(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("INSERT INTO outbox (payload) VALUES ('a'), ('b')")
	before, err := pglogrepl.ParseLSN(w.value("pg_current_wal_insert_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	stalled := session{confirmed: func() pglogrepl.LSN {
		if asked++; asked == 8 {
			cancel()
		}
		return before - 1
	}}
	r := w.retention()
	if err := r.once(ctx, stalled); err == nil || ctx.Err() == nil {
		t.Error(err, "it did not wait")
	}
	w.want("a b")

	w.run(after(func() { w.exec("INSERT INTO outbox (payload) VALUES ('c')") }))
	w.want("c")
}

// What a transaction inserts that is still open when rows are read stays, although it
// commits before they are removed; also after a savepoint, where pg_visible_in_snapshot
// would say that it is visible.
func TestOpenTransactions(t *testing.T) {
	w := newWorld(t, "17", nil)
	other := w.connect()
	execOn(t, other, "BEGIN; INSERT INTO outbox (payload) VALUES ('x'); SAVEPOINT s; INSERT INTO outbox (payload) VALUES ('y'); RELEASE s")
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	if s := w.value("SELECT count(*) FROM (SELECT pg_current_snapshot() AS s) x WHERE pg_visible_in_snapshot((pg_snapshot_xmin(s)::text::bigint + 1)::text::xid8, s)"); s != "1" {
		t.Error("the subtransaction is not what this test is about")
	}
	w.run(after(func() { execOn(t, other, "COMMIT") }))
	w.want("x y")
	w.run(all)
	w.want("")
}

// A row that is no longer the one that was read stays.
func TestRowsThatChange(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("ALTER TABLE outbox SET (autovacuum_enabled = off); INSERT INTO outbox (payload) VALUES ('a'), ('b'), ('c')")
	place := w.value("SELECT ctid FROM outbox WHERE payload = 'b'")
	w.run(after(func() {
		w.exec("UPDATE outbox SET payload = 'updated' WHERE payload = 'a'; DELETE FROM outbox WHERE payload = 'b'")
		w.exec("VACUUM outbox")
		w.exec("INSERT INTO outbox (payload) VALUES ('new')")
	}))
	w.want("new updated")
	if w.value("SELECT ctid FROM outbox WHERE payload = 'new'") != place {
		t.Error("the new row is not where the old one was: the test shows nothing")
	}
}

// A row locked by an UPDATE that commits while the statement waits is another one then.
func TestRowUpdatedUnderTheStatement(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	other := w.connect()
	execOn(t, other, "BEGIN; UPDATE outbox SET payload = 'b'")
	done := make(chan struct{})
	w.run(after(func() {
		go func() {
			defer close(done)
			waiting := "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%retention' AND wait_event_type = 'Lock'"
			for i := 0; i < 40 && w.value(waiting) == "0"; i++ {
				time.Sleep(10 * time.Millisecond)
			}
			execOn(t, other, "COMMIT")
		}()
	}))
	<-done
	w.want("b")
}

// No snapshot is held while Kafka is waited for.
func TestVacuumIsNotHeldBack(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("INSERT INTO outbox (payload) SELECT i::text FROM generate_series(1, 5000) i")
	held := ""
	w.run(after(func() {
		held = w.value("SELECT string_agg(coalesce(backend_xmin::text, backend_xid::text, 'none') || ' ' || state, ',') FROM pg_stat_activity WHERE application_name = 'outboxd retention'")
	}))
	if held != "none idle" {
		t.Errorf("held: %q", held)
	}
	w.want("")
}

func TestKeep(t *testing.T) {
	for _, test := range []struct {
		name     string
		settings map[string]string
		column   string // its type
		keep     time.Duration
		values   map[string]string
		stay     string
	}{
		{"timestamptz", nil, "timestamptz", time.Hour,
			map[string]string{"old": "now() - interval '61 min'", "young": "now() - interval '59 min'", "null": "NULL", "future": "now() + interval '1 day'", "far": "'infinity'", "ever": "'-infinity'"}, "far future null young"},
		{"timestamp", nil, "timestamp", time.Hour,
			map[string]string{"old": "now() AT TIME ZONE 'UTC' - interval '61 min'", "young": "now() AT TIME ZONE 'UTC' - interval '59 min'", "null": "NULL", "far": "'infinity'"}, "far null young"},
		{"bigint", nil, "bigint", time.Hour,
			map[string]string{"old": "extract(epoch FROM now()) * 1000 - 3660000", "young": "extract(epoch FROM now()) * 1000 - 3540000", "null": "NULL", "huge": "9223372036854775807", "tiny": "-9223372036854775808"}, "huge null tiny young"},
		{"no keep", nil, "timestamptz", 0, map[string]string{"old": "now() - interval '1 s'", "null": "NULL", "future": "now() + interval '1 day'"}, "future null"},
		{"commit time for a NULL", tracked, "timestamptz", 0, map[string]string{"old": "now() - interval '1 s'", "null": "NULL", "future": "now() + interval '1 day'"}, "future"},
		{"young by commit time", tracked, "timestamptz", time.Hour, map[string]string{"old": "now() - interval '61 min'", "null": "NULL"}, "null"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "17", test.settings)
			w.exec("ALTER DATABASE " + w.value("current_database()") + " SET timezone = 'Asia/Tokyo'; ALTER TABLE outbox DROP at, ADD at " + test.column)
			for payload, at := range test.values {
				w.exec(fmt.Sprintf("INSERT INTO outbox (payload, at) VALUES ('%s', %s)", payload, at))
			}
			w.o.Timestamp, w.o.Keep = "at", test.keep
			w.run(all)
			w.want(test.stay)
			if test.settings == nil && !strings.Contains(w.said.String(), "rows without a time stay") {
				t.Errorf("nothing is said of the row with NULL: %s", &w.said)
			}
		})
	}
}

// Without a column the commit time counts.
func TestCommitTime(t *testing.T) {
	w := newWorld(t, "17", tracked)
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	time.Sleep(3 * time.Second)
	w.o.Keep = 2900 * time.Millisecond
	for began := time.Now(); ; began = time.Now() {
		w.exec("DELETE FROM outbox WHERE payload = 'b'; INSERT INTO outbox (payload) VALUES ('b')")
		if w.run(all); time.Since(began) < w.o.Keep {
			break // else b may have become too old meanwhile
		}
	}
	w.want("b")
	// Frozen rows have none once VACUUM has made the server forget it.
	w.o.Keep = time.Hour
	w.run(all)
	w.want("b")
}

// Parts of a table whose rows are not due are not read with each run.
func TestPartsAreReadWhenTheyAreDue(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("INSERT INTO outbox (payload, at) SELECT repeat('x', 500), now() FROM generate_series(1, 4000)")
	w.o.Timestamp, w.o.Keep = "at", time.Hour
	r := w.run(all)
	oid := w.value("'outbox'::regclass::oid")
	chunks := r.leaves[oid].chunks
	if len(chunks) < 2 {
		t.Fatalf("%d parts", len(chunks))
	}
	for i, c := range chunks {
		if in := time.Until(time.UnixMilli(c.due)); in < 58*time.Minute || in > time.Hour {
			t.Errorf("part %d is due in %s", i, in)
		}
	}
	w.exec("UPDATE outbox SET at = now() - interval '2 hours' WHERE ctid < '(5,0)'")
	// A rewritten table has its rows elsewhere.
	w.exec("VACUUM FULL outbox")
	if err := r.once(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if n := w.value("SELECT count(*) FROM outbox WHERE at < now() - interval '1 hour'"); n != "0" {
		t.Errorf("%s old rows are there", n)
	}
	if w.value("SELECT count(*) FROM outbox") == "0" {
		t.Error("all rows are gone")
	}
}

// A batch that takes too long is halved until it does not; one that meets a locked row
// stays for another run.
func TestTimeOutsShrinkTheBatch(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec(`INSERT INTO outbox (payload) SELECT i::text FROM generate_series(1, 64) i;
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.03); RETURN old; END';
		CREATE TRIGGER slow BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION slow()`)
	w.o.Batch = 64
	r := w.retention()
	r.timeout = 700 * time.Millisecond
	if err := r.once(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	w.want("")
	if r.batch.now >= 64 || r.batch.now < 4 {
		t.Errorf("a batch has %d rows", r.batch.now)
	}
	if n := r.Outbox().Removed; n != 64 {
		t.Errorf("%d rows are counted", n)
	}
}

func TestLockedRows(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec("INSERT INTO outbox (payload) SELECT lpad(i::text, 2, '0') FROM generate_series(1, 30) i")
	w.o.Batch = 10
	other := w.connect()
	execOn(t, other, "BEGIN; SELECT FROM outbox WHERE payload = '15' FOR UPDATE")
	r := w.retention()
	err := r.once(t.Context(), all)
	if err == nil || !strings.Contains(err.Error(), "locked") {
		t.Error(err)
	}
	w.want("11 12 13 14 15 16 17 18 19 20")
	execOn(t, other, "ROLLBACK")
	if err := r.once(t.Context(), all); err != nil {
		t.Error(err)
	}
	w.want("")
}

// Sizes: see type size.
func TestSize(t *testing.T) {
	s := size{now: 100, most: 100}
	for range 10 {
		s.timedOut()
	}
	if s.now != 1 {
		t.Errorf("%d after time-outs", s.now)
	}
	for range 64 * 10 {
		s.worked()
	}
	if s.now != 100 {
		t.Errorf("%d after it worked again", s.now)
	}
}

func TestCommitEnd(t *testing.T) {
	p := plan{segment: 16 << 20}
	for lsn, want := range map[pglogrepl.LSN]pglogrepl.LSN{
		0x1000000 * 5:           0x5000000,
		0x5000000 + 40:          0x5000000,
		0x5000000 + 24:          0x5000018, // no header of a segment's first page ends there
		0x5002000 + 24:          0x5002000,
		0x5002000 + 40:          0x5002028,
		0x5002000 + 4096:        0x5003000,
		0x5000000 + 8192 + 8192: 0x5004000,
	} {
		if got := p.commitEnd(lsn); got != want {
			t.Errorf("%s: %s, want %s", lsn, got, want)
		}
	}
}

// The table is never counted: its size and age come from statistics, an index, or what
// was read anyway; or are not known.
func TestMeasure(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.o.Mode, w.o.Timestamp = Off, "at"
	r := w.retention()
	if o := r.Outbox(); o.Rows != -1 || o.OldestRow != -1 {
		t.Errorf("before it was measured: %+v", o)
	}
	eventually := func(rows int64) {
		t.Helper()
		for i := 0; ; i++ {
			if err := r.once(t.Context(), all); err != nil {
				t.Fatal(err)
			}
			if r.Outbox().Rows == rows {
				return
			}
			if i == 100 {
				t.Fatalf("%d rows, want %d", r.Outbox().Rows, rows)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	eventually(0)
	w.exec("INSERT INTO outbox (at) SELECT now() - interval '1 hour' FROM generate_series(1, 500)")
	w.exec("INSERT INTO outbox (at) VALUES (now() - interval '2 hours'), (NULL)")
	eventually(502)
	if o := r.Outbox(); o.OldestRow != -1 {
		t.Errorf("no index says how old: %+v", o)
	}
	// Statistics are lost with a crash; those of ANALYZE are not.
	w.exec("ANALYZE outbox; SELECT pg_stat_reset()")
	eventually(502)
	w.exec("CREATE INDEX ON outbox (at DESC)")
	eventually(502)
	if o := r.Outbox(); o.OldestRow < 2*time.Hour || o.OldestRow > 2*time.Hour+time.Minute {
		t.Errorf("by the index: %+v", o)
	}
	w.exec("DROP INDEX outbox_at_idx")
	w.o.Mode, w.o.Keep = Delete, 90*time.Minute
	r = w.run(all)
	if o := r.Outbox(); o.OldestRow < time.Hour || o.OldestRow > time.Hour+time.Minute || o.Removed != 1 {
		t.Errorf("by what was read: %+v", o)
	}
	w.exec("TRUNCATE outbox")
	if err := r.once(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if o := r.Outbox(); o.OldestRow != 0 {
		t.Errorf("an empty table: %+v", o)
	}
}

// Rows that wait for Kafka age all the same.
func TestOldestRowWhileKafkaStalls(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.o.Timestamp, w.o.Keep = "at", time.Hour
	w.exec("INSERT INTO outbox (at) VALUES (now() - interval '3 hours'), (now())")
	ctx, cancel := context.WithCancel(t.Context())
	r := w.retention()
	_ = r.once(ctx, session{confirmed: func() pglogrepl.LSN { cancel(); return 0 }})
	if err := r.connect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o := r.Outbox(); o.OldestRow < 3*time.Hour {
		t.Errorf("%+v", o)
	}
}

// No statement reads more of a large table than it has to.
func TestPlans(t *testing.T) {
	for _, version := range []string{"13", "17"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, version, nil)
			w.exec("INSERT INTO outbox (payload) SELECT repeat('x', 700) FROM generate_series(1, 20000); ANALYZE outbox; CREATE TABLE archive (LIKE outbox)")
			w.o.Mode, w.o.ArchiveSchema, w.o.ArchiveTable = Archive, "public", "archive"
			r := w.retention()
			if err := r.connect(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			p, problems, err := r.judge(t.Context())
			if err != nil || len(problems) > 0 {
				t.Fatal(problems, err)
			}
			p.floor = floor{"1", "100"}
			var rows []row
			for i := range 1000 {
				rows = append(rows, row{uint32(i / 10), uint16(i%10 + 1), uint32(i + 1000)})
			}
			moving := p.removeSQL(p.leaves[0], rows)
			deleting := *p
			deleting.archive = ""
			for _, sql := range []string{r.readSQL(p, p.leaves[0], 128, 256), moving, deleting.removeSQL(p.leaves[0], rows)} {
				answer, err := r.conn.Rows(t.Context(), "EXPLAIN "+sql)
				if err != nil {
					t.Fatal(err)
				}
				plan := fmt.Sprint(answer)
				if !strings.Contains(plan, "Tid ") || strings.Contains(plan, "Seq Scan on outbox") {
					t.Errorf("%.100s…: %.300s", sql, plan)
				}
			}
		})
	}
}

// Rows from before commit times were tracked count from when they were first asked about.
func TestRowsFromBeforeTracking(t *testing.T) {
	p, err := testbed.StartPostgres(t.Context(), testbed.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, sql := range []string{"CREATE TABLE outbox (payload text); INSERT INTO outbox VALUES ('a')", "ALTER SYSTEM SET track_commit_timestamp = on"} {
		if err := p.Exec(t.Context(), "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dsn: p.DSN("postgres")}
	w.db = w.connect()
	w.o = Options{Source: replication.Options{DSN: w.dsn, Schema: "public", Table: "outbox"}, Mode: Delete, Keep: 2 * time.Second, Batch: 10, Log: zerolog.New(&w.said)}
	r := w.run(all)
	w.want("a")
	time.Sleep(2200 * time.Millisecond)
	if err := r.once(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	w.want("")
}

// Run works again and again until its context ends, and leaves nothing behind.
func TestRun(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.o.Interval = 20 * time.Millisecond
	r := w.retention()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx, nil, all.confirmed)
	}()
	wait := func(what string, is func() bool) {
		t.Helper()
		for i := 0; !is(); i++ {
			if i == 2000 {
				t.Fatalf("not in time: %s: %s", what, &w.said)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	empty := func() { t.Helper(); wait("no rows", func() bool { return w.payloads() == "" }) }
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	empty()
	// Its connection is lost, and the table is away for a while.
	w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outboxd retention' AND datname = current_database()")
	w.exec("ALTER TABLE outbox RENAME TO away")
	wait("a warning", func() bool { return strings.Contains(w.said.String(), "does not exist") })
	w.exec("ALTER TABLE away RENAME TO outbox; INSERT INTO outbox (payload) VALUES ('b')")
	empty()
	wait("the end of the warning", func() bool { return strings.Contains(w.said.String(), "works again") })
	cancel()
	<-ended
	// The server ends a process in its own time.
	wait("no connections", func() bool {
		return w.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outboxd retention' AND datname = current_database()") == "0"
	})
}
