package e2e

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Promise 1 and 3: kill -9 at any moment loses nothing and reorders nothing.
func TestKill9UnderLoad(t *testing.T) {
	const seed = 20261121
	rounds := 25
	if *soak {
		rounds = 1000
	}
	s := newScenario(t, nil, nil)
	s.extra = "delivery: {confirm_interval: 50ms}"
	random := rand.New(rand.NewPCG(seed, 0))
	s.startStreaming().kill() // makes the slot before the first event
	l := s.startLoad(4, 40, 2*time.Millisecond, seed)
	for round := range rounds {
		// Every other round surely under load, however long a start takes here.
		start := s.start
		if round%2 == 1 {
			start = s.startStreaming
		}
		c := start()
		wait := time.Duration(random.IntN(700)) * time.Millisecond
		time.Sleep(wait)
		if !c.running() {
			t.Fatalf("round %d: the connector ended by itself:\n%s", round, c.tail(20))
		}
		c.kill()
		s.checkpoint()
	}
	l.stop()
	c := s.startStreaming()
	s.waitConfirmed(60 * time.Second)
	c.stop()
	r := s.verify()
	t.Logf("%d rounds: %d events committed, %d records, %d repeated", rounds, r.committed, r.records, r.repeated)
	if r.committed < 1000 || r.repeated == 0 {
		t.Errorf("the scenario was too tame to mean anything: %+v", r)
	}
}
