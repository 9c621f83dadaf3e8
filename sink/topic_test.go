package sink

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/record"
	"outboxd/internal/uptime"
)

// silent makes the brokers answer one question about topics for each value that answers
// takes, and all when answerAll is called.
func silent(t *testing.T, c *kfake.Cluster) (asked *atomic.Int32, answers chan<- struct{}, answerAll func()) {
	asked = new(atomic.Int32)
	next := make(chan struct{})
	answerAll = sync.OnceFunc(func() { close(next) })
	t.Cleanup(answerAll)
	c.ControlKey(int16(kmsg.DescribeConfigs), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked.Add(1)
		c.SleepControl(func() { <-next })
		return nil, nil, false
	})
	return asked, next, answerAll
}

// Nobody waits for answers about new topics: they are asked for together, and the
// events arrive in order.
func TestManyNewTopicsOfASlowBroker(t *testing.T) {
	const topics, each = 40, 5
	c := broker(t, 0, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1))
	asked, _, answerAll := silent(t, c)
	s := &sender{t: t, k: open(t, c)}
	waited := 0
	s.k.WaitWith(func(done <-chan struct{}) error {
		waited++
		<-done
		return nil
	})
	for i := range topics * each {
		s.send(fmt.Sprint("topic-", i%topics), "k", fmt.Sprint(i/topics))
	}
	answerAll()
	if waited > 0 {
		t.Errorf("small events waited %d times", waited)
	}
	s.delivered()
	if n := asked.Load(); n > 3 {
		t.Errorf("the brokers were asked %d times about %d topics", n, topics)
	}
	for i := range topics {
		if got := seen(t, c, fmt.Sprint("topic-", i)); fmt.Sprint(got) != "[0 1 2 3 4]" {
			t.Fatalf("topic %d holds %s", i, got)
		}
	}
}

// Where an event has to wait for an answer, the sending goroutine serves what else it
// has to: it is heard of all the time, and an error of that is the event's.
func TestWhatWaitsIsServed(t *testing.T) {
	t.Parallel()
	c := broker(t, 2)
	_, answers, answerAll := silent(t, c)
	served, gone := 0, errors.New("the connection is gone")
	serve := func(done <-chan struct{}) error {
		for {
			var answer chan<- struct{}
			if served >= 5 {
				answer = answers
			}
			select {
			case <-done:
				return nil
			case answer <- struct{}{}:
			case <-time.After(10 * time.Millisecond):
				served++
			}
		}
	}
	s := &sender{t: t, k: open(t, c)}
	s.k.WaitWith(serve)
	if err := s.try(testTopic, "k", noise(waitForLimit+1)); err != nil {
		t.Fatal(err)
	}
	if served < 5 {
		t.Errorf("while a large event of a new topic waits, %d statuses go out", served)
	}
	served = 0
	if err := s.try(testTopic, "k", noise(2<<20)); !errors.Is(err, ErrUndeliverable) {
		t.Errorf("a record that is too large: %v", err)
	}
	if served < 5 {
		t.Errorf("while the limit is asked for again, %d statuses go out", served)
	}
	answerAll()
	s.k.WaitWith(func(done <-chan struct{}) error { return gone })
	if err := s.try(testTopic, "k", noise(2<<20)); !errors.Is(err, gone) || errors.Is(err, ErrUndeliverable) {
		t.Errorf("while the connection is lost: %v", err)
	}
	s.delivered()
}

// A first event that is larger than what is assumed makes its topic known, as a small
// one does.
func TestLargeFirstEventOfAMissingTopic(t *testing.T) {
	c := broker(t, 0, kfake.AllowAutoTopicCreation())
	s := &sender{t: t, k: open(t, c, func(o *Options) { o.Compression = "gzip" })}
	if err := s.try("big.fresh", "k", compressible(2<<20)); err != nil {
		t.Fatal(err)
	}
	s.delivered()
	if err := s.try("big.fresh", "k", noise(maxBatchLimit)); !errors.Is(err, ErrUndeliverable) {
		t.Errorf("a record that no topic takes: %v", err)
	}
}

