package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/testbed"
)

// exactlyOnce makes a scenario of it, with positions in a topic of its own.
func exactlyOnce(s *scenario) *scenario {
	s.extra = fmt.Sprintf("delivery: {guarantee: exactly_once, topic: %s-positions, confirm_interval: 50ms}\nerrors: {retry: {min: 50ms, max: 500ms}}", s.topic)
	return s
}

// readCommitted are the topics' records as a consumer with isolation.level
// read_committed sees them. It reads to where the partitions end, so that a
// transaction left open is waited for.
func (s *scenario) readCommitted() []record {
	s.t.Helper()
	return s.readWith(kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
}

// verifyOnce is verify for a consumer of committed records, and demands that
// nothing was repeated.
func (s *scenario) verifyOnce() report {
	s.t.Helper()
	return s.verifyRowsOnce(s.rows())
}

// verifyRowsOnce is verifyOnce for rows that the caller knows.
func (s *scenario) verifyRowsOnce(rows map[string]row) report {
	s.t.Helper()
	records := s.readCommitted()
	s.verifyPositions(records)
	r := s.verifyRecords(records, rows, nil)
	if r.repeated != 0 || r.records != r.committed {
		s.t.Errorf("not exactly once: %+v", r)
	}
	return r
}

// verifyPositions demands that each event came in a transaction with a position
// that covers it.
func (s *scenario) verifyPositions(events []record) {
	s.t.Helper()
	type position struct {
		LSN       string `json:"lsn"`
		CommitLSN string `json:"commit_lsn"`
		Number    uint32 `json:"number"`
	}
	client := s.client()
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(s.t.Context(), s.topic+"-positions")
	if err != nil {
		s.t.Fatal(err)
	}
	covers := make(map[string]string) // by producer: the position, as events have it
	for _, r := range s.readTo(ends, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords()) {
		if r.key != s.slotName {
			continue
		}
		var p position
		if err := json.Unmarshal(r.value, &p); err != nil {
			s.t.Fatalf("position %s: %v", r.value, err)
		}
		if p.CommitLSN == "" {
			p.CommitLSN, p.Number = p.LSN, 0 // behind every event of a commit before it
		}
		lsn, err := pglogrepl.ParseLSN(p.CommitLSN)
		if err != nil {
			s.t.Fatalf("position %s: %v", r.value, err)
		}
		covers[r.producer] = fmt.Sprintf("%016X-%08X", uint64(lsn), p.Number)
	}
	problems := 0
	for _, r := range events {
		if at, ok := covers[r.producer]; !ok || r.position > at {
			if problems++; problems <= 5 {
				s.t.Errorf("%v was committed by producer %s with position %q", r, r.producer, at)
			}
		}
	}
}

// checkpointOnce is checkpoint against what is committed in Kafka: the position
// is read first, and what is stable afterwards must hold everything before it.
func (s *scenario) checkpointOnce() {
	s.t.Helper()
	c := checkpoint{confirmed: s.confirmed()}
	client := s.client()
	defer client.Close()
	admin := kadm.NewClient(client)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	names := s.topicsBy(ctx, admin)
	if len(names) == 0 {
		return
	}
	for {
		var err error
		if c.ends, err = admin.ListCommittedOffsets(ctx, names...); err == nil {
			err = c.ends.Error()
		}
		if err == nil {
			s.checkpoints = append(s.checkpoints, c)
			return
		}
		if ctx.Err() != nil {
			s.t.Fatalf("list committed offsets: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// kill -9 at any moment, also between the commit of a Kafka transaction and the
// confirmation to PostgreSQL: each event arrives once.
func TestExactlyOnceKill9UnderLoad(t *testing.T) {
	const seed = 20261122
	rounds := 5
	if *soak {
		rounds = 50
	}
	s := exactlyOnce(newScenario(t, nil, nil))
	random := rand.New(rand.NewPCG(seed, 0))
	s.startStreaming().kill() // makes the slot before the first event
	l := s.startLoad(4, 40, 5*time.Millisecond, seed)
	for round := range rounds {
		c := s.startStreaming()
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+100 })
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		if !c.running() {
			t.Fatalf("round %d: the connector ended by itself:\n%s", round, c.tail(20))
		}
		s.checkpointOnce() // while it runs
		c.kill()
		s.checkpointOnce()
	}
	l.stop()
	c := s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.checkpointOnce()
	r := s.verifyOnce()
	if t.Logf("%d rounds: %+v", rounds, r); r.committed < 1000 {
		t.Errorf("the scenario was too tame to mean anything: %+v", r)
	}
}

// A large transaction of PostgreSQL spans many of Kafka: killed again and again
// inside it, the connector goes on behind the last one that is committed.
func TestExactlyOnceInsideLargeTransaction(t *testing.T) {
	rows, step := 40_000, int64(10_000)
	if *soak {
		rows, step = 300_000, 20_000
	}
	s := exactlyOnce(newScenario(t, nil, nil))
	s.startStreaming().kill()
	s.events(1, rows)
	for {
		before := s.arrived()
		c := s.start()
		waitFor(t, 60*time.Second, func() (string, bool) {
			if !c.running() {
				t.Fatalf("the connector ended:\n%s", c.tail(20))
			}
			n := s.arrived()
			return fmt.Sprintf("%d records arrived", n), n >= before+step || n >= int64(rows)
		})
		c.kill()
		s.checkpointOnce()
		if s.arrived() >= int64(rows) {
			break
		}
	}
	c := s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	t.Logf("%+v", s.verifyOnce())
}

// The process stands still for longer than the transaction's time-out, inside a
// transaction. The coordinator aborts it and fences the producer, as another
// process would; nobody has taken over, and it goes on.
func TestExactlyOnceTransactionTimesOut(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	c := s.startStreaming()
	l := s.startLoad(4, 40, 5*time.Millisecond, 5)
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > 500 })
	// Stopped at any moment, it is most likely inside a transaction.
	c.signal(syscall.SIGSTOP)
	client := s.client()
	defer client.Close()
	admin := kadm.NewClient(client)
	id := "outboxd-" + s.slotName
	state := func() string {
		txns, err := admin.DescribeTransactions(context.Background(), id)
		if err != nil {
			return err.Error()
		}
		return txns[id].State
	}
	for tries := 0; state() != "Ongoing"; tries++ {
		if tries > 200 {
			t.Fatalf("never stopped inside a transaction: %s", state())
		}
		c.signal(syscall.SIGCONT)
		time.Sleep(time.Duration(5+tries%23) * time.Millisecond)
		c.signal(syscall.SIGSTOP)
		time.Sleep(20 * time.Millisecond) // what is on its way to the coordinator arrives
	}
	l.stop()
	waitFor(t, 60*time.Second, func() (string, bool) { now := state(); return now, now == "CompleteAbort" })
	c.signal(syscall.SIGCONT)
	l = s.startLoad(4, 40, 5*time.Millisecond, 6)
	before := s.confirmed()
	waitFor(t, 60*time.Second, func() (string, bool) { return "it does not go on", s.confirmed() > before })
	l.stop()
	s.waitConfirmed(60 * time.Second)
	if !c.running() {
		t.Fatalf("the connector ended:\n%s", c.tail(20))
	}
	c.stop()
	s.checkpointOnce()
	t.Logf("%+v", s.verifyOnce())
	if !c.logged("transactional id") {
		t.Errorf("it was not fenced, so that nothing was tested:\n%s", c.tail(20))
	}
}

// Two processes by mistake. They can meet only when the first has lost the slot
// and does not know: it is cut off from PostgreSQL inside a transaction, and not
// from Kafka.
func TestExactlyOnceTwoProcesses(t *testing.T) {
	s := exactlyOnce(newScenario(t, nil, nil))
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	direct := s.dsn
	s.through(proxy)
	first := s.startStreaming()
	l := s.startLoad(4, 40, 5*time.Millisecond, 7)
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > 500 })
	// The first hears nothing any more and does not know it. What it has read it
	// goes on sending when it is woken.
	first.signal(syscall.SIGSTOP)
	held := l.committed.Load()
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > held+500 })
	proxy.Stall(testbed.Both, true)
	s.dsn = direct
	second := s.start()
	second.waitLog("slot is in use", 30*time.Second)
	s.execIn("postgres", "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+s.slotName+"'")
	second.waitLog(`"message":"streaming"`, 30*time.Second)
	first.signal(syscall.SIGCONT)
	proxy.Stall(testbed.Both, false)
	first.failsWith(1, "another process has taken over", "outboxd-"+s.slotName, s.slotName)
	before := l.committed.Load()
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+500 })
	l.stop()
	s.waitConfirmed(60 * time.Second)
	second.stop()
	s.checkpointOnce()
	t.Logf("%+v", s.verifyOnce())
}

