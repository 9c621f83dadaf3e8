package sink

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A record that Kafka refuses fails the sink for good. Which of the refusals are
// about the record itself decides whether the run ends or starts again.
func TestRefusedRecordFailsTheSink(t *testing.T) {
	forbidden := kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1}
	tests := []struct {
		name          string
		answer        *kerr.Error
		also          []kfake.Fault
		undeliverable bool
	}{
		{name: "no right to the topic", answer: kerr.TopicAuthorizationFailed},
		{name: "no right to the cluster", answer: kerr.ClusterAuthorizationFailed},
		{name: "invalid record", answer: kerr.InvalidRecord, undeliverable: true},
		{name: "invalid topic", answer: kerr.InvalidTopicException, undeliverable: true},
		// The limit has become another since it was asked for: ask again.
		{name: "too large", answer: kerr.MessageTooLarge},
		// It may not be asked for, so there is nothing to learn.
		{name: "too large, with a limit that is not told", answer: kerr.MessageTooLarge, also: []kfake.Fault{forbidden}, undeliverable: true},
		{name: "list too large, with a limit that is not told", answer: kerr.RecordListTooLarge, also: []kfake.Fault{forbidden}, undeliverable: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := broker(t, 1)
			c.Fault(test.also...)
			s := &sender{t: t, k: open(t, c)}
			s.send(testTopic, "k", "0")
			s.delivered()

			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: test.answer})
			s.send(testTopic, "k", "refused")
			err := s.failed()
			var failure *FailedError
			if !errors.As(err, &failure) || !errors.Is(err, test.answer) {
				t.Errorf("the sink fails with %v", err)
			}
			if got := errors.Is(err, ErrUndeliverable); got != test.undeliverable {
				t.Errorf("undeliverable %t, want %t: %v", got, test.undeliverable, err)
			}
			says(t, err, testTopic, "0000000000000100-00000002") // which event it was
			if n := s.sent[1].acknowledged.Load(); n != 0 {
				t.Errorf("the refused event was acknowledged %d times", n)
			}

			// The broker would take more now, but it would come after a gap.
			for i := range 20 {
				if s.try(testTopic, "k", fmt.Append(nil, i)) == nil {
					s.settled()
				}
			}
			if again := s.failed(); again != err {
				t.Errorf("the first failure was %v, now it is %v", err, again)
			}
			if n := s.acknowledged(); n != 1 {
				t.Errorf("%d events acknowledged, want the first alone", n)
			}
			if n := appended(t, c, testTopic); n != 1 {
				t.Errorf("the topic holds %d records, want the first alone", n)
			}
		})
	}
}

// Requests that were under way behind the refused one do not get past it.
func TestNothingOvertakesARefusedRecord(t *testing.T) {
	for _, before := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d records before", before), func(t *testing.T) {
			c := broker(t, 1)
			s := &sender{t: t, k: open(t, c)}
			for range before {
				s.send(testTopic, "k", "before")
			}
			s.delivered()
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.InvalidRecord})
			for i := range 300 {
				if s.try(testTopic, "k", fmt.Append(nil, i)) != nil {
					break
				}
			}
			if err := s.failed(); !errors.Is(err, kerr.InvalidRecord) {
				t.Errorf("the sink fails with %v, want the first answer", err)
			}
			if n := s.acknowledged(); n != before {
				t.Errorf("%d events acknowledged, want %d", n, before)
			}
			if n := appended(t, c, testTopic); n != int64(before) {
				t.Errorf("the topic holds %d records, want %d", n, before)
			}
		})
	}
}

// The sink hears of a refusal later than the client, here much later, since an
// acknowledgement before it takes its time. What is sent meanwhile must not be
// appended behind the gap.
func TestNothingOvertakesWhileTheRefusalIsOnItsWay(t *testing.T) {
	c := broker(t, 1)
	busy, gate := make(chan struct{}), make(chan struct{})
	begin := sync.OnceFunc(func() { close(busy) })
	k := open(t, c, func(o *Options) {
		o.OnAck = func(string, time.Time, time.Time) {
			begin()
			<-gate
		}
	})
	s := &sender{t: t, k: k}
	refused := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.InvalidRecord,
		When: func(kmsg.Request) bool { return isClosed(busy) }})
	s.send(testTopic, "k", "before")
	<-busy
	s.send(testTopic, "k", "refused")
	if err := refused.Wait(limited(t), 1); err != nil {
		t.Fatal(err)
	}
	for i := range 50 { // each asks the broker, which leaves the client time to send
		if s.try(testTopic, "k", fmt.Append(nil, i)) != nil {
			break
		}
		if n := appended(t, c, testTopic); n != 1 {
			t.Errorf("the topic holds %d records, want the first alone", n)
			break
		}
	}
	close(gate)
	if err := s.failed(); !errors.Is(err, kerr.InvalidRecord) {
		t.Errorf("the sink fails with %v, want the broker's answer", err)
	}
	if n := s.acknowledged(); n != 1 {
		t.Errorf("%d events acknowledged, want the first alone", n)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestCloseWithEventsInFlight(t *testing.T) {
	c := broker(t, 3)
	s := &sender{t: t, k: open(t, c)}
	release := hold(t, c)
	for i := range 200 {
		s.send(testTopic, key(i), fmt.Sprint(i))
	}
	s.k.Close()
	// Whatever Kafka answers from here on, nobody hears of it.
	release()
	if err := s.failed(); err == nil || errors.Is(err, ErrUndeliverable) {
		t.Errorf("a closed sink says %v", err)
	}
	if n := s.acknowledged(); n != 0 {
		t.Errorf("%d events acknowledged after Close", n)
	}
	s.k.Close() // harmless
}

func TestCloseUnused(t *testing.T) {
	k := open(t, broker(t, 1))
	k.Close()
	if k.InFlight() != 0 {
		t.Errorf("%d events in flight", k.InFlight())
	}
}
