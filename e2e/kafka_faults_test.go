package e2e

import (
	"fmt"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// A broker is killed and comes back, twice, under load.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{})
	s := newScenario(t, nil, kafka)
	c := s.startStreaming()
	l := s.startLoad(4, 30, 2*time.Millisecond, 17)
	for range 2 {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+1000 })
		if err := kafka.Kill(0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the outage itself
		if err := kafka.Start(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	s.waitConfirmed(90 * time.Second)
	c.stop()
	s.checkpoint()
	s.verify()
}

// Kafka stands still for longer than wal_sender_timeout: the replication
// connection lives on, memory does not grow, and then everything arrives.
func TestKafkaStallsLongerThanWalSenderTimeout(t *testing.T) {
	t.Parallel()
	postgres := ownPostgres(t, testbed.PostgresOptions{Settings: map[string]string{"wal_sender_timeout": "3s"}})
	kafka := ownKafka(t, testbed.KafkaOptions{})
	s := newScenario(t, postgres, kafka)
	s.extra = `kafka: {max_buffered: 8MiB, brokers: ["` + kafka.Brokers()[0] + `"]}`
	s.brokersInExtra = true
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '{"n": 1}')`)
	s.waitConfirmed(30 * time.Second)
	backend := func() string {
		return s.value("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '" + s.slotName + "'")
	}
	before := backend()
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	// Much more than may be in memory.
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 100, 't0', jsonb_build_object('n', i, 'text', repeat(md5(i::text), 8)) FROM generate_series(2, 150000) i`)
	time.Sleep(10 * time.Second) // three times wal_sender_timeout
	if !c.running() {
		t.Fatalf("the connector ended:\n%s", c.tail(20))
	}
	if after := backend(); after != before {
		t.Errorf("the replication connection did not survive: server process %s, then %s", before, after)
	}
	c.checkMemory("max_buffered 8MiB")
	if err := kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	s.waitConfirmed(120 * time.Second)
	c.stop()
	s.checkpoint()
	s.verify()
}

// Acknowledgements are lost on the way: the client cannot know what arrived,
// and must neither lose nor reorder.
func TestAcknowledgementsCut(t *testing.T) {
	t.Parallel()
	proxy, err := testbed.NewProxy("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	kafka := ownKafka(t, testbed.KafkaOptions{Advertised: []string{proxy.Addr()}})
	proxy.SetTarget(kafka.Brokers()[0])
	s := newScenario(t, nil, kafka)
	s.brokers = []string{proxy.Addr()}
	c := s.startStreaming()
	l := s.startLoad(4, 30, 2*time.Millisecond, 19)
	for range 5 {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+300 })
		proxy.DropAndCut(testbed.ServerToClient)
		time.Sleep(300 * time.Millisecond) // records arrive, answers do not
		proxy.Cut()
	}
	l.stop()
	s.waitConfirmed(120 * time.Second)
	c.stop()
	s.checkpoint()
	s.verify()
}

// Something in front of the broker accepts connections and closes them: at the
// start and in mid-stream. The client's library takes that for a wrong protocol
// and fails its records; the process must stay up and lose nothing.
func TestBrokerAcceptsAndCloses(t *testing.T) {
	t.Parallel()
	proxy, err := testbed.NewProxy("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	kafka := ownKafka(t, testbed.KafkaOptions{Advertised: []string{proxy.Addr()}})
	proxy.SetTarget(kafka.Brokers()[0])
	s := newScenario(t, nil, kafka)
	s.brokers = []string{proxy.Addr()}
	s.extra = "errors: {retry: {min: 50ms, max: 500ms}}"
	proxy.Refuse(true)
	c := s.startStreaming()
	l := s.startLoad(3, 20, 2*time.Millisecond, 23)
	time.Sleep(4 * time.Second)
	proxy.Refuse(false)
	for range 2 {
		before := l.committed.Load()
		waitFor(t, 60*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+500 })
		proxy.Refuse(true)
		proxy.Cut()
		time.Sleep(4 * time.Second)
		proxy.Refuse(false)
	}
	l.stop()
	s.waitConfirmed(120 * time.Second)
	if !c.running() {
		t.Fatalf("the connector ended:\n%s", c.tail(20))
	}
	c.stop()
	s.checkpoint()
	s.verify()
}

// A topic that is not there is waited for, and named.
func TestTopicMissing(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{Settings: map[string]string{"auto.create.topics.enable": "false"}})
	s := newScenario(t, nil, kafka)
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT 'a' || i % 7, 't0', jsonb_build_object('n', i) FROM generate_series(1, 100) i`)
	c.waitLog(fmt.Sprintf(`topic \"%s.t0\" does not exist`, s.topic), 60*time.Second)
	s.createTopic(s.topic+".t0", 2, nil)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.verify()
}
