package sink

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/event"
	"outboxd/internal/record"
)

// create makes testTopic with its own max.message.bytes.
func create(t *testing.T, c *kfake.Cluster, maxBytes string) {
	t.Helper()
	configs := map[string]*string{"max.message.bytes": &maxBytes}
	if _, err := admin(t, c).CreateTopic(limited(t), 1, 1, configs, testTopic); err != nil {
		t.Fatal(err)
	}
}

// noise is a payload that no codec makes smaller.
func noise(n int) []byte {
	rnd := rand.NewChaCha8([32]byte{7})
	b := make([]byte, n)
	_, _ = rnd.Read(b)
	return b
}

// A record larger than its topic takes is found before it is sent, so that it
// leaves no gap: what comes after it may still be delivered.
func TestTooLargeIsFoundBeforeSending(t *testing.T) {
	c := broker(t, 0)
	create(t, c, "20000")
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	err := s.try(testTopic, "k", noise(20_000))
	if !errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a record that is too large: %v", err)
	}
	says(t, err, testTopic, "20000", "max.message.bytes")
	s.send(testTopic, "k", "1")
	s.delivered()
	if err := s.k.Err(); err != nil {
		t.Errorf("the sink failed: %v", err)
	}
	inOrder(t, consume(t, c, 2))
}

// What counts is the size of the envelope, not of the payload.
func TestEnvelopeTooLarge(t *testing.T) {
	c := broker(t, 0)
	create(t, c, "20000")
	k := open(t, c)
	for size, fits := range map[int]bool{3000: true, 4000: false} {
		w := &witness{}
		d := k.Next()
		d.Buffer = append(d.Buffer, strings.Repeat(`\u0001`, size)...)
		d.fill(1, d.Buffer)
		d.Topic, d.Key, d.Receipt, d.Memory = testTopic, []byte("k"), w, w
		if err := k.Send(d); errors.Is(err, ErrUndeliverable) == fits {
			t.Errorf("%d characters: %v", size, err)
		}
		until(t, "it is answered", func() bool { return k.InFlight() == 0 })
		if n := w.charged.Load(); n != 0 {
			t.Errorf("%d bytes stay charged", n)
		}
	}
}

// The sink's own estimate may be a little too high, never too low: what it
// admits, the broker takes, also alone in its batch and with many headers.
func TestAdmittedRecordsFit(t *testing.T) {
	const limit = 20_000
	c := broker(t, 0)
	create(t, c, "20000")
	s := &sender{t: t, k: open(t, c)}
	headers := []record.Header{{Key: "id", Value: noise(36)}, {Key: "empty"}, {Key: "big", Value: noise(3000)}}
	admitted := 0
	for size := limit - 3500; size < limit; size += 7 {
		err := s.try(testTopic, "k", noise(size), headers...)
		if err == nil {
			admitted = size
		} else if !errors.Is(err, ErrUndeliverable) {
			t.Fatal(err)
		}
		s.delivered()
	}
	if admitted < limit-3300 {
		t.Errorf("%d bytes were the most that was admitted; that wastes more than it should", admitted)
	}
}

// Batches obey the topic's limit, so that many small records do not become one
// that is refused.
func TestBatchesObeyTheLimit(t *testing.T) {
	c := broker(t, 0)
	create(t, c, "5000")
	release := hold(t, c) // so that there is much to put into the next batches
	s := &sender{t: t, k: open(t, c)}
	payload := noise(900)
	for range 200 {
		if err := s.try(testTopic, "k", payload); err != nil {
			t.Fatal(err)
		}
	}
	release()
	s.delivered()
	for _, r := range consume(t, c, 200) {
		if !bytes.Equal(r.Value, payload) {
			t.Fatalf("a value of %d bytes arrived", len(r.Value))
		}
	}
}