// A process that waits for the slot does not disturb the one that has it, and goes
// on behind it when it ends.
func TestExactlyOnceTakeover(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	active := s.startStreaming()
	l := s.startLoad(2, 10, 5*time.Millisecond, 29)
	for _, end := range []func(c *connector){(*connector).kill, (*connector).stop, (*connector).kill} {
		standby := s.start()
		standby.waitLog("slot is in use", 30*time.Second)
		before, at := l.committed.Load(), s.confirmed()
		waitFor(t, 60*time.Second, func() (string, bool) {
			return "the first does not go on", l.committed.Load() > before+200 && s.confirmed() > at
		})
		if active.logged("not streaming") && active.logged("taken the transactional id") && !active.logged("took too long") {
			t.Errorf("the one that waits has disturbed the other:\n%s", active.tail(10))
		}
		end(active)
		s.checkpointOnce()
		standby.waitLog(`"message":"streaming"`, 30*time.Second)
		active = standby
	}
	l.stop()
	s.waitConfirmed(60 * time.Second)
	active.stop()
	t.Logf("%+v", s.verifyOnce())
}

// What an older process has left open is fenced before the position is read: its
// transaction ends there, and does not count, whatever the older one does then.
// Read first, the position would have to wait for it, or be another afterwards.
func TestExactlyOnceFencesBeforeItReads(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	s.startStreaming().stop()
	older := s.client(kgo.TransactionalID("outboxd-"+s.slotName), kgo.TransactionTimeout(5*time.Minute))
	defer older.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := older.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	far := fmt.Sprintf(`{"system_id":"1","timeline":1,"slot":%q,"lsn":"FFFF/0"}`, s.slotName)
	if err := older.ProduceSync(ctx, &kgo.Record{Topic: s.topic + "-positions", Key: []byte(s.slotName), Value: []byte(far)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	s.events(1, 10)
	c := s.startStreaming()
	if err := older.EndTransaction(ctx, kgo.TryCommit); err == nil {
		t.Error("the older process could still commit")
	}
	s.waitConfirmed(30 * time.Second)
	c.stop()
	s.verifyOnce()
}

// Another program with the same transactional id, which wants nothing of the slot:
// the two would take it from each other for ever.
func TestExactlyOnceForeignTransactionalID(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	c := s.startStreaming()
	l := s.startLoad(2, 10, 5*time.Millisecond, 3)
	for deadline := time.Now().Add(60 * time.Second); c.running() && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		foreign := s.client(kgo.TransactionalID("outboxd-" + s.slotName))
		if _, _, err := foreign.ProducerID(t.Context()); err != nil {
			t.Log(err)
		}
		foreign.Close()
	}
	l.stop()
	c.failsWith(1, "another program uses the same transactional id", "delivery.transactional_id", "outboxd-"+s.slotName)
	c = s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.verifyOnce()
}

// A poison event ends the run. What came before it, in its own transaction too,
// is committed, and is not published again when the cause is mended.
func TestExactlyOncePoison(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT nullif('k' || i, 'k701'), 't0', jsonb_build_object('n', i) FROM generate_series(1, 1000) i`)
	c.failsWith(1, "poison event", `"701"`)
	if n := len(s.readCommitted()); n != 700 {
		t.Errorf("%d events are committed, want the 700 before the poison event", n)
	}
	s.env = append(s.env, "OUTBOXD_ROUTE_KEY=none")
	c = s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if n := len(s.readCommitted()); n != 1000 {
		t.Errorf("%d events are committed, want 1000", n)
	}
}

// The same for an event that only Kafka knows to refuse: its answer takes the whole
// transaction with it, which is sent again up to that event.
func TestExactlyOnceRefusedByKafka(t *testing.T) {
	t.Parallel()
	s := exactlyOnce(newScenario(t, nil, nil))
	s.env = append(s.env, "OUTBOXD_ROUTE_KEY=none")
	// A compacted topic takes no record without a key.
	compact := "compact"
	s.createTopic(s.topic+".t0", 1, map[string]*string{"cleanup.policy": &compact})
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k', CASE i WHEN 701 THEN 't0' ELSE 't1' END, jsonb_build_object('n', i) FROM generate_series(1, 1000) i`)
	c.failsWith(1, "poison event", `"701"`, s.topic+".t0", "INVALID_RECORD")
	if n := len(s.readCommitted()); n != 700 {
		t.Errorf("%d events are committed, want the 700 before the refused one", n)
	}
}

