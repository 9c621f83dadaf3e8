package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"outboxd/internal/testbed"
)

// SIGTERM under load: everything that was sent is acknowledged, confirmed and
// read back, so over many stops nothing is repeated.
func TestStopUnderLoadRepeatsNothing(t *testing.T) {
	const rounds = 6
	s := newScenario(t, nil, nil)
	s.startStreaming().stop()
	l := s.startLoad(4, 30, time.Millisecond, 7)
	for range rounds {
		c := s.startStreaming()
		before := l.committed.Load()
		waitFor(t, 30*time.Second, func() (string, bool) { return "no load", l.committed.Load() > before+500 })
		c.stop()
		s.checkpoint()
		// What PostgreSQL has is what was published: the slot is not behind any
		// record.
		confirmed := s.confirmed()
		for _, r := range s.read() {
			if r.commitLSN(t) >= confirmed {
				t.Fatalf("published and not confirmed at the stop (slot at %s): %v", confirmed, r)
			}
		}
	}
	l.stop()
	c := s.startStreaming()
	s.waitConfirmed(30 * time.Second)
	c.stop()
	r := s.verify()
	if r.repeated != 0 {
		t.Errorf("%d of %d records were published twice over clean stops", r.repeated, r.records)
	}
	if r.committed < 500*rounds {
		t.Errorf("too tame: %+v", r)
	}
}

// A second signal does not wait for a Kafka that stands still.
func TestSecondSignalSkipsTheDrain(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{})
	s := newScenario(t, nil, kafka)
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT 'a', 't0', jsonb_build_object('n', i) FROM generate_series(1, 5) i`)
	s.waitConfirmed(30 * time.Second)
	if err := kafka.Pause(0); err != nil {
		t.Fatal(err)
	}
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT 'b', 't0', jsonb_build_object('n', i) FROM generate_series(1, 50) i`)
	c.waitLog("Kafka acknowledges nothing", 30*time.Second)
	c.signal(syscall.SIGTERM)
	c.waitLog("draining", 10*time.Second)
	if !c.running() {
		t.Fatal("it did not wait for the acknowledgements")
	}
	c.secondSignal()
	if code := c.exit(5 * time.Second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if line := c.lastLine(); !strings.Contains(line, "50 events were sent and not acknowledged") {
		t.Errorf("last line: %s", line)
	}
	confirmed := s.confirmed()
	if err := kafka.Resume(0); err != nil {
		t.Fatal(err)
	}
	s.checkpoint()
	c = s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	s.verify()
	// Up to their commit, it may: the WAL of others comes before that.
	for _, r := range s.read() {
		if r.key == "b" && r.commitLSN(t) < confirmed {
			t.Fatalf("the slot was confirmed up to %s, over unacknowledged events: %v", confirmed, r)
		}
	}
}