// While the topic is not there its limit is assumed. A record that would decide
// about it is refused in a way that may pass.
func TestLimitOfATopicThatComesLate(t *testing.T) {
	t.Parallel()
	c := broker(t, 0)
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	large := noise(2 << 20)
	err := s.try(testTopic, "k", large)
	if err == nil || errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a large record for a topic that is not there yet: %v", err)
	}
	says(t, err, testTopic, "does not exist", "create it")
	if s.k.Err() != nil {
		t.Fatalf("the sink failed: %v", s.k.Err())
	}

	create(t, c, "4000000")
	s.delivered()
	// The client has begun with the assumed limit: only a new one can send it.
	err = s.try(testTopic, "k", large)
	if !errors.Is(err, errLimitChanged) || errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a large record after the topic has come: %v", err)
	}
	if got := s.failed(); !errors.Is(got, errLimitChanged) {
		t.Errorf("the sink fails with %v", got)
	}
	next := &sender{t: t, k: open(t, c)}
	if err := next.try(testTopic, "k", large); err != nil {
		t.Fatal(err)
	}
	next.delivered()
}

// Where the limit may not be asked for, what is not known is tried: a record above
// Kafka's default arrives if the topic takes it, and if not it is the one event that
// cannot be delivered.
func TestLimitThatIsNotTold(t *testing.T) {
	for _, fits := range []bool{true, false} {
		c := broker(t, 0)
		create(t, c, map[bool]string{true: "10000000", false: "1500000"}[fits])
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
		learned := NewLearned()
		again := func(o *Options) { o.Learned = learned }
		s := &sender{t: t, k: open(t, c, again)}
		s.send(testTopic, "k", "0")
		s.delivered()
		// The client has begun with the default.
		if err := s.try(testTopic, "k", noise(2<<20)); !errors.Is(err, errLargeRecord) || errors.Is(err, ErrUndeliverable) {
			t.Fatalf("a record above the default: %v", err)
		}
		s.failed()
		if n := s.acknowledged(); n != 1 {
			t.Errorf("%d events acknowledged before the sink is replaced, want 1", n)
		}
		s = &sender{t: t, k: open(t, c, again)}
		for i := range 50 {
			s.send(testTopic, "k", fmt.Sprint(i))
		}
		if err := s.try(testTopic, "k", noise(2<<20)); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			s.send(testTopic, "k", fmt.Sprint(i))
		}
		if fits {
			s.delivered()
			consume(t, c, 102)
			continue
		}
		err := s.failed()
		var failure *FailedError
		if !errors.Is(err, ErrUndeliverable) || !errors.As(err, &failure) || failure.Position.Number != 51 {
			t.Errorf("a record that the topic does not take: %v", err)
		}
		if n := s.acknowledged(); n != 50 {
			t.Errorf("%d events acknowledged, want the 50 before it", n)
		}
	}
}

// A broker that does not answer the question does not hold up topic after topic.
func TestLimitIsNotAskedForEveryTopicOfABrokerThatIsDown(t *testing.T) {
	c := broker(t, 1)
	asked := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.UnknownServerError, Count: -1})
	s := &sender{t: t, k: open(t, c)}
	for _, topic := range []string{testTopic, "a", "b", "c", "d"} {
		s.send(topic, "k", "0")
	}
	for _, topic := range s.k.topics {
		<-topic.known
	}
	if n := asked.Hits(); n != 1 {
		t.Errorf("the brokers were asked %d times, want once", n)
	}
}

func TestLimitIsAskedOncePerTopic(t *testing.T) {
	c := broker(t, 1)
	asked := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Observe: true, Count: -1})
	s := &sender{t: t, k: open(t, c)}
	for range 100 {
		s.send(testTopic, "k", "0")
	}
	s.delivered()
	if n := asked.Hits(); n != 1 {
		t.Errorf("the brokers were asked %d times, want once", n)
	}
}

// created is how testTopic was made.
func created(t *testing.T, c *kfake.Cluster) (partitions int, config map[string]string) {
	t.Helper()
	admin := admin(t, c)
	topics, err := admin.ListTopics(limited(t), testTopic)
	if err != nil || topics[testTopic].Err != nil {
		t.Fatal(err, topics[testTopic].Err)
	}
	configs, err := admin.DescribeTopicConfigs(limited(t), testTopic)
	if err != nil {
		t.Fatal(err)
	}
	config = make(map[string]string)
	for _, c := range configs[0].Configs {
		config[c.Key] = c.MaybeValue()
	}
	return len(topics[testTopic].Partitions), config
}

func creating(o *Options) {
	o.CreateTopics = CreateTopics{Enabled: true, Partitions: 5, ReplicationFactor: -1, Config: map[string]string{"max.message.bytes": "4000", "retention.ms": "60000"}}
}

