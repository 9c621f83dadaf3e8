package sink

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"outboxd/internal/uptime"
)

// topic is what the sink knows of a topic, and the records that wait for it.
//
// The brokers are asked about a topic when its first event is sent. Until they have
// answered, its records wait here, in order; those of other topics do not. Afterwards
// they go straight to the client, but for a topic with a window: of that, only so
// many bytes are with the client as one batch may have. The client has a much higher
// limit there, which lets a record through that is larger uncompressed than batches
// may be. Such a record is alone in its batch, so that it is the one that the
// broker's answer is about.
type topic struct {
	name string
	// known is closed when the brokers have answered, or have not in time.
	known    chan struct{}
	answered atomic.Bool // known is closed
	open     atomic.Bool // records go straight to the client
	// unacked is how many of its events were sent and not yet answered.
	unacked atomic.Int64
	// clientLimit is the batch limit that the client is told when it asks, which it
	// does once, after it has got the first record; given is what it was told, 0
	// before.
	clientLimit, given atomic.Int32

	// Of the sending goroutine.
	careful bool // see lesson
	events  int  // how many it has had
	// partitions is how many it has, 0: not known.
	partitions int32
	piles      []pile // the backlog's mutex guards them

	// count is of how many partitions the client has chosen last, 0 before.
	count atomic.Int32

	mu    sync.Mutex
	limit limit
	// window is how many bytes may be with the client together, 0: no matter how many;
	// out is how many are. While a suspect is out, nothing else is.
	window, out int
	suspects    suspects
	suspectOut  bool
	queue       []*Delivery
}

// waitForLimit is the size from which on a record of a new topic is not sent, or
// queued, before the topic's limit is known. Smaller ones fit nearly always.
const waitForLimit = 16 << 10

// Bounds of the number of topics.
const (
	// manyTopics is how many make the operator hear that each costs something.
	manyTopics = 1_000
	// maxTopics is how many a sink knows before it is replaced by an empty one: the
	// client forgets none that it has written to.
	maxTopics = 10_000
	// From batchedTopics on, questions about new ones are asked together, the less
	// often the more topics there are: the client asks for all of them each time.
	batchedTopics  = 500
	gatherPerTopic = 100 * time.Microsecond
)

var errManyTopics = fmt.Errorf("more than %d topics have been written to; a new producer starts, which knows only those that are in use", maxTopics)

