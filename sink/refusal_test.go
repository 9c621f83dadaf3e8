package sink

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A batch is refused as a whole. The next sinks find the one record that is meant:
// what comes before it arrives, in order, and nothing behind it.
func TestTheRefusedRecordIsFound(t *testing.T) {
	for _, transactional := range []bool{false, true} {
		t.Run(fmt.Sprintf("transactional %t", transactional), func(t *testing.T) {
			const events, culprit = 200, 120
			c := transactionBroker(t)
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				req := r.(*kmsg.ProduceRequest)
				if !strings.Contains(string(fmt.Append(nil, batchBytes(req))), "refuse me") {
					return nil, nil, false
				}
				return refuse(req, kerr.InvalidRecord), nil, true
			})
			learned := NewLearned()
			from := 0
			for round := range 3 {
				k := open(t, c, func(o *Options) {
					o.Learned = learned
					if transactional {
						o.TransactionalID = "outboxd-test"
					}
				})
				if transactional {
					if err := k.Fence(limited(t)); err != nil {
						t.Fatal(err)
					}
				}
				s := &sender{t: t, k: k, before: from}
				for i := from; i < events; i++ {
					payload := fmt.Append(nil, i)
					if i == culprit {
						payload = []byte("refuse me")
					}
					if s.try(testTopic, "k", payload) != nil {
						break
					}
				}
				err := s.failed()
				if !errors.Is(err, ErrUndeliverable) {
					if round == 2 {
						t.Fatalf("not found: %v", err)
					}
					says(t, err, "one by one")
					from += s.acknowledged() * map[bool]int{false: 1, true: 0}[transactional]
					continue
				}
				var failed *FailedError
				if errors.As(err, &failed); int(failed.Position.Number) != culprit+1 {
					t.Errorf("the refused record is number %d, want %d: %v", failed.Position.Number, culprit+1, err)
				}
				if n := s.acknowledged(); n != culprit-from {
					t.Errorf("%d of %d before it are acknowledged", n, culprit-from)
				}
				break
			}
			if !transactional {
				inOrder(t, consume(t, c, culprit))
			}
		})
	}
}

// Only the records of a batch that was refused are sent one by one, wherever it lies: one
// that a backfill comes to late, with other positions than the last time, is found as
// well, and what comes before and after goes in batches.
func TestOnlySuspectsGoAlone(t *testing.T) {
	for name, lsn := range map[string][]pglogrepl.LSN{"stream": {0x100, 0x100, 0x100}, "backfill": {0xFF, 0x1FF, 0x2FF}} {
		t.Run(name, func(t *testing.T) {
			const events, culprit = 30_000, 25_000
			c := broker(t, 1)
			var requests atomic.Int32
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				requests.Add(1)
				req := r.(*kmsg.ProduceRequest)
				if !strings.Contains(batchBytes(req), "refuse me") {
					return nil, nil, false
				}
				return refuse(req, kerr.InvalidRecord), nil, true
			})
			learned := NewLearned()
			var suspected int
			for round, at := range lsn {
				k := open(t, c, func(o *Options) { o.Learned, o.Compression = learned, "none" })
				requests.Store(0)
				s := &sender{t: t, k: k, lsn: at}
				for i := range events {
					payload := "{}"
					if i == culprit && round < 2 {
						payload = "refuse me"
					}
					if s.try(testTopic, "k", []byte(payload)) != nil {
						break
					}
				}
				switch round {
				case 0:
					says(t, s.failed(), "one by one")
					k.Close()
					if suspected = len(learned.of(testTopic).suspects.at); suspected < 2 {
						t.Fatalf("%d records are suspects", suspected)
					}
				case 1:
					var failed *FailedError
					if err := s.failed(); !errors.As(err, &failed) || !errors.Is(err, ErrUndeliverable) || failed.Position.Number != culprit+1 {
						t.Fatalf("not found: %v", err)
					}
					k.Close()
				case 2:
					s.settled()
					s.delivered()
					if k.OneByOne() {
						t.Error("records go one by one for ever")
					}
				}
				if n := int(requests.Load()); round > 0 && n > suspected+events/10 {
					t.Errorf("round %d: %d requests for %d events, of which %d were suspects", round, n, len(s.sent), suspected)
				}
			}
		})
	}
}

func batchBytes(r *kmsg.ProduceRequest) (all string) {
	for _, topic := range r.Topics {
		for _, p := range topic.Partitions {
			all += string(p.Records)
		}
	}
	return all
}

