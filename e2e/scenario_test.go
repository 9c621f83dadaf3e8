package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"outboxd/internal/testbed"
)

// scenario is one outbox: a database of its own, and topics of its own.
type scenario struct {
	t        *testing.T
	postgres *testbed.Postgres
	kafka    *testbed.Kafka
	database string
	topic    string // prefix of its topics
	dsn      string // what the connector uses; a proxy may stand in between
	brokers  []string
	extra    string // further configuration, YAML at top level
	route    string // the key route; defaults to topics of the prefix and the type
	whole    string // if set, all of the configuration
	// brokersInExtra says that extra has the key kafka.
	brokersInExtra bool
	env            []string // OUTBOXD_ variables, which override the configuration
	// checkpoints were taken before each restart, for the verifier.
	checkpoints []checkpoint
	slotName    string
	// repositioned allows an event to come again under a later position: a
	// backfill that begins anew numbers its rows anew.
	repositioned bool
	// digests keeps of the values that are read what digest makes of them, and no
	// headers: for more events than fit into memory otherwise.
	digests bool
}

var scenarios atomic.Int64

var unfit = regexp.MustCompile(`[^a-z0-9_]+`)

// newScenario makes a database with an empty outbox. nil servers mean the shared
// ones.
func newScenario(t *testing.T, postgres *testbed.Postgres, kafka *testbed.Kafka) *scenario {
	t.Helper()
	if postgres == nil {
		postgres = sharedPostgres(t)
	}
	if kafka == nil {
		kafka = sharedKafka(t)
	}
	name := unfit.ReplaceAllString(strings.ToLower(t.Name()), "_")
	if len(name) > 40 {
		name = name[len(name)-40:]
	}
	name = fmt.Sprintf("s%d_%s", scenarios.Add(1), strings.Trim(name, "_"))
	s := &scenario{
		t: t, postgres: postgres, kafka: kafka,
		database: name, topic: name, slotName: name,
		brokers: kafka.Brokers(),
	}
	s.execIn("postgres", "CREATE DATABASE "+name)
	s.dsn = postgres.DSN(name)
	s.exec(`CREATE TABLE outbox (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		aggregatetype text NOT NULL DEFAULT 'order', aggregateid text, type text, payload jsonb)`)
	t.Cleanup(func() {
		if !postgres.Running() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		// Slots count on a shared server; whoever still streams is ended first.
		_ = postgres.Exec(ctx, "postgres", "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '"+name+"' AND active_pid IS NOT NULL")
		for range 50 {
			if postgres.Exec(ctx, name, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '"+name+"'") == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return s
}

// recreate makes the database again, empty, in an encoding.
func (s *scenario) recreate(encoding string) {
	s.t.Helper()
	s.execIn("postgres", "DROP DATABASE "+s.database)
	s.execIn("postgres", "CREATE DATABASE "+s.database+" TEMPLATE template0 LOCALE 'C' ENCODING '"+encoding+"'")
}

// config is the connector's configuration. Topics are the prefix and the event's
// type.
func (s *scenario) config() string {
	if s.whole != "" {
		return s.whole
	}
	kafka := fmt.Sprintf(`kafka: {brokers: ["%s"]}`, strings.Join(s.brokers, `", "`))
	if s.brokersInExtra {
		kafka = ""
	}
	route := s.route
	if route == "" {
		route = fmt.Sprintf(`{topic: "%s.{type}"}`, s.topic)
	}
	return fmt.Sprintf(`postgres: {dsn: "%s", slot: %s}
route: %s
http: {listen: ""}
%s
%s
`, s.dsn, s.slotName, route, kafka, s.extra)
}

// through lets the connector reach PostgreSQL by way of a proxy.
func (s *scenario) through(proxy *testbed.Proxy) {
	s.dsn = strings.Replace(s.dsn, s.postgres.Addr(), proxy.Addr(), 1)
}

// connect opens a session for the test itself, past any proxy.
func (s *scenario) connect() *pgx.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.postgres.DSN(s.database))
	if err != nil {
		s.t.Fatalf("connect: %v", err)
	}
	s.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (s *scenario) exec(sql string, args ...any) {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), s.postgres.DSN(s.database))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s *scenario) execIn(database, sql string) {
	s.t.Helper()
	if err := s.postgres.Exec(context.Background(), database, sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// value runs a query in the scenario's database that returns one text.
func (s *scenario) value(sql string) string {
	s.t.Helper()
	v, err := s.postgres.QueryValue(context.Background(), s.database, sql)
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func (s *scenario) lsn(sql string) pglogrepl.LSN {
	s.t.Helper()
	lsn, err := pglogrepl.ParseLSN(s.value(sql))
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return lsn
}

// dropSlot drops the slot. The server process of a connector that has ended may hold it
// for a moment.
func (s *scenario) dropSlot() {
	s.t.Helper()
	waitFor(s.t, 30*time.Second, func() (string, bool) {
		active := s.value("SELECT active::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
		return "the slot is in use", active == "false"
	})
	s.exec("SELECT pg_drop_replication_slot('" + s.slotName + "')")
}

// confirmed is the slot's position.
func (s *scenario) confirmed() pglogrepl.LSN {
	s.t.Helper()
	return s.lsn("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
}

// waitConfirmed waits until the slot has everything that is in the WAL now.
func (s *scenario) waitConfirmed(within time.Duration) {
	s.t.Helper()
	target := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
	waitFor(s.t, within, func() (string, bool) {
		c := s.confirmed()
		return fmt.Sprintf("the slot is at %s, the WAL at %s", c, target), c >= target
	})
}

// events commits a transaction with one event for each number from..to.
func (s *scenario) events(from, to int) {
	s.t.Helper()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series($1::int, $2::int) i`, from, to)
}

// waitFor polls until done.
func waitFor(t *testing.T, within time.Duration, done func() (state string, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		state, ok := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", within, state)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
