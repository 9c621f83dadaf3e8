package simulate

import (
	"fmt"
	"time"

	"outboxd/offsets"
)

// options are what a seed chooses of the configuration and of the servers.
type options struct {
	store        string // slot, file or kafka
	exactly      bool   // positions in the transactions
	brokers      int
	rewind       offsets.Rewind
	standby      bool // the server is a standby at first
	hosts        int  // how many more standbys there are
	backfill     int  // how many transactions there are before the slot, which are published; 0: none, and no backfill
	partitions   int
	byPartition  bool // late events wait by partition, however few there are
	topics       int
	keys         int
	messages     bool // outbox.message_prefix
	empties      bool
	confirmEvery time.Duration
	timeout      time.Duration // wal_sender_timeout
	memory       int64
	synchronized bool
	madeBefore   bool // the slot is there before the first start
	missing      bool // the topics are not there at first
	again        bool // after the last stop there is another start
	deadLetters  bool // some rows have no topic, and errors.poison is dead_letter
	refused      bool // some of these have one, and the brokers refuse them once they are sent
	// pace is how long the server takes for each chunk of bytes that it sends.
	pace  time.Duration
	chunk int
	// latency is of the network to each side, there and back.
	latency map[side][2]time.Duration
}

// lateData says that what a process has written before its end may arrive long after
// it. Without transactions nothing could keep it from arriving behind newer events:
// see "What it cannot see" in the package's documentation.
func (o options) lateData() bool { return o.exactly }

func (o options) String() string {
	guarantee := "at least once, store " + o.store
	if o.exactly {
		guarantee = "exactly once"
	}
	if o.deadLetters {
		guarantee += ", dead letters"
	}
	if o.byPartition {
		guarantee += ", piles"
	}
	if o.rewind.Age > 0 {
		guarantee += fmt.Sprintf(", rewind %s", o.rewind.Age)
	}
	if o.rewind.Bytes > 0 {
		guarantee += fmt.Sprintf(", rewind %d bytes", o.rewind.Bytes)
	}
	if o.standby {
		guarantee += fmt.Sprintf(", from a standby (of %d)", o.hosts+1)
	}
	if o.backfill > 0 {
		guarantee += ", backfill"
	}
	return fmt.Sprintf("%s; %d brokers, %d topics of %d partitions, %d keys; confirm every %s, wal_sender_timeout %s; %d bytes every %s, latency %v",
		guarantee, o.brokers, o.topics, o.partitions, o.keys, o.confirmEvery, o.timeout, o.chunk, o.pace, o.latency)
}
