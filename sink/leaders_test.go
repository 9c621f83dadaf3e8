package sink

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// asInProduction takes away the client's options that open adds.
func asInProduction(o *Options) { o.Client = nil }

// watched counts the requests of a kind that proceed as they would have.
func watched(c *kfake.Cluster, key kmsg.Key) *atomic.Int64 {
	var n atomic.Int64
	c.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return &n
}

// notMoreThan fails if there were more requests than one per interval, and a few to begin with.
func notMoreThan(t *testing.T, what string, n *atomic.Int64, began time.Time, interval time.Duration) {
	t.Helper()
	if n, most := n.Load(), int64(time.Since(began)/interval)+8; n > most {
		t.Errorf("%d requests %s in %s, want at most %d", n, what, time.Since(began), most)
	}
}

// With franz-go's 5 s before each request for metadata, the moves would take longer than
// the test waits.
func TestDeliveryFollowsTheLeader(t *testing.T) {
	t.Parallel()
	const moves = 12
	// From Kafka 3.7, who is no longer leader says who is, and the client does not ask.
	// A broker that is gone says nothing.
	c := broker(t, 1, kfake.NumBrokers(2), kfake.MaxVersions(kversion.V3_6_0()))
	s := &sender{t: t, k: open(t, c, asInProduction)}
	metadata := watched(c, kmsg.Metadata)
	ctx := limited(t)
	for i := range moves {
		if err := c.MoveTopicPartition(testTopic, 0, int32(i%2)); err != nil {
			t.Fatal(err)
		}
		s.send(testTopic, "k", fmt.Sprint(i))
		s.delivered()
		if ctx.Err() != nil {
			t.Fatalf("%d moves took longer than %s", i+1, patience)
		}
	}
	if n := metadata.Load(); n < moves-1 {
		t.Errorf("%d requests for metadata in %d moves: the client did not need to ask", n, moves)
	}
	consume(t, c, moves)
}

// The client learns of a topic that is made after its first event was sent.
func TestDeliveryFollowsTheTopic(t *testing.T) {
	t.Parallel()
	const topics = 4
	c := broker(t, 0)
	s := &sender{t: t, k: open(t, c, asInProduction)}
	ctx := limited(t)
	for i := range topics {
		name := fmt.Sprintf("topic-%d", i)
		metadata := watched(c, kmsg.Metadata)
		s.send(name, "k", "0")
		// That is more than franz-go asks without pause.
		until(t, "the client has asked for the topic", func() bool { return metadata.Load() >= 10 })
		if _, err := admin(t, c).CreateTopic(ctx, 1, 1, nil, name); err != nil {
			t.Fatal(err)
		}
		s.delivered()
	}
}

// A client asks for all partitions in one request, and not more often than every
// metadataMinAge, however many are without a leader.
func TestNoStormForLeaders(t *testing.T) {
	t.Parallel()
	const partitions = 300
	for _, refusal := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.NotEnoughReplicas} {
		t.Run(refusal.Message, func(t *testing.T) {
			t.Parallel()
			c := broker(t, partitions)
			refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: refusal, Count: -1})
			metadata := watched(c, kmsg.Metadata)
			var attempts atomic.Int64 // those of one partition
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				for _, topic := range r.(*kmsg.ProduceRequest).Topics {
					for _, p := range topic.Partitions {
						if p.Partition == 0 {
							attempts.Add(1)
						}
					}
				}
				return nil, nil, false
			})
			s := &sender{t: t, k: open(t, c, asInProduction)}
			began := time.Now()
			for i := range 4 * partitions {
				s.send(testTopic, key(i), "0")
			}
			until(t, "metadata was asked for often", func() bool { return metadata.Load() >= 12 })
			notMoreThan(t, "for metadata", metadata, began, metadataMinAge)
			notMoreThan(t, "with events of one partition", &attempts, began, metadataMinAge)
			refused.Remove()
			s.delivered()
		})
	}
}

// A broker that answers, but only that it is busy, is asked less and less often.
func TestBusyBrokerIsNotHammered(t *testing.T) {
	t.Parallel()
	for _, busy := range []*kerr.Error{kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		t.Run(busy.Message, func(t *testing.T) {
			t.Parallel()
			c := broker(t, 1)
			refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: busy, Count: -1})
			produce := watched(c, kmsg.Produce)
			s := &sender{t: t, k: open(t, c, asInProduction)}
			began := time.Now()
			s.send(testTopic, "k", "0")
			until(t, "the client has tried often", func() bool { return produce.Load() >= 20 })
			notMoreThan(t, "to produce", produce, began, maxBackoff*3/4)
			refused.Remove()
			s.delivered()
		})
	}
}

func TestBackoff(t *testing.T) {
	var progress atomic.Int64
	b := &backoff{progress: &progress}
	waits := func(tries int, want time.Duration) {
		t.Helper()
		if got := b.next(tries); got > want || got <= want*3/4 {
			t.Errorf("after %d tries %s, want %s less up to a quarter", tries, got, want)
		}
	}
	for _, want := range []time.Duration{25, 50, 100, 200, 200} {
		waits(1, want*time.Millisecond) // the count is the backoff's own
	}
	progress.Store(1)
	waits(1, 25*time.Millisecond)
	progress.Store(2)
	waits(3, 100*time.Millisecond) // the client's
	progress.Store(3)
	waits(0, 25*time.Millisecond)
	waits(1<<40, 200*time.Millisecond)
}