// The position in Kafka is refused like any other that the slot contradicts. With
// --accept-gap the next one begins at the slot, in Kafka too: what lies between is
// skipped, and each event after it is there once, also when the process is killed.
func TestExactlyOnceAcceptGap(t *testing.T) {
	t.Parallel()
	for name, test := range slotHarms {
		t.Run(name, func(t *testing.T) {
			s := exactlyOnce(newScenario(t, nil, nil))
			c := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.checkpointOnce()
			stored := s.confirmed()
			s.events(11, 20)
			test.harm(s)
			s.start().failsWith(3, "position refused", test.says, "--accept-gap")
			if n := len(s.readCommitted()); n != 10 {
				t.Errorf("%d events are committed after the refused start, want 10", n)
			}

			c = s.startStreaming("--accept-gap")
			s.events(21, 30)
			s.waitConfirmed(30 * time.Second)
			c.kill()
			s.checkpointOnce()
			if n := c.count(`,"from":"` + stored.String() + `",`); n != 1 || c.count("are skipped (--accept-gap)") != 1 {
				t.Errorf("it does not say, once, that it skips what is after %s:\n%s", stored, c.tail(20))
			}
			// The accepted position is the stored one now.
			c = s.startStreaming()
			s.events(31, 40)
			s.waitConfirmed(30 * time.Second)
			c.stop()
			s.checkpointOnce()
			rows := s.rows()
			for n := 11; n <= 20; n++ {
				delete(rows, fmt.Sprint(n))
			}
			s.verifyRowsOnce(rows)
		})
	}
}

