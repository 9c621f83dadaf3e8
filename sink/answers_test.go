package sink

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answered starts to wait for a sink's answers. The channel is closed when it has them.
func answered(ctx context.Context, k *Kafka) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.AwaitAnswers(ctx)
	}()
	return done
}

// waits fails the test if there is an end that should not be there yet.
func waits(t testing.TB, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
		t.Fatal("the sink does not wait for the brokers' answers")
	case <-time.After(50 * time.Millisecond):
	}
}

func ends(t testing.TB, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the wait for the brokers' answers does not end")
	}
}

// A sink that is replaced has the answers to all that it has sent, although it has failed,
// and sends nothing after it has begun to wait.
func TestAnswersAreAwaited(t *testing.T) {
	c := broker(t, 1, kfake.NumBrokers(2), kfake.SeedTopics(1, "other"))
	for topic, node := range map[string]int32{testTopic: 0, "other": 1} {
		if err := c.MoveTopicPartition(topic, 0, node); err != nil {
			t.Fatal(err)
		}
	}
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	s.send("other", "k", "0")
	s.delivered()

	gate := make(chan struct{})
	var slow, others atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if topic := r.(*kmsg.ProduceRequest).Topics[0]; topic.Topic != "other" && topic.TopicID != c.TopicInfo("other").TopicID {
			slow.Add(1)
			c.SleepControl(func() { <-gate })
		} else {
			others.Add(1)
		}
		return nil, nil, false
	})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "other", Err: kerr.InvalidRecord})
	s.send(testTopic, "k", "1")
	until(t, "the slow broker has the event", func() bool { return slow.Load() == 1 })
	s.send("other", "k", "refused")
	<-s.k.Failed()
	done := answered(context.Background(), s.k)
	waits(t, done)
	had := slow.Load() + others.Load()
	_ = s.try("other", "k", []byte("late"))
	close(gate)
	ends(t, done)
	if n := appended(t, c, testTopic); n != 2 {
		t.Errorf("the wait has ended and the topic holds %d records, want what was sent before, 2", n)
	}
	s.k.Close()
	if n := slow.Load() + others.Load(); n != had {
		t.Errorf("%d requests were sent after the wait had begun", n-had)
	}
	s.settled()
}

// What is with the client and not with a broker is not sent while the answers are awaited,
// whether the sink has failed or not.
func TestNothingIsSentWhileAnswersAreAwaited(t *testing.T) {
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c)}
	s.send(testTopic, "k", "0")
	s.delivered()
	done := answered(context.Background(), s.k)
	ends(t, done) // there is none
	var got atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		got.Add(1)
		return nil, nil, false
	})
	s.send(testTopic, "k", "1")
	time.Sleep(50 * time.Millisecond)
	s.k.Close()
	if got.Load() != 0 || appended(t, c, testTopic) != 1 {
		t.Errorf("%d requests were sent by a sink that is about to be replaced", got.Load())
	}
	s.settled()
}

// The wait ends with its context, and with the connection.
func TestAnswersThatDoNotCome(t *testing.T) {
	for _, broken := range []bool{false, true} {
		l := &flaky{}
		c := broker(t, 1, l.listen())
		s := &sender{t: t, k: open(t, c)}
		release := hold(t, c)
		s.send(testTopic, "k", "0")
		until(t, "the event is sent", func() bool {
			s.k.answers.mu.Lock()
			defer s.k.answers.mu.Unlock()
			return s.k.answers.due == 1
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := answered(ctx, s.k)
		waits(t, done)
		if broken {
			l.shutDown()
		} else {
			cancel()
		}
		ends(t, done)
		s.k.Close()
		s.settled()
		release()
		cancel()
	}
}
