package sink

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// metadataMinAge is how old metadata is before the client asks for it again. franz-go's
	// default of 5 s is what each new leader and each new topic costs, at the median half
	// of it: 500,000 events to a topic just made, of 600 partitions, took 9.8 s with it and
	// 6.1 s with 100 ms. A client asks for all its topics in one request, and has one under
	// way at a time: ten a second at most, while a partition has no leader or too few
	// replicas.
	metadataMinAge = 100 * time.Millisecond

	// What failed is tried again after minBackoff, which doubles with each failure up to
	// maxBackoff. A broker that comes back is noticed that much later.
	minBackoff = 25 * time.Millisecond
	maxBackoff = 200 * time.Millisecond

	// requestTries leaves it to franz-go's limit of 30 s to end a request that fails. Its
	// default of 20 tries would, now that the waits are shorter, after 4 s.
	requestTries = int(2 * 30 * time.Second / maxBackoff)
)

// retries returns how soon a producing client asks for new leaders, and tries again what
// failed. Progress changes with each acknowledgement. The benchmark's bare reader has
// the same times (e2e/bench/bare.go).
func retries(progress *atomic.Int64) []kgo.Opt {
	b := &backoff{progress: progress}
	return []kgo.Opt{
		kgo.MetadataMinAge(metadataMinAge),
		kgo.RetryBackoffFn(b.next),
		kgo.RequestRetries(requestTries),
	}
}

// backoff is how long a client waits after a failure. franz-go's own count begins anew
// with each answer, even if all that the broker answers is that it is busy; so failures
// are counted from the last progress as well. Any goroutine may call next.
type backoff struct {
	progress *atomic.Int64

	mu       sync.Mutex
	last     int64 // progress at the last failure
	failures int   // since it changed
}

// next returns how long to wait after so many failures in a row.
func (b *backoff) next(tries int) time.Duration {
	progress := b.progress.Load()
	b.mu.Lock()
	if progress != b.last {
		b.last, b.failures = progress, 0
	}
	b.failures++
	tries = max(tries, b.failures)
	b.mu.Unlock()
	wait := maxBackoff
	if tries < 10 {
		wait = min(minBackoff<<(tries-1), maxBackoff)
	}
	return wait - rand.N(wait/4) // clients that have lost the same broker spread out
}
