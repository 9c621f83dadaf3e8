package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/remedy"
	"outboxd/internal/topicname"
)

// maxDiagnosed bounds how many topics Diagnose asks about.
const maxDiagnosed = 1_000

// Diagnose asks the cluster why nothing is acknowledged. It returns nil when the
// cluster answers and all topics are there.
func (k *Kafka) Diagnose(ctx context.Context) error {
	k.mu.Lock()
	names := slices.Sorted(maps.Keys(k.topics))
	k.mu.Unlock()
	topics, err := k.metadata(ctx, names[:min(len(names), maxDiagnosed)]...)
	if err != nil {
		return fmt.Errorf("ask the brokers: %w%s", err, remedy.Kafka(err))
	}
	for _, t := range topics {
		if t.Topic != nil && errors.Is(kerr.ErrorForCode(t.ErrorCode), kerr.UnknownTopicOrPartition) {
			if k.create.Enabled {
				if err := k.createTopics(ctx, *t.Topic); err != nil {
					return err
				}
				continue
			}
			if other := k.collision(ctx, *t.Topic); other != "" {
				return fmt.Errorf(`topic %q does not exist and cannot be created: its name collides with that of topic %q, since Kafka does not tell "." from "_" there; name another topic (route)`, *t.Topic, other)
			}
		}
		if err := diagnose(t); err != nil {
			return err
		}
	}
	return nil
}

// Reach asks the cluster for no more than an answer.
func (k *Kafka) Reach(ctx context.Context) error {
	if _, err := k.metadata(ctx); err != nil {
		return fmt.Errorf("ask the brokers: %w%s", err, remedy.Kafka(err))
	}
	return nil
}

// collision returns the topic beside which Kafka makes none of this name, or "".
func (k *Kafka) collision(ctx context.Context, name string) string {
	if !strings.ContainsAny(name, "._") {
		return ""
	}
	topics, err := k.admin.ListTopics(ctx)
	if err != nil {
		return ""
	}
	for other := range topics {
		if topicname.Collide(other, name) {
			return other
		}
	}
	return ""
}

// metadata asks about topics, without making any. It does not use the admin
// client, which turns a missing right to one topic into an error of the whole
// request that does not say which.
func (k *Kafka) metadata(ctx context.Context, names ...string) ([]kmsg.MetadataResponseTopic, error) {
	return k.askMetadata(ctx, false, names)
}

func (k *Kafka) askMetadata(ctx context.Context, create bool, names []string) ([]kmsg.MetadataResponseTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = create
	req.Topics = []kmsg.MetadataRequestTopic{} // nil would ask for all there are
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, k.client)
	if err != nil {
		return nil, err
	}
	return resp.Topics, nil
}

// touch asks about one topic as a producer does, so that the brokers make it if they
// make topics at all. It tells whether it is missing still.
func (k *Kafka) touch(ctx context.Context, name string) (missing bool, err error) {
	topics, err := k.askMetadata(ctx, !k.create.Enabled, []string{name})
	if err != nil || len(topics) != 1 {
		return false, err
	}
	err = kerr.ErrorForCode(topics[0].ErrorCode)
	return errors.Is(err, kerr.UnknownTopicOrPartition), nil
}

// createMissing makes those of the topics that are missing, before their first
// records, and reports whether it made one. When it cannot, records wait for the topic,
// and Diagnose tries again. The right to describe a topic's configuration is not
// needed.
func (k *Kafka) createMissing(topics []*topic) (made bool) {
	ctx, cancel := context.WithTimeout(k.ctx, describeTimeout)
	defer cancel()
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	there, err := k.metadata(ctx, names...)
	if err != nil {
		return false
	}
	names = nil
	for _, t := range there {
		if t.Topic != nil && errors.Is(kerr.ErrorForCode(t.ErrorCode), kerr.UnknownTopicOrPartition) {
			names = append(names, *t.Topic)
		}
	}
	if len(names) == 0 {
		return false
	}
	if err := k.createTopics(ctx, names...); err != nil {
		k.log.Warn().Err(err).Msg("waiting for the topic")
	}
	return true
}

// CreateTopics says whether and how topics that are missing are made. See
// route.create_topics in the configuration.
type CreateTopics struct {
	Enabled           bool
	Partitions        int
	ReplicationFactor int // -1: the brokers' default
	Config            map[string]string
}

// createTopics makes topics. It is not an error that another made one meanwhile. The
// error is that of the first that cannot be made.
func (k *Kafka) createTopics(ctx context.Context, names ...string) error {
	configs := make(map[string]*string, len(k.create.Config))
	for name, value := range k.create.Config {
		configs[name] = &value
	}
	made, err := k.admin.CreateTopics(ctx, int32(k.create.Partitions), int16(k.create.ReplicationFactor), configs, names...)
	if err != nil {
		return fmt.Errorf("create topic %q (route.create_topics): %w", names[0], err)
	}
	for _, topic := range made.Sorted() {
		switch {
		case errors.Is(topic.Err, kerr.TopicAlreadyExists):
		case topic.Err != nil && err == nil:
			err = topic.Err
			if topic.ErrMessage != "" {
				err = fmt.Errorf("%w: %s", err, topic.ErrMessage)
			}
			err = fmt.Errorf("create topic %q (route.create_topics): %w", topic.Topic, err)
		case topic.Err == nil:
			k.log.Info().Str("topic", topic.Topic).Int("partitions", k.create.Partitions).Msg("topic created")
		}
	}
	return err
}

// diagnose says what is wrong with one topic.
func diagnose(t kmsg.MetadataResponseTopic) error {
	var topic string
	if t.Topic != nil {
		topic = *t.Topic
	}
	switch err := kerr.ErrorForCode(t.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("topic %q does not exist and the broker does not create it; create it, or allow auto.create.topics.enable", topic)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("no right to topic %q; grant Describe and Write", topic)
	case err != nil:
		return fmt.Errorf("topic %q: %w", topic, err)
	}
	for _, p := range t.Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return fmt.Errorf("topic %q partition %d: %w", topic, p.Partition, err)
		}
	}
	// Who asks has waited for an acknowledgement in vain.
	for _, p := range t.Partitions {
		if len(p.ISR) < len(p.Replicas) {
			return fmt.Errorf("topic %q partition %d has %d of %d replicas in sync, and Kafka acknowledges nothing while they are fewer than min.insync.replicas; start the brokers that lack",
				topic, p.Partition, len(p.ISR), len(p.Replicas))
		}
	}
	return nil
}
