package e2e

import (
	"sync"
	"testing"
	"time"
)

// An envelope can be six times the size of what it is made of. Also then memory is
// bounded while Kafka stands still.
func TestMemoryOfEnvelopes(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ALTER payload TYPE text")
	s.extra = `kafka: {max_buffered: 32MiB, brokers: ["` + s.kafka.Brokers()[0] + `"]}` + "\nvalue: {format: json}"
	s.brokersInExtra = true
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('a', 't0', '')`)
	s.waitConfirmed(60 * time.Second)
	resume := s.pauseSharedKafka()
	const events = 2000
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i % 10, 't0', repeat(chr(1), 20000) FROM generate_series(1, $1::int) i`, events)
	s.waitReadingStands()
	c.checkMemory("max_buffered 32MiB")
	resume()
	s.waitArrived(events + 1)
	s.waitConfirmed(60 * time.Second)
	c.stop()
}

// The partitions of a new topic become ready one after the other, and what is sent to
// the last keeps the memory of events that were acknowledged long before. It counts.
func TestMemoryOfManyPartitions(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.startStreaming().stop() // makes the slot
	const events = 300_000
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 5000, 't0', jsonb_build_object('n', i, 'text', repeat(md5(i::text), 8)) FROM generate_series(1, $1::int) i`, events)
	s.createTopic(s.topic+".t0", 120, nil)
	c := s.startStreaming()
	s.waitArrived(events)
	s.waitConfirmed(60 * time.Second)
	c.checkMemory("many partitions")
	c.stop()
}

// Small events, then ever larger ones that do not compress, the first of them while
// Kafka stands still: what the smaller left behind, to be used again, gives way, and the
// client's copies of the larger ones count.
func TestMemoryOfGrowingEvents(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.startStreaming().stop() // makes the slot
	const size = "20000000"
	s.createTopic(s.topic+".t0", 12, map[string]*string{"max.message.bytes": new(size)})
	var events int64
	insert := func(n int64, kilobytes int) {
		s.exec(`INSERT INTO outbox (aggregateid, type, payload)
			SELECT 'k' || i % 5000, 't0', jsonb_build_object('n', i, 'text', text) FROM generate_series(1, $1::int) i,
			LATERAL (SELECT string_agg(md5(i::text || j::text), '') AS text FROM generate_series(1, $2::int * 32) j) t`, n, kilobytes)
		events += n
	}
	s.exec(`INSERT INTO outbox (aggregateid, type, payload)
		SELECT 'k' || i % 5000, 't0', jsonb_build_object('n', i, 'text', repeat(md5(i::text), 8)) FROM generate_series(1, 300000) i`)
	events = 300_000
	c := s.startStreaming()
	arrive := func(with string) {
		t.Helper()
		s.waitArrived(events)
		s.waitConfirmed(60 * time.Second)
		c.checkMemory(with)
	}
	arrive("small events")
	resume := s.pauseSharedKafka()
	insert(400, 96)
	s.waitReadingStands()
	c.checkMemory("events of 96 KB, which wait for Kafka")
	resume()
	arrive("events of 96 KB")
	insert(100, 900)
	arrive("events of 900 KB")
	insert(30, 5000)
	arrive("events of 5 MB")
	c.stop()
}

// pauseSharedKafka makes the shared broker stand still until resume, or the test's end.
// Only a test that runs alone may: it is not parallel.
func (s *scenario) pauseSharedKafka() (resume func()) {
	s.t.Helper()
	if err := s.kafka.Pause(0); err != nil {
		s.t.Fatal(err)
	}
	resume = sync.OnceFunc(func() {
		if err := s.kafka.Resume(0); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(resume)
	return resume
}

// waitReadingStands waits until reading waits at the limit: the server cannot send on.
func (s *scenario) waitReadingStands() {
	s.t.Helper()
	last, still := "", 0
	waitFor(s.t, 60*time.Second, func() (string, bool) {
		sent := s.value("SELECT sent_lsn::text FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = '" + s.slotName + "'")
		if still++; sent != last {
			last, still = sent, 0
		}
		return "the server has sent up to " + sent, still > 30
	})
}
