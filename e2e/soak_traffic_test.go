package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// soakTraffic is a service with transactions of several shapes. It counts the events of
// each key in the table numbers, in the transaction that writes them: so it knows, after
// a commit whose outcome was lost with its connection, what is committed, and so do the
// checks at the end.
type soakTraffic struct {
	t      *testing.T
	cancel context.CancelFunc
	done   sync.WaitGroup

	committed, rolledBack atomic.Int64 // transactions whose outcome is known
}

// soakShape is a kind of transaction; each worker writes one.
type soakShape struct {
	pause    time.Duration // half to one and a half of it between two transactions
	rollback int           // one in so many is rolled back; 0: none
	fill     func(*soakTransaction)
}

var soakShapes = []soakShape{
	{25 * time.Millisecond, 0, func(x *soakTransaction) { x.event("t0", "one") }},
	{25 * time.Millisecond, 0, func(x *soakTransaction) { x.event("t0", "one") }},
	{400 * time.Millisecond, 4, func(x *soakTransaction) {
		for range 1 + x.random.IntN(40) {
			x.event("t1", "some")
		}
	}},
	{8 * time.Second, 4, func(x *soakTransaction) { x.bulk(200 + x.random.IntN(1300)) }},
	{2 * time.Second, 8, func(x *soakTransaction) { x.large(64<<10 + x.random.IntN(192<<10)) }},
	{2 * time.Second, 8, func(x *soakTransaction) {
		x.event("small", "before")
		x.poison()
		x.event("small", "after")
	}},
}

// soakSmallest is max.message.bytes of the topic small, which a poison row exceeds.
const soakSmallest = 50_000

const soakTables = `
	CREATE TABLE archive (LIKE outbox);
	CREATE TABLE numbers (key text PRIMARY KEY, n int NOT NULL);
	CREATE VIEW written AS
		SELECT id, aggregatetype, aggregateid, type, payload FROM outbox
		UNION ALL SELECT id, aggregatetype, aggregateid, type, payload FROM archive`