// A topic is made before its first record, so that its limits hold for it.
func TestTopicsAreMade(t *testing.T) {
	c := broker(t, 0)
	learned := NewLearned()
	again := func(o *Options) { o.Learned = learned }
	// A small record is not checked before the topic is known; the next sink waits.
	s := &sender{t: t, k: open(t, c, creating, again)}
	if err := s.try(testTopic, "k", noise(5000)); err != nil {
		t.Fatal(err)
	}
	if err := s.failed(); !errors.Is(err, errLimitChanged) || errors.Is(err, ErrUndeliverable) {
		t.Errorf("a record larger than the configured topic takes: %v", err)
	}
	s = &sender{t: t, k: open(t, c, creating, again)}
	if err := s.try(testTopic, "k", noise(5000)); !errors.Is(err, ErrUndeliverable) {
		t.Errorf("a record larger than the configured topic takes: %v", err)
	}
	s.send(testTopic, "k", "0")
	s.mustTo(testTopic, 4, "0")
	s.delivered()
	partitions, config := created(t, c)
	if partitions != 5 || config["max.message.bytes"] != "4000" || config["retention.ms"] != "60000" {
		t.Errorf("%d partitions, %v", partitions, config)
	}
}

// Someone else was faster, between our question and our request.
func TestTopicMadeByAnother(t *testing.T) {
	c := broker(t, 0)
	refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAlreadyExists, Count: 1})
	s := &sender{t: t, k: open(t, c, creating)}
	s.send(testTopic, "k", "0")
	if err := refused.Wait(limited(t), 1); err != nil {
		t.Fatal(err)
	}
	create(t, c, "100000")
	s.delivered()
	if partitions, _ := created(t, c); partitions != 1 {
		t.Errorf("%d partitions", partitions)
	}
}

// Without the right to make a topic, or to read its configuration, or with a
// configuration that the brokers refuse, it is waited for.
func TestTopicThatCannotBeMade(t *testing.T) {
	t.Parallel()
	c := broker(t, 0)
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := &sender{t: t, k: open(t, c, creating)}
	s.send(testTopic, "k", "0")
	err := s.try(testTopic, "k", noise(2<<20))
	if err == nil || errors.Is(err, ErrUndeliverable) {
		t.Errorf("a large record, while the topic's limit cannot be known: %v", err)
	}
	err = s.k.Diagnose(limited(t))
	says(t, err, "create topic", testTopic, "route.create_topics", "TOPIC_AUTHORIZATION_FAILED")
	fault.Remove()
	if err := s.k.Diagnose(limited(t)); err != nil {
		t.Fatal(err)
	}
	s.delivered()
	if partitions, _ := created(t, c); partitions != 5 {
		t.Errorf("%d partitions", partitions)
	}
}

func TestTopicIsMadeWithoutTheRightToDescribe(t *testing.T) {
	c := broker(t, 0)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := &sender{t: t, k: open(t, c, creating)}
	s.send(testTopic, "k", "0")
	s.delivered()
}

// A limit that was raised meanwhile is asked for before a record is given up.
func TestLimitThatWasRaised(t *testing.T) {
	c := broker(t, 0)
	create(t, c, "20000")
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	s.delivered()
	configure(t, c, "max.message.bytes", "90000")
	if err := s.try(testTopic, "k", noise(40_000)); !errors.Is(err, errLimitChanged) || errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a record above the former limit: %v", err)
	}
	next := &sender{t: t, k: open(t, c)}
	if err := next.try(testTopic, "k", noise(40_000)); err != nil {
		t.Fatal(err)
	}
	next.delivered()
}