// A stop while Kafka stands still does not wait longer than it is told to, nor does
// it lose what it could not commit.
func TestStopWhileKafkaStandsStill(t *testing.T) {
	for _, guarantee := range []string{"exactly_once", "at_least_once"} {
		t.Run(guarantee, func(t *testing.T) {
			s := exactlyOnce(newScenario(t, nil, nil))
			s.env = append(s.env, "OUTBOXD_DELIVERY_GUARANTEE="+guarantee, "OUTBOXD_DELIVERY_STORE=kafka")
			c := s.startStreaming()
			l := s.startLoad(2, 10, 5*time.Millisecond, 3)
			at := s.confirmed()
			waitFor(t, 60*time.Second, func() (string, bool) { return "nothing is confirmed", s.confirmed() > at })
			resume := s.pauseSharedKafka()
			before := l.committed.Load()
			waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+100 })
			c.signal(syscall.SIGTERM)
			c.secondSignal()
			if code := c.exit(10 * time.Second); code != 1 {
				t.Errorf("exit code %d, want 1:\n%s", code, c.tail(10))
			}
			resume()
			l.stop()
			c = s.startStreaming()
			s.waitConfirmed(60 * time.Second)
			c.stop()
			if guarantee == "exactly_once" {
				s.verifyOnce()
			} else {
				s.verify()
			}
		})
	}
}