func (s *scenario) startSoakTraffic(seed uint64) *soakTraffic {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &soakTraffic{t: s.t, cancel: cancel}
	for w, shape := range soakShapes {
		l.done.Go(func() { l.work(ctx, s, w, shape, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	s.t.Cleanup(l.stop)
	return l
}

// stop ends the traffic and waits for its last transactions.
func (l *soakTraffic) stop() {
	l.cancel()
	l.done.Wait()
}

func (l *soakTraffic) work(ctx context.Context, s *scenario, worker int, shape soakShape, random *rand.Rand) {
	var conn *pgx.Conn
	var next map[string]int
	for ctx.Err() == nil {
		if conn == nil {
			var err error
			if conn, err = pgx.Connect(context.Background(), s.postgres.DSN(s.database)); err == nil {
				next, err = readNumbers(conn, worker)
			}
			if err != nil { // the server is down on purpose
				if conn != nil {
					conn.Close(context.Background())
					conn = nil
				}
				time.Sleep(50 * time.Millisecond)
				continue
			}
		}
		x := &soakTransaction{worker: worker, random: random, next: maps.Clone(next), taken: make(map[string]bool)}
		err := x.write(conn, shape, shape.rollback > 0 && random.IntN(shape.rollback) == 0)
		var server *pgconn.PgError
		switch {
		case errors.As(err, &server) && server.Code[:2] != "57" && server.Code[:2] != "08":
			l.t.Errorf("writer: %v", err)
			return
		case err != nil:
			conn.Close(context.Background())
			conn = nil
		case x.rolledBack:
			l.rolledBack.Add(1)
		default:
			next = x.next
			l.committed.Add(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(shape.pause/2 + time.Duration(random.Int64N(int64(shape.pause)))):
		}
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

// readNumbers returns the highest number of each key of a worker.
func readNumbers(conn *pgx.Conn, worker int) (map[string]int, error) {
	rows, err := conn.Query(context.Background(), `SELECT key, n FROM numbers WHERE key LIKE $1`, fmt.Sprintf("w%d-%%", worker))
	if err != nil {
		return nil, err
	}
	next := make(map[string]int)
	var key string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&key, &n}, func() error {
		next[key] = n
		return nil
	})
	return next, err
}

// soakTransaction is one transaction while it is made.
type soakTransaction struct {
	worker     int
	random     *rand.Rand
	batch      pgx.Batch
	next       map[string]int // by key: the last number, this transaction's included
	taken      map[string]bool
	rolledBack bool
}

// write makes the transaction and commits it, or rolls it back.
func (x *soakTransaction) write(conn *pgx.Conn, shape soakShape, rollback bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	x.rolledBack = rollback
	x.batch.Queue("BEGIN")
	shape.fill(x)
	for key := range x.taken {
		x.batch.Queue("INSERT INTO numbers VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET n = excluded.n", key, x.next[key])
	}
	end := "COMMIT"
	if rollback {
		end = "ROLLBACK"
	}
	x.batch.Queue(end)
	return conn.SendBatch(ctx, &x.batch).Close()
}

// number takes the next so many numbers of one of the worker's keys; the first is
// returned.
func (x *soakTransaction) number(count int) (key string, first int) {
	key = fmt.Sprintf("w%d-%d", x.worker, x.random.IntN(10))
	first = x.next[key] + 1
	x.next[key] += count
	x.taken[key] = true
	return key, first
}

func (x *soakTransaction) event(typ, text string) {
	key, n := x.number(1)
	x.batch.Queue(`INSERT INTO outbox (aggregateid, type, payload) VALUES ($1, $2, $3)`,
		key, typ, fmt.Sprintf(`{"n": %d, "text": %q, "big": 9007199254740993.10}`, n, text))
}

// bulk writes rows of one key by one statement.
func (x *soakTransaction) bulk(rows int) {
	key, n := x.number(rows)
	x.batch.Queue(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT $1, 'bulk', jsonb_build_object('n', i, 'text', md5(i::text)) FROM generate_series($2::int, $3::int) i`, key, n, n+rows-1)
}

// large writes a row of so many bytes that do not compress well.
func (x *soakTransaction) large(bytes int) {
	key, n := x.number(1)
	x.batch.Queue(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT $1, 'large', jsonb_build_object('n', $2::int, 'text', string_agg(md5(random()::text), '')) FROM generate_series(1, $3::int)`, key, n, bytes/32)
}

// poison writes a row that can never be delivered as it is.
func (x *soakTransaction) poison() {
	key := fmt.Sprintf("w%d-poison", x.worker)
	x.next[key]++
	x.taken[key] = true
	kinds := []string{
		`'k', 'small topic', '{}'`, // illegal_topic
		`NULL, 'small', '{}'`,      // null_key
		`'k', NULL, '{}'`,          // no_route
		`'k', 'small', NULL`,       // null_payload
		fmt.Sprintf(`'k', 'small', (SELECT jsonb_build_object('text', string_agg(md5(random()::text), '')) FROM generate_series(1, %d))`, 4*soakSmallest/32), // too_large
	}
	x.batch.Queue(`INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('poison', ` + kinds[x.random.IntN(len(kinds))] + `)`)
}

// miscounted says how many keys have rows that do not agree with numbers, which is
// "0" unless retention has lost one, or the server.
const miscounted = `SELECT count(*)::text FROM numbers FULL JOIN (
		SELECT CASE aggregatetype WHEN 'poison' THEN 'w5-poison' ELSE aggregateid END AS key,
			count(*) AS c, count(DISTINCT id) AS d, max((payload->>'n')::int) AS highest
		FROM written GROUP BY 1) w USING (key)
	WHERE n IS DISTINCT FROM c OR n IS DISTINCT FROM d OR key <> 'w5-poison' AND n IS DISTINCT FROM highest`

// soakRows are the events that must arrive, with values as digest makes them, and the
// ids of the poison rows.
func (s *scenario) soakRows() (rows map[string]row, poison map[string]bool) {
	s.t.Helper()
	conn := s.connect()
	defer conn.Close(context.Background())
	result, err := conn.Query(context.Background(), fmt.Sprintf(`SELECT id::text, aggregatetype = 'poison', coalesce(aggregateid, ''), coalesce(type, ''),
		coalesce(left(payload::text, %d) || md5(payload::text), '') FROM written`, digestKeeps))
	if err != nil {
		s.t.Fatal(err)
	}
	rows, poison = make(map[string]row), make(map[string]bool)
	var r row
	var bad bool
	if _, err := pgx.ForEachRow(result, []any{&r.id, &bad, &r.key, &r.typ, &r.payload}, func() error {
		if bad {
			poison[r.id] = true
			return nil
		}
		r.payload = append([]byte(nil), r.payload...)
		rows[r.id] = r
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return rows, poison
}
