package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// A second process with the same configuration waits for the slot and takes over
// when the first ends, whichever way that is. Meanwhile the first confirms more
// and more: what the second has seen of the slot at its own start must not be
// held against it.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"slot", "file"} {
		t.Run(store, func(t *testing.T) {
			s := newScenario(t, nil, nil)
			s.extra = "delivery: {confirm_interval: 100ms, store: " + store + "}"
			if store == "file" {
				s.extra = "delivery: {confirm_interval: 100ms, store: file, file: " + filepath.Join(t.TempDir(), "position.json") + "}"
			}
			active := s.startStreaming()
			l := s.startLoad(2, 10, 5*time.Millisecond, 29)
			for _, end := range []func(c *connector){(*connector).kill, (*connector).stop, (*connector).kill, (*connector).stop} {
				standby := s.start()
				standby.waitLog("slot is in use", 30*time.Second)
				before, at := l.committed.Load(), s.confirmed()
				waitFor(t, 60*time.Second, func() (string, bool) {
					return "the first does not go on", l.committed.Load() > before+200 && s.confirmed() > at
				})
				end(active)
				s.checkpoint()
				// A retry comes each second, and the server needs a moment to
				// notice the end.
				standby.waitLog(`"message":"streaming"`, 15*time.Second)
				active = standby
			}
			l.stop()
			s.waitConfirmed(60 * time.Second)
			active.stop()
			r := s.verify()
			t.Logf("%+v", r)
		})
	}
}

// A process that was cut off finds the slot taken over and confirmed beyond what
// it knows. That is what a second process is for, and no reason to refuse: it is
// the one that waits now.
func TestTakenOverWhileCutOff(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	proxy, err := testbed.NewProxy(s.postgres.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	direct := s.dsn
	s.through(proxy)
	s.extra = "delivery: {confirm_interval: 100ms}\nerrors: {retry: {min: 50ms, max: 500ms}}"
	first := s.startStreaming()
	s.events(1, 10)
	s.waitConfirmed(30 * time.Second)
	s.dsn = direct
	second := s.start()
	second.waitLog("slot is in use", 30*time.Second)
	proxy.Refuse(true)
	proxy.Cut()
	second.waitLog(`"message":"streaming"`, 15*time.Second)
	s.events(11, 20)
	s.waitConfirmed(30 * time.Second)
	proxy.Refuse(false)
	first.waitLog("slot is in use", 15*time.Second)
	s.events(21, 30)
	s.waitConfirmed(30 * time.Second)
	second.stop()
	s.checkpoint()
	s.events(31, 40)
	s.waitConfirmed(15 * time.Second)
	first.stop()
	if r := s.verify(); r.committed != 40 || r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}

// A process that is stopped for a while keeps the slot, since its connection is
// open: the second waits, and whoever is first in the end, nothing is lost.
func TestStandbyWaitsForStoppedProcess(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.extra = "delivery: {confirm_interval: 100ms}"
	first := s.startStreaming()
	l := s.startLoad(2, 10, 5*time.Millisecond, 41)
	second := s.start()
	second.waitLog("slot is in use", 30*time.Second)
	first.signal(syscall.SIGSTOP)
	before := l.committed.Load()
	waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+500 })
	time.Sleep(3 * time.Second) // it tries again each second, without a word
	if second.count("slot is in use") != 1 || second.logged(`"message":"streaming"`) || !second.running() {
		t.Fatalf("the second did not wait:\n%s", second.tail(20))
	}
	first.signal(syscall.SIGCONT)
	s.waitConfirmed(30 * time.Second)
	first.stop()
	s.checkpoint()
	second.waitLog(`"message":"streaming"`, 15*time.Second)
	l.stop()
	s.waitConfirmed(30 * time.Second)
	second.stop()
	if r := s.verify(); r.repeated != 0 {
		t.Errorf("%+v", r)
	}
}

// patience lets PostgreSQL end a connection that does not answer, as a deployment
// with a standby process would.
func (s *scenario) patience(timeout string) { s.dsn += "&wal_sender_timeout=" + timeout }

// verifyNewestLast demands that a key's newest event is its last one in Kafka,
// repeats or not: a compacted topic keeps that one.
func (s *scenario) verifyNewestLast() {
	s.t.Helper()
	newest, last := make(map[string]record), make(map[string]record)
	for _, r := range s.read() {
		key := r.topic + "/" + r.key
		last[key] = r
		if r.position > newest[key].position {
			newest[key] = r
		}
	}
	for key, r := range last {
		if r.position != newest[key].position {
			s.t.Errorf("key %s ends with an old event: %v after %v", key, r, newest[key])
		}
	}
}