func configure(t *testing.T, c *kfake.Cluster, key, value string) {
	t.Helper()
	answers, err := admin(t, c).AlterTopicConfigs(limited(t), []kadm.AlterConfig{{Name: key, Value: &value}}, testTopic)
	if err == nil {
		_, err = answers.On(testTopic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// timed sends an event with a business time so far from now.
func (s *sender) timed(ahead time.Duration) error {
	return s.at(record.BusinessTime, committedAt, time.Now().Add(ahead))
}

// A time that the topic does not take is found before it is sent: the broker
// would refuse a whole batch because of it.
func TestTimesThatTheTopicDoesNotTake(t *testing.T) {
	c := broker(t, 1)
	configure(t, c, "message.timestamp.after.max.ms", "60000")
	configure(t, c, "message.timestamp.before.max.ms", "3600000")
	s := &sender{t: t, k: open(t, c)}
	for ahead, key := range map[time.Duration]string{
		2 * time.Minute: "message.timestamp.after.max.ms = 60000", 1e6 * time.Hour: "message.timestamp.after.max.ms", -2 * time.Hour: "message.timestamp.before.max.ms = 3600000",
	} {
		err := s.timed(ahead)
		if !errors.Is(err, ErrUndeliverable) {
			t.Errorf("%s ahead: %v", ahead, err)
			continue
		}
		says(t, err, "outbox.columns.timestamp", "value.timestamp", testTopic, key)
	}
	for _, ahead := range []time.Duration{0, 30 * time.Second, -time.Minute} {
		if err := s.timed(ahead); err != nil {
			t.Errorf("%s ahead: %v", ahead, err)
		}
	}
	s.delivered()
	// It is asked again before an event is given up.
	configure(t, c, "message.timestamp.after.max.ms", "600000")
	if err := s.timed(2 * time.Minute); err != nil {
		t.Error(err)
	}
	configure(t, c, "message.timestamp.type", "LogAppendTime")
	if err := s.timed(1e6 * time.Hour); err != nil {
		t.Errorf("a topic that takes the broker's time: %v", err)
	}
	s.delivered()
}

// What the broker refuses although its limit was kept may pass; where it does not
// say its limit, nothing better will be known.
func TestTimeThatIsRefused(t *testing.T) {
	for _, silent := range []bool{false, true} {
		c := broker(t, 1)
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp, Count: -1})
		if silent {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
		}
		s := &sender{t: t, k: open(t, c)}
		if err := s.timed(0); err != nil {
			t.Fatal(err)
		}
		err := s.failed()
		if errors.Is(err, ErrUndeliverable) != silent {
			t.Errorf("without the right to ask %t: %v", silent, err)
		}
		says(t, err, `id "8f3a"`, "0000000001507C60-00000001", testTopic, "INVALID_TIMESTAMP")
	}
}

// A commit's time is refused only when clocks differ: that passes, and the error
// says what to set right.
func TestClocksThatDiffer(t *testing.T) {
	c := broker(t, 1)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp, Count: -1})
	s := &sender{t: t, k: open(t, c)}
	if err := s.committed(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	err := s.failed()
	if errors.Is(err, ErrUndeliverable) {
		t.Errorf("given up for ever: %v", err)
	}
	says(t, err, "INVALID_TIMESTAMP", "set the clocks", "message.timestamp.after.max.ms")
}

// committed sends an event that was committed at a time.
func (s *sender) committed(at time.Time) error { return s.at(record.CommitTime, at, at) }

// at sends an event whose record has a time of that clock.
func (s *sender) at(clock record.Clock, committed, at time.Time) error {
	w := &witness{}
	d := s.k.Next()
	d.fill(1, []byte("{}"))
	d.ID, d.Position, d.CommittedAt, d.Timestamp, d.Clock = []byte("8f3a"), event.Position{CommitLSN: 0x1507C60, Number: 1}, committed, at, clock
	d.Topic, d.Key = testTopic, []byte("k")
	d.Receipt, d.Memory = w, w
	if err := s.k.Send(d); err != nil {
		return err
	}
	s.sent = append(s.sent, w)
	return nil
}

// A topic whose replicas are not in sync is named: the brokers answer, and acknowledge
// nothing of it.
func TestDiagnoseNamesTheTopicThatLacksReplicas(t *testing.T) {
	name := "orders"
	partition := func(number int32, inSync ...int32) kmsg.MetadataResponseTopicPartition {
		return kmsg.MetadataResponseTopicPartition{Partition: number, Replicas: []int32{1, 2, 3}, ISR: inSync}
	}
	topic := kmsg.MetadataResponseTopic{Topic: &name, Partitions: []kmsg.MetadataResponseTopicPartition{partition(0, 1, 2, 3), partition(1, 3, 1, 2)}}
	if err := diagnose(topic); err != nil {
		t.Errorf("all are in sync: %v", err)
	}
	topic.Partitions[1].ISR = []int32{3}
	says(t, diagnose(topic), `topic "orders" partition 1`, "1 of 3 replicas", "min.insync.replicas")
}
