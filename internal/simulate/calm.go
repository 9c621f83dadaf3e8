package simulate

import (
	"slices"
	"time"
)

// effects is how long a fault may have effects that no end of it shows, such as a request
// whose answer was lost.
const effects = 3 * time.Minute

// calm reports whether nothing keeps a process from a clean end: it is the only one, and
// everybody answers it. A backfill that is stopped begins again, and each row that the brokers
// refuse takes a session, until the time for a stop is over.
func (w *world) calm() bool {
	missing := func(topic string) bool { return w.kafka.cluster.TopicInfo(topic) == nil }
	return len(w.processes) == 1 && len(w.later)+len(w.restarts) == 0 && !time.Now().Before(w.calmFrom) &&
		w.o.backfill == 0 && w.refused < 5 && !slices.ContainsFunc(w.topics, missing)
}

// disturb notes that something has begun or ended that may keep a process from a clean end.
func (w *world) disturb(lasts time.Duration) {
	w.faults++
	if until := time.Now().Add(lasts); until.After(w.calmFrom) {
		w.calmFrom = until
	}
}

// fault notes that something happens after which a suffix may repeat.
func (w *world) fault() {
	w.disturb(effects)
	w.verifier.mu.Lock()
	defer w.verifier.mu.Unlock()
	w.verifier.faults = true
}