// topicOf returns the topic of a name. A new one is asked for.
func (k *Kafka) topicOf(name string) (*topic, error) {
	if t, ok := k.topics[name]; ok {
		return t, nil
	}
	if len(k.topics) >= maxTopics {
		return nil, k.replace(errManyTopics)
	}
	lesson := k.learned.of(name)
	t := &topic{name: name, known: make(chan struct{}), careful: lesson.careful, suspects: lesson.suspects}
	t.limit = unknownLimit
	t.clientLimit.Store(defaultBatchLimit)
	if lesson.most > 0 {
		t.limit.bytes = lesson.most
	}
	if !t.suspects.none() {
		k.singles.Add(1)
	}
	if lesson.windowed || lesson.most > 0 || !t.suspects.none() {
		t.setWindow()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.topics[name] = t
	if len(k.topics) == manyTopics {
		k.learned.manyWarned.Do(func() {
			k.log.Warn().Int("topics", manyTopics).Msg("events go to very many topics: each takes memory and time here and in the brokers; look at route.topic")
		})
	}
	k.toAsk = append(k.toAsk, t)
	if !k.asking {
		k.asking = true
		known := len(k.topics)
		k.running.Go(func() { k.askAll(known) })
	}
	return t, nil
}

// setWindow bounds what of the topic is with the client. The caller holds mu, or is
// the only one who knows the topic.
func (t *topic) setWindow() {
	t.window = t.limit.bytes
	t.clientLimit.Store(maxBatchLimit)
}

// askAll asks the brokers about new topics until there are none.
func (k *Kafka) askAll(topics int) {
	for {
		if topics >= batchedTopics {
			select {
			case <-k.ctx.Done():
			case <-time.After(time.Duration(topics) * gatherPerTopic):
			}
		}
		k.mu.Lock()
		batch := k.toAsk
		k.toAsk = nil
		if topics = len(k.topics); len(batch) == 0 {
			k.asking = false
		}
		k.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		k.ask(batch)
		for _, t := range batch {
			t.answered.Store(true)
			close(t.known)
			k.release(t)
		}
	}
}

// ask asks the brokers about topics, and makes those that are missing if it may.
func (k *Kafka) ask(topics []*topic) {
	now := time.Now()
	if int64(uptime.Of(now)) < k.askAfter.Load() {
		return // the brokers do not answer; what is assumed is assumed
	}
	answers, err := k.describe(topics)
	if err == nil && k.create.Enabled {
		var missing []*topic
		for i, a := range answers {
			if a.err != nil {
				missing = append(missing, topics[i])
			}
		}
		if len(missing) > 0 && k.createMissing(missing) {
			answers, err = k.describe(topics)
		}
	}
	if err != nil {
		k.askAfter.Store(int64(uptime.Of(now) + describePause))
		k.log.Debug().Err(err).Int("topics", len(topics)).Msg("the limits of topics are not known")
		return
	}
	for i, a := range answers {
		topics[i].learn(a)
		if a.err == nil {
			continue
		}
		if !isForbidden(a.err) && !errors.Is(a.err, kerr.UnknownTopicOrPartition) {
			k.askAfter.Store(int64(uptime.Of(now) + describePause))
		}
		k.log.Debug().Err(a.err).Str("topic", topics[i].name).Msg("the topic's limits are not known")
	}
}

// isForbidden tells the answers of a broker that has the topic and does not say what it
// takes: we may not know, or the broker knows no such request. (Some that speak Kafka's
// protocol do not.)
func isForbidden(err error) bool {
	for _, answer := range []error{kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidRequest, kerr.UnsupportedVersion, errNotSaid} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// untold notes that nobody says what the topic takes although the brokers answer.
func (t *topic) untold() {
	t.learn(answer{err: errNotSaid})
}

// learn takes note of an answer. What a broker has said once is not replaced by what
// is assumed because none has answered.
func (t *topic) learn(a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case a.err == nil:
		t.limit = a.limit
	case isForbidden(a.err):
		if t.limit.source != told {
			t.limit.source = forbidden
		}
	default:
		return
	}
	if t.window > 0 {
		t.setWindow()
	} else {
		t.clientLimit.Store(int32(t.limit.bytes))
	}
}

func (t *topic) windowed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.window > 0
}

// Limit returns how large a batch of a topic may be in bytes, uncompressed, as far as is
// known of a topic that was sent to; else Kafka's default. The sending goroutine calls it.
func (k *Kafka) Limit(topic string) int {
	if t := k.topics[topic]; t != nil {
		return t.current().bytes
	}
	return defaultBatchLimit
}

// current returns the topic's limit.
func (t *topic) current() limit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limit
}

// again asks about one topic once more.
func (k *Kafka) again(t *topic) error {
	k.askAfter.Store(0)
	return k.Await(func() { k.ask([]*topic{t}) })
}

// WaitWith sets how the sending goroutine waits when Send has to: f returns when done
// is closed, or earlier with an error that Send returns. It lets that goroutine serve
// what else it is responsible for. nil: it just waits. The sending goroutine calls it.
func (k *Kafka) WaitWith(f func(done <-chan struct{}) error) { k.waitWith = f }

// Await does something that takes time, on another goroutine, while the sending one,
// which calls it, waits as WaitWith says. It returns when f has ended, with the error of
// the waiting.
func (k *Kafka) Await(f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	err := k.waitFor(done)
	<-done // f may use what belongs to the sending goroutine, and is bounded
	return err
}

func (k *Kafka) waitFor(done <-chan struct{}) error {
	if k.waitWith == nil {
		<-done
		return nil
	}
	return k.waitWith(done)
}