// A process is stopped with events in its Kafka client that the broker has not
// taken. The second takes over when wal_sender_timeout has passed. Then the first
// wakes up, as a zombie: it moves neither slot nor stored position back, sends
// nothing of what it still has, and waits for its turn.
func TestZombieWakesUp(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{})
	stores := []string{"file"}
	if *soak {
		stores = append(stores, "slot")
	}
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			s := newScenario(t, nil, kafka)
			file := ""
			if store == "file" {
				file = s.storeInFile()
			} else {
				s.extra = "delivery: {confirm_interval: 100ms}"
			}
			s.extra += "\nerrors: {retry: {min: 50ms, max: 1s}}"
			s.patience("4s")
			first := s.startStreaming()
			s.events(1, 10)
			s.waitConfirmed(30 * time.Second)
			second := s.start()
			second.waitLog("slot is in use", 30*time.Second)

			if err := kafka.Pause(0); err != nil {
				t.Fatal(err)
			}
			s.manyEvents()
			first.signal(syscall.SIGSTOP)
			if err := kafka.Resume(0); err != nil {
				t.Fatal(err)
			}
			second.waitLog(`"message":"streaming"`, 30*time.Second)
			s.events(5001, 5100)
			s.waitConfirmed(30 * time.Second)
			confirmed, stored := s.confirmed(), readFile(t, file)

			in := first.count("slot is in use")
			first.signal(syscall.SIGCONT)
			first.waitLog("the process was stopped", 30*time.Second)
			waitFor(t, 30*time.Second, func() (string, bool) {
				return "the zombie does not wait:\n" + first.tail(20), first.count("slot is in use") > in
			})
			if got := s.confirmed(); got < confirmed {
				t.Errorf("the zombie moved the slot from %s back to %s", confirmed, got)
			}
			if now := readFile(t, file); now < stored {
				t.Errorf("the zombie moved the stored position back from %s to %s", stored, now)
			}
			s.verifyNewestLast()
			second.kill()
			s.checkpoint()
			waitFor(t, 30*time.Second, func() (string, bool) {
				return "the first does not take over:\n" + first.tail(20), first.count(`"message":"streaming"`) == 2
			})
			s.events(5101, 5200)
			s.waitConfirmed(30 * time.Second)
			first.stop()
			s.verifyNewestLast()
			r := s.verify()
			t.Logf("%+v", r)
		})
	}
}

// readFile returns a file's content, "" for no file.
func readFile(t *testing.T, name string) string {
	t.Helper()
	if name == "" {
		return ""
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A process is cut off from Kafka, and the second has its own way to it.
func TestCutOff(t *testing.T) {
	t.Parallel()
	toKafka, err := testbed.NewProxy("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(toKafka.Close)
	kafka := ownKafka(t, testbed.KafkaOptions{Advertised: []string{toKafka.Addr()}})
	toKafka.SetTarget(kafka.Brokers()[0])
	start := func(t *testing.T) (s *scenario, toPostgres *testbed.Proxy, first, second *connector) {
		t.Helper()
		s = newScenario(t, nil, kafka)
		s.extra = "delivery: {confirm_interval: 100ms}\nerrors: {retry: {min: 50ms, max: 1s}}"
		s.patience("4s")
		if toPostgres, err = testbed.NewProxy(s.postgres.Addr()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(toPostgres.Close)
		direct := s.dsn
		s.through(toPostgres)
		s.brokers = []string{toKafka.Addr()}
		first = s.startStreaming()
		s.events(1, 10)
		s.waitConfirmed(30 * time.Second)
		s.dsn, s.brokers = direct, kafka.InternalBrokers()
		second = s.start()
		second.waitLog("slot is in use", 30*time.Second)
		toKafka.Stall(testbed.Both, true)
		return s, toPostgres, first, second
	}

	// It keeps the slot: nothing in PostgreSQL tells it that another waits, or
	// that the other's way to Kafka is better, and what it has sent may still
	// arrive. It says so; whoever watches it ends it, and the second takes over.
	t.Run("from Kafka alone", func(t *testing.T) {
		s, _, first, second := start(t)
		s.events(11, 20)
		first.waitLog("Kafka acknowledges nothing", 60*time.Second)
		if second.logged(`"message":"streaming"`) || !first.running() {
			t.Fatalf("the first gave up the slot:\n%s", first.tail(20))
		}
		first.kill()
		second.waitLog(`"message":"streaming"`, 30*time.Second)
		s.waitConfirmed(30 * time.Second)
		second.stop()
		toKafka.Cut()
		toKafka.Stall(testbed.Both, false)
		s.verifyNewestLast()
		s.verify()
	})

	// The second has taken over before the first is back. What the first still
	// has in its Kafka client is old by then.
	t.Run("from PostgreSQL too", func(t *testing.T) {
		s, toPostgres, first, second := start(t)
		s.manyEvents()
		toPostgres.Stall(testbed.Both, true)
		second.waitLog(`"message":"streaming"`, 30*time.Second)
		s.events(5001, 5100)
		s.waitConfirmed(30 * time.Second)
		first.waitLog("they are abandoned", 60*time.Second)
		for _, proxy := range []*testbed.Proxy{toKafka, toPostgres} {
			proxy.Cut()
			proxy.Stall(testbed.Both, false)
		}
		first.waitLog("slot is in use", 60*time.Second)
		s.verifyNewestLast()
		second.kill()
		s.checkpoint()
		waitFor(t, 60*time.Second, func() (string, bool) {
			return "the first does not take over:\n" + first.tail(20), first.count(`"message":"streaming"`) == 2
		})
		s.events(5101, 5200)
		s.waitConfirmed(30 * time.Second)
		first.stop()
		s.verifyNewestLast()
		s.verify()
	})
}

// manyEvents writes more than a Kafka client sends at once, and waits until the
// connector has read it.
func (s *scenario) manyEvents() {
	s.t.Helper()
	for n := range 20 {
		s.exec(`INSERT INTO outbox (aggregateid, type, payload)
			SELECT 'k' || i % 50, 't0', jsonb_build_object('n', i, 'text', repeat(md5(i::text), 30)) FROM generate_series($1::int, $1::int + 199) i`, 11+200*n)
	}
	end := s.value("SELECT pg_current_wal_insert_lsn()::text")
	waitFor(s.t, 30*time.Second, func() (string, bool) {
		sent := s.value(`SELECT (r.sent_lsn >= '` + end + `')::text FROM pg_stat_replication r
			JOIN pg_replication_slots p ON p.active_pid = r.pid WHERE p.slot_name = '` + s.slotName + `'`)
		return "it has not read everything", sent == "true"
	})
	time.Sleep(200 * time.Millisecond) // what was sent goes to the client
}
