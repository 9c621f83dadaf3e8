// Package positions keeps the resume position in a compacted Kafka topic with
// one partition. Each slot has its own key there; the newest committed record of
// a key is its position.
package positions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/offsets"
)

// Options say where positions are kept.
type Options struct {
	Topic string
	Slot  string
	Log   zerolog.Logger
	// Client connects to the cluster.
	Client []kgo.Opt
}

// loadTimeout bounds one attempt to load: the operator hears why it takes so long.
const loadTimeout = 30 * time.Second

// Store is the positions' topic, seen by one slot. It is used by one goroutine
// at a time. An error that does not wrap offsets.ErrUnusable is a fault that may
// pass, such as a cluster that is down.
type Store struct {
	o       Options
	client  *kgo.Client
	admin   *kadm.Client
	checked bool // the topic is there and fits
}

// New makes the client. It does not connect.
func New(o Options) (*Store, error) {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.UnknownTopicRetries(-1),
		// A topic just made is soon seen.
		kgo.MetadataMinAge(250 * time.Millisecond),
		// What Save wrote last must be the newest: no second partition, and no
		// key's hash.
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	}, o.Client...)...)
	if err != nil {
		return nil, fmt.Errorf("configure Kafka client for %s: %w", o.Topic, err)
	}
	return &Store{o: o, client: client, admin: kadm.NewClient(client)}, nil
}

// Close ends the connections.
func (s *Store) Close() { s.client.Close() }

// ownerHeader names the process that wrote a position in a transaction.
const ownerHeader = "owner"

// Record returns the record of a position, for a producer of its own: in a
// transaction, the position is stored when the transaction is committed. owner
// identifies the process.
func (s *Store) Record(p offsets.Position, owner string) *kgo.Record {
	return &kgo.Record{
		Topic:   s.o.Topic,
		Key:     []byte(s.o.Slot),
		Value:   p.Encode(),
		Headers: []kgo.RecordHeader{{Key: ownerHeader, Value: []byte(owner)}},
	}
}

// Save writes the position and returns when Kafka has acknowledged it.
func (s *Store) Save(ctx context.Context, p offsets.Position) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	r := &kgo.Record{Topic: s.o.Topic, Key: []byte(s.o.Slot), Value: p.Encode()}
	done := make(chan error, 1)
	s.client.Produce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		// The client cannot take back what may have been sent. When it arrives, it
		// does so before the next.
		return ctx.Err()
	}
}

// Load returns the stored position, nil when there is none.
func (s *Store) Load(ctx context.Context) (*offsets.Position, error) {
	p, _, err := s.LoadOwned(ctx)
	return p, err
}

// LoadOwned returns the stored position and the owner of its record.
func (s *Store) LoadOwned(ctx context.Context) (p *offsets.Position, owner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if err := s.check(ctx); err != nil {
		return nil, "", err
	}
	r, err := s.newest(ctx)
	if err != nil {
		s.checked = false // it may have been deleted
		return nil, "", fmt.Errorf("read topic %q (delivery.topic): %w", s.o.Topic, err)
	}
	if r == nil || r.Value == nil {
		return nil, "", nil // a tombstone: an operator's way to forget
	}
	position, err := offsets.Decode(r.Value)
	if err != nil {
		return nil, "", fmt.Errorf("%w: topic %q (delivery.topic), partition 0, offset %d, key %q: %w; "+
			"check that no other program writes there; a record with this key and no value lets outboxd go on from the slot's own position",
			offsets.ErrUnusable, s.o.Topic, r.Offset, r.Key, err)
	}
	for _, h := range r.Headers {
		if h.Key == ownerHeader {
			owner = string(h.Value)
		}
	}
	return &position, owner, nil
}

// check makes the topic when it is missing, and refuses one that would lose
// positions or put them out of order.
func (s *Store) check(ctx context.Context) error {
	if s.checked {
		return nil
	}
	topics, err := s.admin.ListTopics(ctx, s.o.Topic)
	if err != nil {
		return fmt.Errorf("look for topic %q (delivery.topic): %w", s.o.Topic, err)
	}
	topic := topics[s.o.Topic]
	if errors.Is(topic.Err, kerr.UnknownTopicOrPartition) {
		return s.create(ctx)
	}
	if topic.Err != nil {
		return fmt.Errorf("look for topic %q (delivery.topic): %w", s.o.Topic, topic.Err)
	}
	if n := len(topic.Partitions); n != 1 {
		return fmt.Errorf("%w: topic %q (delivery.topic) has %d partitions instead of 1, which puts positions out of order; "+
			"name another topic, which outboxd makes, or delete this one if nothing else uses it", offsets.ErrUnusable, s.o.Topic, n)
	}
	if err := s.checkCompacted(ctx); err != nil {
		return err
	}
	s.checked = true
	return nil
}

func (s *Store) checkCompacted(ctx context.Context) error {
	configs, err := s.admin.DescribeTopicConfigs(ctx, s.o.Topic)
	if err == nil {
		var config kadm.ResourceConfig
		if config, err = configs.On(s.o.Topic, nil); err == nil {
			err = config.Err
		}
		for _, c := range config.Configs {
			// "compact,delete" would delete the position of a quiet slot.
			if policy := c.MaybeValue(); c.Key == "cleanup.policy" && policy != "compact" {
				return fmt.Errorf("%w: topic %q (delivery.topic) has cleanup.policy=%s, which deletes positions after a while; "+
					"set it right with kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config cleanup.policy=compact, or name another topic",
					offsets.ErrUnusable, s.o.Topic, policy, s.o.Topic)
			}
		}
	}
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		s.o.Log.Warn().Str("topic", s.o.Topic).Msg("no right to DescribeConfigs: make sure that the topic is compacted (cleanup.policy=compact)")
		return nil
	case err != nil:
		return fmt.Errorf("describe topic %q (delivery.topic): %w", s.o.Topic, err)
	}
	return nil
}

// create makes the topic with as many replicas as the brokers think right.
func (s *Store) create(ctx context.Context) error {
	made, err := s.admin.CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}, s.o.Topic)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists):
		// By another process just now: it is looked at the next time.
		return fmt.Errorf("create topic %q (delivery.topic): %w", s.o.Topic, err)
	case err != nil:
		return fmt.Errorf("topic %q (delivery.topic) is missing, and it cannot be created: %w; create it with one partition and cleanup.policy=compact",
			s.o.Topic, errors.Join(err, message(made.ErrMessage)))
	}
	s.o.Log.Info().Str("topic", s.o.Topic).Msg("topic for positions created")
	s.checked = true
	return nil
}

func message(text string) error {
	if text = strings.TrimSpace(text); text != "" {
		return errors.New(text)
	}
	return nil
}