// refuse answers each partition of a produce request with an error.
func refuse(r *kmsg.ProduceRequest, err *kerr.Error) *kmsg.ProduceResponse {
	resp := r.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range r.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, err.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// Where the limit is not told and is lower than Kafka's default, batches become
// smaller until they fit, and a record that is too large is found.
func TestLowLimitThatIsNotTold(t *testing.T) {
	c := broker(t, 0)
	create(t, c, "100000")
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	learned := NewLearned()
	for round := range 12 {
		s := &sender{t: t, k: open(t, c, func(o *Options) { o.Learned, o.Linger = learned, 20*time.Millisecond })}
		for range 40 {
			if s.try(testTopic, "k", noise(30_000)) != nil {
				break
			}
		}
		_ = s.try(testTopic, "k", noise(120_000))
		err := s.failed()
		if !errors.Is(err, ErrUndeliverable) {
			continue
		}
		var failed *FailedError
		if errors.As(err, &failed); failed.Position.Number != 41 {
			t.Errorf("the record that is too large is number %d: %v", failed.Position.Number, err)
		}
		if n := s.acknowledged(); n != 40 {
			t.Errorf("%d of 40 before it are acknowledged", n)
		}
		if round < 2 {
			t.Errorf("found in round %d, without smaller batches", round)
		}
		return
	}
	t.Error("not found")
}

// A topic that is deleted and recreated under load fails the sink; the next one
// delivers to the new one, in order.
func TestTopicIsRecreated(t *testing.T) {
	for _, transactional := range []bool{false, true} {
		t.Run(fmt.Sprintf("transactional %t", transactional), func(t *testing.T) {
			c := transactionBroker(t)
			next := func() *sender {
				if transactional {
					return &sender{t: t, k: transactionalSink(t, c)}
				}
				return &sender{t: t, k: open(t, c)}
			}
			s := next()
			s.send(testTopic, "k", "0")
			s.settled()
			if transactional {
				if err := commitWith(t, s.k, "1"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := admin(t, c).DeleteTopic(limited(t), testTopic); err != nil {
				t.Fatal(err)
			}
			if _, err := admin(t, c).CreateTopic(limited(t), 1, 1, nil, testTopic); err != nil {
				t.Fatal(err)
			}
			until(t, "the sink fails", func() bool {
				_ = s.try(testTopic, "k", []byte("lost"))
				time.Sleep(5 * time.Millisecond)
				return s.k.Err() != nil
			})
			err := s.failed()
			if errors.Is(err, ErrUndeliverable) || errors.Is(err, ErrFenced) {
				t.Errorf("the sink fails with %v", err)
			}
			says(t, err, "deleted and recreated")
			s.k.Close()
			s = next()
			for i := range 20 {
				s.send(testTopic, "k", fmt.Sprint(i))
			}
			if transactional {
				if err := commitWith(t, s.k, "2"); err != nil {
					t.Fatal(err)
				}
			}
			s.delivered()
			if got := seen(t, c, testTopic); len(got) != 20 || got[0] != "0" || got[19] != "19" {
				t.Errorf("the new topic holds %s", got)
			}
		})
	}
}

// A producer that the brokers have forgotten is not taken for one that was fenced.
func TestForgottenProducer(t *testing.T) {
	for _, test := range []struct {
		answer *kerr.Error
		want   error
	}{
		{kerr.InvalidProducerIDMapping, ErrForgotten}, {kerr.UnknownProducerID, ErrForgotten},
		{kerr.InvalidProducerEpoch, ErrFenced},
	} {
		c := transactionBroker(t)
		s := &sender{t: t, k: transactionalSink(t, c)}
		s.send(testTopic, "k", "0")
		if err := commitWith(t, s.k, "1"); err != nil {
			t.Fatal(err)
		}
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: test.answer, Count: 1})
		s.send(testTopic, "k", "1")
		err := s.failed()
		for _, other := range []error{ErrForgotten, ErrFenced, ErrExpired, ErrUndeliverable} {
			if errors.Is(err, other) != (other == test.want) {
				t.Errorf("%s: %v", test.answer.Message, err)
			}
		}
		s = &sender{t: t, k: transactionalSink(t, c)}
		s.send(testTopic, "k", "1")
		if err := commitWith(t, s.k, "2"); err != nil {
			t.Errorf("the next sink: %v", err)
		}
	}
}
