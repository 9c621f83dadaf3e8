package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// load writes transactions until it is stopped. Each of its workers has keys of
// its own and numbers the events of each key, so the order of commits within a
// key is known. One transaction in eight is rolled back.
type load struct {
	t         *testing.T
	cancel    context.CancelFunc
	done      sync.WaitGroup
	committed atomic.Int64 // events
}

// startLoad starts workers that write transactions of up to rows events, with a
// pause between them.
func (s *scenario) startLoad(workers, rows int, pause time.Duration, seed uint64) *load {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: s.t, cancel: cancel}
	for w := range workers {
		l.done.Go(func() { l.work(ctx, s, w, rows, pause, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	s.t.Cleanup(l.stop)
	return l
}

// stop ends the load and waits for its last transactions.
func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

func (l *load) work(ctx context.Context, s *scenario, worker, rows int, pause time.Duration, random *rand.Rand) {
	var conn *pgx.Conn
	next := make(map[string]int)
	for ctx.Err() == nil {
		if conn == nil {
			var err error
			if conn, err = pgx.Connect(context.Background(), s.postgres.DSN(s.database)); err != nil {
				time.Sleep(20 * time.Millisecond) // the server is down on purpose
				continue
			}
			// The outcome of a commit may be lost with the connection: the
			// table says which numbers are taken.
			if err := restoreNumbers(conn, worker, next); err != nil {
				conn.Close(context.Background())
				conn = nil
				continue
			}
		}
		n, err := transaction(conn, worker, 1+random.IntN(rows), next, random, random.IntN(8) == 0)
		if err != nil {
			var server *pgconn.PgError
			// 42804: the table's types changed under a prepared statement.
			if errors.As(err, &server) && server.Code[:2] != "57" && server.Code[:2] != "08" && server.Code != "42804" {
				l.t.Errorf("writer: %v", err)
				return
			}
			conn.Close(context.Background())
			conn = nil
			continue
		}
		l.committed.Add(int64(n))
		if pause > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(2 * pause))))
		}
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

func restoreNumbers(conn *pgx.Conn, worker int, next map[string]int) error {
	rows, err := conn.Query(context.Background(),
		`SELECT aggregateid, max((payload::jsonb->>'n')::int) FROM outbox WHERE aggregateid LIKE $1 GROUP BY 1`, fmt.Sprintf("w%d-%%", worker))
	if err != nil {
		return err
	}
	clear(next)
	var key string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&key, &n}, func() error {
		next[key] = n
		return nil
	})
	return err
}

// transaction writes rows events and commits, or rolls back.
func transaction(conn *pgx.Conn, worker, rows int, next map[string]int, random *rand.Rand, rollback bool) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	batch := &pgx.Batch{}
	batch.Queue("BEGIN")
	took := make(map[string]int)
	for range rows {
		key := fmt.Sprintf("w%d-%d", worker, random.IntN(5))
		if _, ok := took[key]; !ok {
			took[key] = next[key]
		}
		took[key]++
		text := "kept"
		if rollback {
			text = "rolled back"
		}
		batch.Queue(`INSERT INTO outbox (aggregateid, type, payload) VALUES ($1, $2, $3)`,
			key, fmt.Sprintf("t%d", worker%2), fmt.Sprintf(`{"n": %d, "key": %q, "text": %q, "big": 9007199254740993.10}`, took[key], key, text))
	}
	end := "COMMIT"
	if rollback {
		end = "ROLLBACK"
	}
	batch.Queue(end)
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return 0, err
	}
	if rollback {
		return 0, nil
	}
	for key, n := range took {
		next[key] = n
	}
	return rows, nil
}
