package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// defaultBatchLimit is Kafka's default of message.max.bytes. It is used when the
// broker does not say, for want of rights or because it is down.
const defaultBatchLimit = 1_048_588

// The client takes batch limits between these only.
const minBatchLimit, maxBatchLimit = 512, 1 << 26

// describeTimeout bounds the one question asked before the first record of a
// topic.
const describeTimeout = 3 * time.Second

// learn asks the broker how large a batch of the topic may be. It runs once a
// topic, before its first record, so that a record too large is found before it
// is sent: refused by the broker, it would leave a gap that later records of the
// same key could overtake.
func (k *Kafka) learn(topic string) int {
	limit := defaultBatchLimit
	if n, err := k.describe(topic); err != nil {
		k.log.Debug().Err(err).Str("topic", topic).Int("assumed_max_message_bytes", limit).Msg("topic's max.message.bytes is not known")
	} else {
		limit = n
	}
	limit = min(max(limit, minBatchLimit), maxBatchLimit)
	k.limits[topic] = limit
	k.mu.Lock()
	k.topics[topic] = limit
	k.mu.Unlock()
	return limit
}

func (k *Kafka) describe(topic string) (int, error) {
	ctx, cancel := context.WithTimeout(k.ctx, describeTimeout)
	defer cancel()
	configs, err := k.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return 0, err
	}
	config, err := configs.On(topic, nil)
	if err != nil {
		return 0, err
	}
	if config.Err != nil {
		return 0, config.Err
	}
	for _, c := range config.Configs {
		if c.Key == "max.message.bytes" && c.Value != nil {
			return strconv.Atoi(*c.Value)
		}
	}
	return 0, errors.New("the broker did not say")
}

// batchLimit tells the client how large a batch may be. The client asks when it
// first meets a partition, from its own goroutine.
func (k *Kafka) batchLimit(topic string) int32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if limit, known := k.topics[topic]; known {
		return int32(limit)
	}
	return defaultBatchLimit
}

// wireSize is the most that a record can take on the wire, uncompressed and
// alone in its batch (KIP-98's record format, with each varint at its longest).
func wireSize(r *kgo.Record) int {
	const batchHeader, recordOverhead, varint = 61, 21 + 5*3, 5
	n := batchHeader + recordOverhead + len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += 2*varint + len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// Diagnose asks the cluster why nothing is acknowledged. It returns nil when the
// cluster answers and all topics are there.
func (k *Kafka) Diagnose(ctx context.Context) error {
	k.mu.Lock()
	topics := make([]string, 0, len(k.topics))
	for t := range k.topics {
		topics = append(topics, t)
	}
	k.mu.Unlock()
	meta, err := k.admin.Metadata(ctx, topics...)
	if err != nil {
		return fmt.Errorf("ask the brokers: %w", err)
	}
	for _, t := range meta.Topics.Sorted() {
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("topic %q does not exist and the broker does not create it; create it, or allow auto.create.topics.enable", t.Topic)
		case errors.Is(t.Err, kerr.TopicAuthorizationFailed):
			return fmt.Errorf("no right to topic %q; grant Describe and Write", t.Topic)
		case t.Err != nil:
			return fmt.Errorf("topic %q: %w", t.Topic, t.Err)
		}
		for _, p := range t.Partitions.Sorted() {
			if p.Err != nil {
				return fmt.Errorf("topic %q partition %d: %w", t.Topic, p.Partition, p.Err)
			}
		}
	}
	return nil
}
