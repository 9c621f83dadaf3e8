package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/poison"
	"outboxd/internal/record"
)

// checkPartition looks whether the topic has the partition that an event names.
// While the brokers do not say, it is let through: the partitioner below does not
// let it out.
func (k *Kafka) checkPartition(d *Delivery) error {
	t := d.topic
	if d.Partition == record.ByKey || d.Partition < t.partitions {
		return nil
	}
	now := time.Now()
	if now.Before(k.partitionsAfter) {
		return nil
	}
	var topics []kmsg.MetadataResponseTopic
	var err error
	if waited := k.Await(func() {
		ctx, cancel := context.WithTimeout(k.ctx, describeTimeout)
		defer cancel()
		topics, err = k.metadata(ctx, d.Topic)
	}); waited != nil {
		return waited
	}
	if err != nil || len(topics) == 0 || topics[0].ErrorCode != 0 || len(topics[0].Partitions) == 0 {
		k.partitionsAfter = now.Add(partitionsPause)
		if err != nil {
			k.partitionsAfter = now.Add(describePause)
		}
		return nil
	}
	if t.partitions = int32(len(topics[0].Partitions)); d.Partition < t.partitions {
		return nil
	}
	return poison.Partition.Mark(fmt.Errorf("%w: it names partition %d (route.partition), topic %q has %d partitions", ErrUndeliverable, d.Partition, d.Topic, t.partitions))
}

// partitionsPause is how long the brokers are not asked again after they knew no
// partitions, so that a topic that is not there does not hold up the reader event
// by event.
const partitionsPause = time.Second

// partitioner sends a record to the partition that its event names, else where
// every Kafka client sends its key: murmur2.
type partitioner struct {
	byKey kgo.Partitioner
	// learn is told of how many partitions a topic is, each time.
	learn func(t *topic, count int)
	// stop ends sending before the client drops a record without a partition:
	// what follows must not overtake it.
	stop func()
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return &topicPartitioner{p.byKey.ForTopic(topic), p.learn, p.stop}
}

type topicPartitioner struct {
	byKey kgo.TopicPartitioner
	learn func(t *topic, count int)
	stop  func()
}

// named is the partition that the record's event names.
func named(r *kgo.Record) (partition int, ok bool) {
	d, ok := r.Context.(*Delivery)
	if !ok || d.Partition == record.ByKey {
		return 0, false
	}
	return int(d.Partition), true
}

// RequiresConsistency says whether the record's partition must not depend on
// which ones are available now.
func (t *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	_, ok := named(r)
	return ok || t.byKey.RequiresConsistency(r)
}

// Partition returns the record's partition among n.
func (t *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if d, ok := r.Context.(*Delivery); ok && r.Key != nil {
		if int(d.count) == n {
			return int(d.place)
		}
		t.learn(d.topic, n)
	}
	partition, ok := named(r)
	if !ok {
		return t.byKey.Partition(r, n)
	}
	if partition >= n {
		// The client knows fewer partitions than there are, or nobody knew how
		// many: the sink fails, and the next one asks again.
		t.stop()
	}
	return partition
}

// OnNewBatch is part of the sticky choice for records without a key.
func (t *topicPartitioner) OnNewBatch() {
	if sticky, ok := t.byKey.(kgo.TopicPartitionerOnNewBatch); ok {
		sticky.OnNewBatch()
	}
}
