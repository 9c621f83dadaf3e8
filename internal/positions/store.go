// Package positions keeps the resume position in a compacted Kafka topic with
// one partition. Which record is a slot's position is told in claim.go.
package positions

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/remedy"
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
	// owner is this process, epoch its claim: 0 until it has one. newest is the
	// highest claim that was loaded, and stale are the keys of the others.
	owner  string
	epoch  uint64
	newest uint64
	stale  []string
	held   bool // the claim of epoch is known to be in the topic
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
	return &Store{o: o, client: client, admin: kadm.NewClient(client), owner: rand.Text()}, nil
}

// Close ends the connections.
func (s *Store) Close() { s.client.Close() }

// Owner identifies this process in the records.
func (s *Store) Owner() string { return s.owner }

// Claimed reports whether the position was this process's when it was last loaded or
// saved.
func (s *Store) Claimed() bool { return s.held && s.epoch > s.newest }

// Record returns the record of a position, for a producer of its own: in a
// transaction, the position is stored when the transaction is committed. The
// transactional id keeps other processes out, so that its key is the slot's name, as
// in earlier versions.
func (s *Store) Record(p offsets.Position) *kgo.Record { return s.record(s.o.Slot, p) }

// Save writes the position and returns when Kafka has acknowledged it. The first one
// after a Load that found another process's position claims it.
func (s *Store) Save(ctx context.Context, p offsets.Position) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	s.outbid()
	if err := s.produce(ctx, s.record(s.key(), p)); err != nil {
		return fmt.Errorf("write topic %q (delivery.topic): %w", s.o.Topic, err)
	}
	s.held = true
	// What other claims have left is of no use any more. Where it stays, it does no
	// harm.
	for _, key := range s.stale {
		s.client.Produce(context.WithoutCancel(ctx), &kgo.Record{Topic: s.o.Topic, Key: []byte(key)}, nil)
	}
	s.stale = nil
	return nil
}

