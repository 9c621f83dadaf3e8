package deadletter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/records"
	"outboxd/internal/remedy"
)

// ErrUnusable is wrapped by the error of a topic that would lose dead letters.
var ErrUnusable = errors.New("the dead-letter topic cannot be used")

// MaxBytes is how large a record the topic takes where outboxd makes it: as large as any
// that the client sends, so that the dead letter of an event that was too large holds
// all of it.
const MaxBytes = 1 << 26

// answerBytes is how large an answer of a broker may be: a record comes whole.
const answerBytes = MaxBytes + 16<<20

// TopicOptions say which topic has the dead letters.
type TopicOptions struct {
	Topic string
	Slot  string
	Log   zerolog.Logger
	// Client connects to the cluster.
	Client []kgo.Opt
}

// Topic is the dead-letter topic, seen by one connector. It is used by one goroutine at
// a time.
type Topic struct {
	o      TopicOptions
	client *kgo.Client
	admin  *kadm.Client
	warned bool
}

// Open makes the client. It does not connect.
func Open(o TopicOptions) (*Topic, error) {
	client, err := kgo.NewClient(append(append([]kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.UnknownTopicRetries(-1),
		kgo.MetadataMinAge(250 * time.Millisecond), // a topic just made is soon seen
		kgo.ProducerBatchMaxBytes(MaxBytes),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	}, o.Client...), kgo.BrokerMaxReadBytes(answerBytes))...)
	if err != nil {
		return nil, fmt.Errorf("configure Kafka client for %s: %w", o.Topic, err)
	}
	return &Topic{o: o, client: client, admin: kadm.NewClient(client)}, nil
}

// Close ends the connections.
func (t *Topic) Close() { t.client.Close() }

// Settings are what the topic is made with: nothing is deleted before an operator has
// seen it.
func Settings() map[string]*string {
	return map[string]*string{
		"cleanup.policy":    kadm.StringPtr("delete"),
		"retention.ms":      kadm.StringPtr("-1"),
		"max.message.bytes": kadm.StringPtr(strconv.Itoa(MaxBytes)),
	}
}

// Partitions are how many the topic is made with. With one, dead letters lie in the
// order of their events.
const Partitions = 1

// Prepare makes the topic when it is missing, and refuses one that cannot be written to
// or would lose dead letters. An error that does not wrap ErrUnusable may pass.
func (t *Topic) Prepare(ctx context.Context) error {
	exists, err := t.look(ctx)
	if err == nil && !exists {
		return t.create(ctx)
	}
	return err
}

// Subject is what the topic is called in messages.
func (t *Topic) Subject() string {
	return fmt.Sprintf("topic %q (errors.dead_letter_topic)", t.o.Topic)
}

func (t *Topic) look(ctx context.Context) (exists bool, err error) {
	meta, err := records.Metadata(ctx, t.client, t.o.Topic)
	switch {
	case err != nil:
		return false, fmt.Errorf("look for %s: %w%s", t.Subject(), err, remedy.Kafka(err))
	case errors.Is(kerr.ErrorForCode(meta.ErrorCode), kerr.UnknownTopicOrPartition):
		return false, nil
	case errors.Is(kerr.ErrorForCode(meta.ErrorCode), kerr.TopicAuthorizationFailed):
		return true, fmt.Errorf("no right to %s: grant Describe, Read and Write on it", t.Subject())
	case meta.ErrorCode != 0:
		return true, fmt.Errorf("look for %s: %w", t.Subject(), kerr.ErrorForCode(meta.ErrorCode))
	case meta.AuthorizedOperations != math.MinInt32 && meta.AuthorizedOperations&(1<<kmsg.ACLOperationWrite) == 0:
		return true, fmt.Errorf("no right to write to %s: grant Write on it", t.Subject())
	}
	return true, t.checkSettings(ctx)
}

// checkSettings refuses a topic that is compacted, and warns of one that deletes.
func (t *Topic) checkSettings(ctx context.Context) error {
	settings, err := t.settings(ctx)
	if err != nil {
		// Who may not read them has to know them.
		if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
			return nil
		}
		return fmt.Errorf("describe %s: %w", t.Subject(), err)
	}
	if err := Judge(settings); err != nil {
		return fmt.Errorf("%w: %s %w", ErrUnusable, t.Subject(), err)
	}
	if retention := Retention(settings); retention > 0 && !t.warned {
		t.warned = true
		t.o.Log.Warn().Str("topic", t.o.Topic).Stringer("retention", retention).
			Msg("dead letters are deleted when they are so old, resolved or not; set retention.ms=-1 on their topic to keep them")
	}
	return nil
}

func (t *Topic) settings(ctx context.Context) (map[string]string, error) {
	configs, err := t.admin.DescribeTopicConfigs(ctx, t.o.Topic)
	if err != nil {
		return nil, err
	}
	config, err := configs.On(t.o.Topic, nil)
	if err == nil {
		err = config.Err
	}
	settings := make(map[string]string)
	for _, c := range config.Configs {
		settings[c.Key] = c.MaybeValue()
	}
	return settings, err
}

// Judge refuses settings with which a topic would lose dead letters. The error can stand
// behind the topic's name.
func Judge(settings map[string]string) error {
	if policy := settings["cleanup.policy"]; strings.Contains(policy, "compact") {
		return fmt.Errorf("has cleanup.policy=%s, which keeps only the last dead letter of each key; set cleanup.policy=delete and retention.ms=-1 on it, or name another topic", policy)
	}
	return nil
}

// Retention returns when the topic deletes dead letters, 0 for never.
func Retention(settings map[string]string) time.Duration {
	ms, err := strconv.ParseInt(settings["retention.ms"], 10, 64)
	if err != nil || ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// create makes the topic with as many replicas as the brokers think right.
func (t *Topic) create(ctx context.Context) error {
	made, err := t.admin.CreateTopic(ctx, Partitions, -1, Settings(), t.o.Topic)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		// By another process just now: it is looked at the next time.
		return fmt.Errorf("create %s: %w", t.Subject(), err)
	case err != nil:
		if text := strings.TrimSpace(made.ErrMessage); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return fmt.Errorf("%s is missing, and it cannot be created: %w; create it with cleanup.policy=delete, retention.ms=-1 and max.message.bytes=%d",
			t.Subject(), err, MaxBytes)
	}
	t.o.Log.Info().Str("topic", t.o.Topic).Msg("topic for dead letters created")
	return nil
}
