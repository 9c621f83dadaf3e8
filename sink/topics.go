package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// defaultBatchLimit is Kafka's default of message.max.bytes. It is assumed while
// the broker does not say.
const defaultBatchLimit = 1_048_588

// The client takes batch limits between these only.
const minBatchLimit, maxBatchLimit = 512, 1 << 26

// describeTimeout bounds the question asked before the first record of a topic.
// After one that failed, no other is asked for as long as describePause, so that
// a broker that is down does not hold up the reader topic by topic.
const describeTimeout, describePause = 3 * time.Second, 30 * time.Second

// limit is what a topic takes: how large a batch may be, in bytes, and how far a
// record's time may lie before and after the broker's clock, in milliseconds.
type limit struct {
	bytes         int
	before, after int64
	source        limitSource
}

// unlimited is Kafka's default of message.timestamp.before.max.ms.
const unlimited = math.MaxInt64

type limitSource int

const (
	assumed   limitSource = iota // the topic is not there yet, or no broker answered
	told                         // by the broker
	forbidden                    // the broker does not tell us: the default is taken for the truth
)

// errLimitChanged ends a sink whose client works with a wrong batch limit.
var errLimitChanged = errors.New("the topic's max.message.bytes is another than was assumed; starting again with it")

// admit checks that a record fits into its topic. This is decided before the
// record is sent: refused by the broker, it would leave a gap that later records
// of the same key could overtake.
func (k *Kafka) admit(r *kgo.Record) error {
	l, known := k.limits[r.Topic]
	if !known {
		l = k.learn(r.Topic)
	}
	size := wireSize(r)
	if size > l.bytes && l.source != forbidden {
		// It may have been raised since.
		before := l.bytes
		k.askAfter = time.Time{}
		if l = k.learn(r.Topic); l.source == assumed {
			return fmt.Errorf("a record of %d bytes for topic %q: its max.message.bytes is not known yet", size, r.Topic)
		}
		if l.bytes != before {
			k.cancel(&FailedError{Err: errLimitChanged})
			return k.Err()
		}
	}
	if size > l.bytes {
		return fmt.Errorf("%w: it takes up to %d bytes, topic %q takes %d (max.message.bytes)", ErrUndeliverable, size, r.Topic, l.bytes)
	}
	if k.value.Timestamp != BusinessTime {
		return nil
	}
	err := l.checkTime(r)
	if err != nil && l.source == told {
		k.askAfter = time.Time{}
		l = k.learn(r.Topic)
		err = l.checkTime(r)
	}
	return err
}

// checkTime refuses a business time that the topic does not take. The broker would
// refuse the whole batch, without saying which of its records is to blame.
func (l *limit) checkTime(r *kgo.Record) error {
	ahead := r.Timestamp.UnixMilli() - time.Now().UnixMilli()
	over, key := l.after, "after"
	switch {
	case ahead > l.after:
	case -ahead > l.before:
		over, key = l.before, "before"
	default:
		return nil
	}
	return fmt.Errorf("%w: its time (outbox.columns.timestamp, value.timestamp: column) %s is outside of what topic %q takes (message.timestamp.%s.max.ms = %d)",
		ErrUndeliverable, r.Timestamp.Format(time.RFC3339Nano), r.Topic, key, over)
}

// learn asks the broker how large a batch of the topic may be.
func (k *Kafka) learn(topic string) limit {
	l := limit{defaultBatchLimit, unlimited, unlimited, assumed}
	if now := time.Now(); now.After(k.askAfter) {
		asked, err := k.describe(topic)
		if answer := (*kerr.Error)(nil); k.create.Enabled && errors.As(err, &answer) && k.createMissing(topic) {
			asked, err = k.describe(topic)
		}
		switch {
		case err == nil:
			l = asked
		case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
			l.source = forbidden
		case !errors.Is(err, kerr.UnknownTopicOrPartition):
			k.askAfter = now.Add(describePause)
		}
		if err != nil {
			k.log.Debug().Err(err).Str("topic", topic).Int("assumed", l.bytes).Msg("the topic's max.message.bytes is not known")
		}
	}
	k.limits[topic] = l
	k.mu.Lock()
	k.topics[topic] = l
	k.mu.Unlock()
	return l
}