// A large event of a topic that stays away says what is missing, and may pass.
func TestLargeEventOfATopicThatStaysAway(t *testing.T) {
	t.Parallel()
	s := &sender{t: t, k: open(t, broker(t, 0))}
	err := s.try("gone", "k", noise(2<<20))
	says(t, err, `topic "gone" does not exist`, "create it")
	var failed *FailedError
	if errors.Is(err, ErrUndeliverable) || !errors.As(err, &failed) {
		t.Errorf("not a fault of Kafka's that may pass: %v", err)
	}
}

// compressible is a payload that codecs make much smaller.
func compressible(n int) []byte { return bytes.Repeat([]byte(`{"what": "compresses well"}`), n/27) }

// What counts is what the broker gets: a record that fits when it is compressed is
// delivered, in its place between small ones, and without anything sent twice.
func TestLargeRecordsThatFitCompressed(t *testing.T) {
	for _, codec := range []string{"gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			c := broker(t, 0)
			create(t, c, "200000")
			learned := NewLearned()
			change := func(o *Options) { o.Learned, o.Compression = learned, codec }
			s := &sender{t: t, k: open(t, c, change)}
			s.send(testTopic, "k", "first")
			large := compressible(2 << 20)
			if err := s.try(testTopic, "k", large); !errors.Is(err, errLargeRecord) {
				t.Fatalf("the first large record: %v", err)
			}
			until(t, "the event before is acknowledged", func() bool { return s.acknowledged() == 1 })
			s = &sender{t: t, k: open(t, c, change)}
			var want []string
			for i := range 60 {
				payload := fmt.Append(nil, i)
				switch {
				case i%20 == 7:
					payload = large
				case i%3 == 0: // more than one batch together
					payload = append(noise(60_000), payload...)
				}
				if err := s.try(testTopic, "k", payload); err != nil {
					t.Fatal(err)
				}
				want = append(want, string(payload))
			}
			if err := s.try(testTopic, "k", noise(300_000)); !errors.Is(err, ErrUndeliverable) {
				t.Errorf("a record that does not fit compressed: %v", err)
			}
			s.delivered()
			for i, r := range consume(t, c, 61)[1:] {
				if string(r.Value) != want[i] {
					t.Fatalf("number %d is not in its place", i)
				}
			}
		})
	}
}

// What a broker has said of a topic is not forgotten when none answers.
func TestToldLimitStays(t *testing.T) {
	c := broker(t, 0)
	create(t, c, "4000000")
	k := open(t, c)
	s := &sender{t: t, k: k}
	s.send(testTopic, "k", "0")
	s.delivered()
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.UnknownServerError, Count: -1})
	if err := k.again(k.topics[testTopic]); err != nil {
		t.Fatal(err)
	}
	if l := k.topics[testTopic].current(); l.source != told || l.bytes != 4_000_000 {
		t.Errorf("the limit is %d, source %d", l.bytes, l.source)
	}
	if err := s.try(testTopic, "k", noise(2<<20)); err != nil {
		t.Fatal(err)
	}
	s.delivered()
}

// A commit that is too old for its topic is not waited for: it gets no younger. Whether
// the topic's limits are known before the event is sent, before it is handed to the
// client, or only when the broker has refused it, the error names the limit.
func TestCommitThatIsTooOld(t *testing.T) {
	describe := []kmsg.Key{kmsg.DescribeConfigs}
	for name, first := range map[string]func(t *testing.T, c *kfake.Cluster, s *sender) error{
		"known": func(t *testing.T, c *kfake.Cluster, s *sender) error {
			if err := s.committed(time.Now()); err != nil {
				t.Fatal(err)
			}
			s.delivered()
			return s.committed(time.Now().Add(-2 * time.Minute))
		},
		"known when the event was taken": func(t *testing.T, c *kfake.Cluster, s *sender) error {
			_, _, answerAll := silent(t, c)
			s.k.Seal() // which keeps the event from the client
			if err := s.committed(time.Now().Add(-2 * time.Minute)); err != nil {
				return err
			}
			answerAll()
			until(t, "the topic is open", s.k.topics[testTopic].open.Load)
			s.k.Unseal()
			return s.failed()
		},
		"known when the event waits": func(t *testing.T, c *kfake.Cluster, s *sender) error {
			_, _, answerAll := silent(t, c)
			if err := s.committed(time.Now().Add(-2 * time.Minute)); err != nil {
				return err
			}
			answerAll()
			return s.failed()
		},
		"not known when the broker refuses it": func(t *testing.T, c *kfake.Cluster, s *sender) error {
			c.Fault(kfake.Fault{Keys: describe, Err: kerr.UnknownServerError})
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp})
			if err := s.committed(time.Now().Add(-2 * time.Minute)); err != nil {
				return err
			}
			return s.failed()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := broker(t, 1)
			configure(t, c, "message.timestamp.before.max.ms", "60000")
			learned := NewLearned()
			next := func() *sender {
				return &sender{t: t, k: transactionalSink(t, c, func(o *Options) { o.Learned = learned })}
			}
			s := next()
			err := first(t, c, s)
			if name != "known" {
				if err == nil || errors.Is(err, ErrUndeliverable) {
					t.Errorf("the sink fails with %v", err)
				}
				s = next()
				err = s.committed(time.Now().Add(-2 * time.Minute))
			}
			if !errors.Is(err, ErrUndeliverable) {
				t.Fatalf("an old commit: %v", err)
			}
			says(t, err, "committed at", "before the present", "message.timestamp.before.max.ms = 60000", "value.timestamp: now")
			if err := s.committed(time.Now()); err != nil {
				t.Fatal(err)
			}
			s.delivered()
			now := next()
			if err := now.at(record.SendTime, time.Now().Add(-2*time.Minute), time.Now()); err != nil {
				t.Fatal(err)
			}
			now.delivered()
		})
	}
}

