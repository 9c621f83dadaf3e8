package sink

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/uptime"
)

// throttles notes that the brokers slow us down because of a quota. It is a hook of
// the client.
type throttles struct {
	log   zerolog.Logger
	said  *sync.Once
	until atomic.Int64 // as of uptime.Of
}

// throttleSlack is for how long after the brokers' pause an acknowledgement that is
// still missing is put down to it.
const throttleSlack = 5 * time.Second

// OnBrokerThrottle implements kgo.HookBrokerThrottle.
func (t *throttles) OnBrokerThrottle(broker kgo.BrokerMetadata, pause time.Duration, _ bool) {
	if pause <= 0 {
		return
	}
	until := int64(uptime.Of(time.Now()) + pause + throttleSlack)
	for {
		last := t.until.Load()
		if until <= last || t.until.CompareAndSwap(last, until) {
			break
		}
	}
	t.said.Do(func() {
		t.log.Info().Int32("broker", broker.NodeID).Stringer("pause", pause).
			Msg("throttled by the broker's quota: events are delivered as fast as it permits; raise producer_byte_rate or request_percentage of this client or user to change that")
	})
}

// Throttled tells whether the brokers slow us down because of a quota. Any goroutine
// may call it.
func (k *Kafka) Throttled() bool { return int64(uptime.Of(time.Now())) < k.throttles.until.Load() }