// createMissing makes the topic before its first record, and reports whether it
// did. When it cannot, records wait for the topic, and Diagnose tries again. The
// right to describe a topic's configuration is not needed.
func (k *Kafka) createMissing(topic string) bool {
	ctx, cancel := context.WithTimeout(k.ctx, describeTimeout)
	defer cancel()
	topics, err := k.metadata(ctx, topic)
	if err != nil || len(topics) != 1 || !errors.Is(kerr.ErrorForCode(topics[0].ErrorCode), kerr.UnknownTopicOrPartition) {
		return false
	}
	if err := k.createTopic(ctx, topic); err != nil {
		k.log.Warn().Err(err).Msg("waiting for the topic")
		return false
	}
	return true
}

// describe asks the broker for a topic's limits.
func (k *Kafka) describe(topic string) (limit, error) {
	l := limit{0, unlimited, unlimited, told}
	ctx, cancel := context.WithTimeout(k.ctx, describeTimeout)
	defer cancel()
	configs, err := k.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return l, err
	}
	config, err := configs.On(topic, nil)
	if err != nil {
		return l, err
	}
	if config.Err != nil {
		return l, config.Err
	}
	brokersTime := false
	for _, c := range config.Configs {
		var err error
		switch value := c.MaybeValue(); c.Key {
		case "max.message.bytes":
			l.bytes, err = strconv.Atoi(value)
			l.bytes = min(max(l.bytes, minBatchLimit), maxBatchLimit)
		case "message.timestamp.before.max.ms":
			l.before, err = strconv.ParseInt(value, 10, 64)
		case "message.timestamp.after.max.ms":
			l.after, err = strconv.ParseInt(value, 10, 64)
		case "message.timestamp.type":
			brokersTime = value == "LogAppendTime"
		}
		if err != nil {
			return l, fmt.Errorf("%s of topic %q: %w", c.Key, topic, err)
		}
	}
	if l.bytes == 0 {
		return l, errors.New("the broker did not say")
	}
	if brokersTime {
		l.before, l.after = unlimited, unlimited
	}
	return l, nil
}

// batchLimit tells the client how large a batch may be. The client asks when it
// first meets a partition, from its own goroutine.
func (k *Kafka) batchLimit(topic string) int32 {
	return int32(k.limit(topic).bytes)
}

// limit is for other goroutines than the sending one.
func (k *Kafka) limit(topic string) limit {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l, known := k.topics[topic]; known {
		return l
	}
	return limit{defaultBatchLimit, unlimited, unlimited, assumed}
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
	names := slices.Sorted(maps.Keys(k.topics))
	k.mu.Unlock()
	topics, err := k.metadata(ctx, names...)
	if err != nil {
		return fmt.Errorf("ask the brokers: %w%s", err, remedy(err))
	}
	for _, t := range topics {
		if k.create.Enabled && errors.Is(kerr.ErrorForCode(t.ErrorCode), kerr.UnknownTopicOrPartition) {
			if err := k.createTopic(ctx, *t.Topic); err != nil {
				return err
			}
			continue
		}
		if err := diagnose(t); err != nil {
			return err
		}
	}
	return nil
}

// metadata asks about topics, without making any. It does not use the admin
// client, which turns a missing right to one topic into an error of the whole
// request that does not say which.
func (k *Kafka) metadata(ctx context.Context, names ...string) ([]kmsg.MetadataResponseTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
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

// CreateTopics says whether and how topics that are missing are made. See
// route.create_topics in the configuration.
type CreateTopics struct {
	Enabled           bool
	Partitions        int
	ReplicationFactor int // -1: the brokers' default
	Config            map[string]string
}

// createTopic makes a topic. It is not an error that another made it meanwhile.
func (k *Kafka) createTopic(ctx context.Context, topic string) error {
	configs := make(map[string]*string, len(k.create.Config))
	for name, value := range k.create.Config {
		configs[name] = &value
	}
	made, err := k.admin.CreateTopic(ctx, int32(k.create.Partitions), int16(k.create.ReplicationFactor), configs, topic)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		return nil
	case err != nil:
		if made.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, made.ErrMessage)
		}
		return fmt.Errorf("create topic %q (route.create_topics): %w", topic, err)
	}
	k.log.Info().Str("topic", topic).Int("partitions", k.create.Partitions).Msg("topic created")
	return nil
}

// remedy says which part of the configuration the brokers do not take.
func remedy(err error) string {
	var unverified *tls.CertificateVerificationError
	var host x509.HostnameError
	var remote *net.OpError
	switch {
	case errors.As(err, &host):
		return "; name a host of the brokers' certificate by kafka.tls.server_name"
	case errors.As(err, &unverified):
		return "; name the authority of the brokers' certificate by kafka.tls.ca"
	case errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "certificate"):
		return "; the brokers want another certificate than that of kafka.tls.cert"
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "; look at kafka.sasl"
	}
	return ""
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
	return nil
}