// Everything at once: the process, PostgreSQL and brokers fail in any order.
func TestExactlyOnceMixed(t *testing.T) {
	if !*soak {
		t.Skip("only with -soak")
	}
	const seed = 20261123
	random := rand.New(rand.NewPCG(seed, 0))
	postgres, kafka := ownPostgres(t, testbed.PostgresOptions{}), ownKafka(t, testbed.KafkaOptions{Brokers: 3})
	s := exactlyOnce(newScenario(t, postgres, kafka))
	c := s.startStreaming()
	l := s.startLoad(4, 40, 10*time.Millisecond, seed)
	for round := range 20 {
		time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		what := random.IntN(4)
		t.Logf("round %d: %s", round, [...]string{"kill -9", "PostgreSQL", "coordinator", "standing still"}[what])
		switch what {
		case 0:
			c.kill()
			s.checkpointOnce()
			c = s.start()
		case 1:
			if err := postgres.StopImmediate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := postgres.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 2:
			i := s.coordinator()
			if err := kafka.Kill(i); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond)
			if random.IntN(2) == 0 {
				c.kill()
				c = s.start()
			}
			if err := kafka.Start(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		case 3:
			c.signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(random.IntN(15000)) * time.Millisecond)
			c.signal(syscall.SIGCONT)
		}
		before := s.confirmed()
		waitFor(t, 90*time.Second, func() (string, bool) { return "it does not go on:\n" + c.tail(5), s.confirmed() > before })
	}
	l.stop()
	s.waitConfirmed(90 * time.Second)
	c.stop()
	s.checkpointOnce()
	t.Logf("%+v", s.verifyOnce())
}

// PostgreSQL crashes under load.
func TestExactlyOncePostgresCrashes(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{})
	s := exactlyOnce(newScenario(t, postgres, nil))
	c := s.startStreaming()
	l := s.startLoad(4, 30, time.Millisecond, 11)
	crashes := 1
	if *soak {
		crashes = 5
	}
	for range crashes {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+1000 })
		if err := postgres.StopImmediate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.checkpointOnce()
	t.Logf("%+v", s.verifyOnce())
}

// Brokers are killed, among them the coordinator of the transactions, in a
// cluster of three where two must be in sync.
func TestExactlyOnceBrokersKilled(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{Brokers: 3})
	s := exactlyOnce(newScenario(t, nil, kafka))
	c := s.startStreaming()
	l := s.startLoad(3, 20, 20*time.Millisecond, 17)
	rounds := 1
	if *soak {
		rounds = 12
	}
	for range rounds {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+200 })
		i := s.coordinator()
		if err := kafka.Kill(i); err != nil {
			t.Fatal(err)
		}
		at := s.confirmed()
		waitFor(t, 90*time.Second, func() (string, bool) { return "it does not go on without the broker", s.confirmed() > at })
		if *soak { // and the process with it
			c.kill()
			s.checkpointOnce()
			c = s.start()
		}
		if err := kafka.Start(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	s.waitConfirmed(90 * time.Second)
	c.stop()
	s.checkpointOnce()
	t.Logf("%+v", s.verifyOnce())
}

// coordinator is the broker that coordinates the connector's transactions.
func (s *scenario) coordinator() int {
	s.t.Helper()
	client := s.client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	id := "outboxd-" + s.slotName
	for {
		found := kadm.NewClient(client).FindTxnCoordinators(ctx, id)[id]
		for i := range s.kafka.Brokers() {
			if found.Err == nil && s.kafka.NodeID(i) == found.NodeID {
				return i
			}
		}
		if ctx.Err() != nil {
			s.t.Fatalf("find the coordinator: %v", found.Err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