// A broker that refuses an old time is not put down to the clocks.
func TestOldTimeThatTheBrokerRefuses(t *testing.T) {
	c := broker(t, 1)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidTimestamp, Count: -1})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	s := &sender{t: t, k: open(t, c)}
	if err := s.committed(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	err := s.failed()
	says(t, err, "1h0m0s before the present", "message.timestamp.before.max.ms", "value.timestamp: now")
	if strings.Contains(err.Error(), "clocks") || !errors.Is(err, ErrUndeliverable) {
		t.Errorf("an old commit, where the topic does not say what it takes: %v", err)
	}
}

// Of events that their topic deletes at once it is warned, once.
func TestRetentionThatIsShorterThanTheBacklog(t *testing.T) {
	c := broker(t, 1)
	configure(t, c, "retention.ms", "60000")
	var log journal
	learned := NewLearned()
	for range 2 {
		s := &sender{t: t, k: open(t, c, func(o *Options) { o.Log, o.Learned = zerolog.New(&log).Level(zerolog.InfoLevel), learned })}
		for range 200 {
			if err := s.committed(time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		s.delivered()
		s.k.Close()
	}
	if n := strings.Count(log.String(), "retention.ms"); n != 1 || !strings.Contains(log.String(), testTopic) {
		t.Errorf("warned %d times: %s", n, log.String())
	}
}

func TestNameThatCollides(t *testing.T) {
	c := broker(t, 0, kfake.SeedTopics(1, "a.b"))
	s := &sender{t: t, k: open(t, c)}
	s.send("a_b", "k", "0")
	says(t, s.k.Diagnose(limited(t)), `"a_b"`, "collides", `"a.b"`)
}

// A pause that a quota imposes is said once, and is no fault.
func TestThrottle(t *testing.T) {
	c := broker(t, 1)
	c.ControlKey(int16(kmsg.DescribeConfigs), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := r.ResponseKind().(*kmsg.DescribeConfigsResponse)
		resp.ThrottleMillis = 50
		return resp, nil, true
	})
	var log journal
	k := open(t, c, func(o *Options) { o.Log = zerolog.New(&log).Level(zerolog.InfoLevel) })
	s := &sender{t: t, k: k}
	if k.Throttled() {
		t.Error("throttled before anything was asked")
	}
	s.send(testTopic, "k", "0")
	s.delivered()
	if err := k.again(k.topics[testTopic]); err != nil {
		t.Fatal(err)
	}
	if !k.Throttled() {
		t.Error("the broker's pause is not noticed")
	}
	if n := strings.Count(log.String(), "throttled by the broker's quota"); n != 1 || !strings.Contains(log.String(), `"level":"info"`) {
		t.Errorf("said %d times: %s", n, log.String())
	}
	k.throttles.until.Store(int64(uptime.Of(time.Now().Add(-time.Second))))
	if k.Throttled() {
		t.Error("throttled for ever")
	}
}

// journal is a log that may be read while it is written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}