func (s *Store) produce(ctx context.Context, r *kgo.Record) error {
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

// LoadStable returns the position that was stored before the first transaction that is
// still open, and does not wait for that as Load does. It may be out of date.
func (s *Store) LoadStable(ctx context.Context) (*offsets.Position, error) {
	p, _, err := s.load(ctx, false)
	return p, err
}

// LoadOwned returns the stored position and the owner of its record.
func (s *Store) LoadOwned(ctx context.Context) (p *offsets.Position, owner string, err error) {
	return s.load(ctx, true)
}

func (s *Store) load(ctx context.Context, waits bool) (p *offsets.Position, owner string, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if err := s.check(ctx); err != nil {
		return nil, "", err
	}
	found := claims{slot: s.o.Slot}
	if err := s.read(ctx, waits, found.add); err != nil {
		s.checked = false // it may have been deleted
		return nil, "", fmt.Errorf("read topic %q (delivery.topic): %w%s", s.o.Topic, err, remedy.Kafka(err))
	}
	c, err := found.best()
	if err != nil {
		return nil, "", fmt.Errorf("%w: topic %q (delivery.topic), partition 0, %w", offsets.ErrUnusable, s.o.Topic, err)
	}
	if bad := found.foreign; bad != nil {
		s.o.Log.Warn().Str("topic", s.o.Topic).Int64("offset", bad.offset).AnErr("reason", bad.err).
			Msg("a record with the slot's key is not outboxd's, and is ignored; check who may write to this topic")
	}
	if c == nil {
		s.newest, s.stale = 0, nil
		return nil, "", nil
	}
	s.newest, s.stale = c.epoch, found.others(s.key())
	if c.owner == s.owner && c.epoch == s.epoch {
		s.newest, s.held = c.epoch-1, true // ours is the newest: it is not claimed again
	}
	return &c.position, c.owner, nil
}

// Diagnose says why a position cannot be written, as far as the cluster says; nil: not
// known. Any goroutine may call it.
func (s *Store) Diagnose(ctx context.Context) error {
	topics, err := s.admin.ListTopics(ctx, s.o.Topic)
	if err != nil {
		return fmt.Errorf("topic %q (delivery.topic): %w", s.o.Topic, err)
	}
	topic := topics[s.o.Topic]
	if topic.Err != nil {
		return fmt.Errorf("topic %q (delivery.topic): %w", s.o.Topic, topic.Err)
	}
	for _, p := range topic.Partitions {
		if p.Err != nil {
			return fmt.Errorf("topic %q (delivery.topic), partition %d: %w", s.o.Topic, p.Partition, p.Err)
		}
		if len(p.ISR) < len(p.Replicas) {
			return fmt.Errorf("topic %q (delivery.topic), partition %d: %d of %d replicas are in sync; min.insync.replicas may ask for more",
				s.o.Topic, p.Partition, len(p.ISR), len(p.Replicas))
		}
	}
	return fmt.Errorf("topic %q (delivery.topic) is there, and the cluster does not acknowledge what is written to it; check min.insync.replicas", s.o.Topic)
}

// Peek returns the stored position like Load, for who keeps positions elsewhere: it
// makes no topic, and nil also means that there is none or that it may not be read.
func (s *Store) Peek(ctx context.Context) (*offsets.Position, error) {
	topics, err := s.admin.ListTopics(ctx, s.o.Topic)
	if err != nil {
		return nil, err
	}
	if topic, ok := topics[s.o.Topic]; !ok || topic.Err != nil || len(topic.Partitions) != 1 {
		return nil, nil
	}
	found := claims{slot: s.o.Slot}
	if err := s.read(ctx, true, found.add); err != nil {
		if errors.Is(err, kerr.TopicAuthorizationFailed) {
			return nil, nil
		}
		return nil, err
	}
	c, err := found.best()
	if c == nil || err != nil {
		return nil, nil
	}
	return &c.position, nil
}

// check makes the topic when it is missing, and refuses one that would lose
// positions or put them out of order.
func (s *Store) check(ctx context.Context) error {
	if s.checked {
		return nil
	}
	exists, err := s.look(ctx)
	if err == nil && !exists {
		return s.create(ctx)
	}
	s.checked = err == nil
	return err
}

// look looks at the topic, and refuses one that would lose positions or put them out
// of order.
func (s *Store) look(ctx context.Context) (exists bool, err error) {
	topics, err := s.admin.ListTopics(ctx, s.o.Topic)
	if err != nil {
		return false, fmt.Errorf("look for topic %q (delivery.topic): %w%s", s.o.Topic, err, remedy.Kafka(err))
	}
	topic := topics[s.o.Topic]
	if errors.Is(topic.Err, kerr.UnknownTopicOrPartition) {
		return false, nil
	}
	if topic.Err != nil {
		return false, fmt.Errorf("look for topic %q (delivery.topic): %w", s.o.Topic, topic.Err)
	}
	if n := len(topic.Partitions); n != 1 {
		return true, fmt.Errorf("%w: topic %q (delivery.topic) has %d partitions instead of 1, which puts positions out of order; "+
			"name another topic, which outboxd makes, or delete this one if nothing else uses it", offsets.ErrUnusable, s.o.Topic, n)
	}
	return true, s.checkCompacted(ctx)
}

// Inspect is Load for who changes nothing: it does not make the topic. It also returns
// whether the topic exists.
func (s *Store) Inspect(ctx context.Context) (p *offsets.Position, exists bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if exists, err = s.look(ctx); err != nil || !exists {
		return nil, exists, err
	}
	s.checked = true
	p, err = s.Load(ctx)
	return p, true, err
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

// TopicConfig is what the topic is made with.
func TopicConfig() map[string]*string {
	return map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
}

// create makes the topic with as many replicas as the brokers think right.
func (s *Store) create(ctx context.Context) error {
	made, err := s.admin.CreateTopic(ctx, 1, -1, TopicConfig(), s.o.Topic)
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
