package sink

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/router"
)

// create makes testTopic with its own max.message.bytes.
func create(t *testing.T, c *kfake.Cluster, maxBytes string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	configs := map[string]*string{"max.message.bytes": &maxBytes}
	if _, err := kadm.NewClient(client).CreateTopic(limited(t), 1, 1, configs, testTopic); err != nil {
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

// The sink's own estimate may be a little too high, never too low: what it
// admits, the broker takes, also alone in its batch and with many headers.
func TestAdmittedRecordsFit(t *testing.T) {
	const limit = 20_000
	c := broker(t, 0)
	create(t, c, "20000")
	s := &sender{t: t, k: open(t, c)}
	headers := []router.Header{{Key: "id", Value: noise(36)}, {Key: "empty"}, {Key: "big", Value: noise(3000)}}
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
	c := broker(t, 0)
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	large := noise(2 << 20)
	err := s.try(testTopic, "k", large)
	if err == nil || errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a large record for a topic that is not there yet: %v", err)
	}
	says(t, err, testTopic, "max.message.bytes", "not known yet")
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

// A limit that may not be asked for is taken to be Kafka's default.
func TestLimitThatIsNotTold(t *testing.T) {
	c := broker(t, 1)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := &sender{t: t, k: open(t, c)}
	if err := s.try(testTopic, "k", noise(defaultBatchLimit)); !errors.Is(err, ErrUndeliverable) {
		t.Errorf("a record above the default: %v", err)
	}
	s.send(testTopic, "k", "0")
	s.delivered()
}

// A broker that does not answer the question does not hold up topic after topic.
func TestLimitIsNotAskedForEveryTopicOfABrokerThatIsDown(t *testing.T) {
	c := broker(t, 1)
	asked := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.UnknownServerError, Count: -1})
	s := &sender{t: t, k: open(t, c)}
	for _, topic := range []string{testTopic, "a", "b", "c", "d"} {
		s.send(topic, "k", "0")
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
