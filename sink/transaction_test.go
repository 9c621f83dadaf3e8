package sink

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/event"
)

const positionTopic = "positions"

// transactionalSink opens a sink that has the transactional id.
func transactionalSink(t *testing.T, c *kfake.Cluster, change ...func(*Options)) *Kafka {
	t.Helper()
	k := open(t, c, append(change, func(o *Options) { o.TransactionalID = "outboxd-test" })...)
	if err := k.Fence(limited(t)); err != nil {
		t.Fatal(err)
	}
	return k
}

func commitWith(t *testing.T, k *Kafka, position string) error {
	t.Helper()
	k.Seal()
	if err := k.Flush(limited(t)); err != nil {
		return err
	}
	if err := k.Commit(limited(t), &kgo.Record{Topic: positionTopic, Key: []byte("slot"), Value: []byte(position)}); err != nil {
		return err
	}
	k.Unseal()
	return nil
}

// seen are the values that a consumer of committed records sees in testTopic.
func seen(t *testing.T, c *kfake.Cluster, topic string) (values []string) {
	t.Helper()
	client := client(t, c, kgo.ConsumeTopics(topic), kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	defer client.Close()
	for end := appended(t, c, topic); end > 0; {
		fetches := client.PollFetches(limited(t))
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset == end-1 {
				end = 0
			}
			if !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
		})
	}
	return values
}

func transactionBroker(t *testing.T) *kfake.Cluster {
	return broker(t, 1, kfake.SeedTopics(1, positionTopic))
}

// Late events of heavy traffic wait for others, and are in the transaction that they were
// sent in.
func TestLateEventsOfATransaction(t *testing.T) {
	c, delays := transactionBroker(t), new(atomic.Int64)
	s := &sender{t: t, k: transactionalSink(t, c, func(o *Options) {
		o.Backlog, o.SendDelays = 1<<20, delays
	})}
	var want []string
	traffic(&s.k.backlog, 50_000, time.Now())
	for turn := range 2 {
		for i := 0; delays.Load() == 0; i++ {
			s.k.backlog.since = time.Now() // the traffic stays as it is
			want = append(want, fmt.Sprintf("%d-%d", turn, i))
			s.send(testTopic, "k", want[len(want)-1])
			if i == 100_000 {
				t.Fatal("nothing waits")
			}
		}
		if late := s.k.Lateness(); late < time.Hour {
			t.Errorf("late by %s", late)
		}
		delays.Store(0)
		for i := range 10 { // which still wait
			s.k.backlog.since = time.Now()
			want = append(want, fmt.Sprintf("%d-last-%d", turn, i))
			s.send(testTopic, "k", want[len(want)-1])
		}
		if err := commitWith(t, s.k, fmt.Sprint(turn)); err != nil {
			t.Fatal(err)
		}
		if got := seen(t, c, testTopic); !slices.Equal(got, want) {
			t.Errorf("%d events are committed, %d were sent", len(got), len(want))
		}
	}
}

// Events and position become visible together, in the order in which they were
// sent; what is sent while a transaction is closed comes with the next.
func TestTransactions(t *testing.T) {
	c := transactionBroker(t)
	acked := 0
	s := &sender{t: t, k: transactionalSink(t, c, func(o *Options) {
		o.OnAck = func(string, time.Time, time.Time) { acked++ }
	})}
	s.send(testTopic, "k", "0")
	s.send(testTopic, "k", "1")
	select {
	case <-s.k.Begun():
	default:
		t.Error("nobody was told of the transaction")
	}
	if age, n := s.k.Age(); n != 2 || age <= 0 {
		t.Errorf("%d events for %s", n, age)
	}
	s.k.Seal()
	s.send(testTopic, "k", "2")
	if err := s.k.Flush(limited(t)); err != nil {
		t.Fatal(err)
	}
	if n := s.acknowledged(); n != 2 || acked != 0 {
		t.Errorf("%d events acknowledged, %d counted before the commit", n, acked)
	}
	if got := s.k.Newest().String(); got != "0000000000000100-00000002" {
		t.Errorf("the newest event of the transaction is %s", got)
	}
	if err := s.k.Commit(limited(t), &kgo.Record{Topic: positionTopic, Value: []byte("up to 1")}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seen(t, c, testTopic), seen(t, c, positionTopic)); got != "[0 1] [up to 1]" {
		t.Errorf("committed: %s", got)
	}
	s.k.Unseal()
	if err := commitWith(t, s.k, "up to 2"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seen(t, c, testTopic), seen(t, c, positionTopic)); got != "[0 1 2] [up to 1 up to 2]" {
		t.Errorf("committed: %s", got)
	}
	s.delivered()
	if acked != 3 {
		t.Errorf("%d events counted, want 3", acked)
	}
}

// Another producer with the same id fences the sink: what it has not committed is
// aborted, it fails, and says why.
func TestFenced(t *testing.T) {
	for _, when := range []string{"before the first record", "inside the transaction", "before the commit"} {
		t.Run(when, func(t *testing.T) {
			c := transactionBroker(t)
			s := &sender{t: t, k: transactionalSink(t, c)}
			s.send(testTopic, "k", "committed")
			if err := commitWith(t, s.k, "1"); err != nil {
				t.Fatal(err)
			}
			if when != "before the first record" {
				s.send(testTopic, "k", "aborted")
				s.settled()
			}
			if when == "before the commit" {
				s.k.Seal()
				if err := s.k.Flush(limited(t)); err != nil {
					t.Fatal(err)
				}
			}
			newer := &sender{t: t, k: transactionalSink(t, c)}
			if when != "before the commit" {
				_ = s.try(testTopic, "k", []byte("too late"))
			}
			if err := commitWith(t, s.k, "2"); !errors.Is(err, ErrFenced) {
				t.Errorf("committed: %v", err)
			}
			if err := s.failed(); !errors.Is(err, ErrFenced) {
				t.Errorf("failed with %v", err)
			}
			newer.send(testTopic, "k", "newer")
			if err := commitWith(t, newer.k, "3"); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(seen(t, c, testTopic), seen(t, c, positionTopic)); got != "[committed newer] [1 3]" {
				t.Errorf("committed: %s", got)
			}
		})
	}
}

// A commit without an answer fails the sink, whatever has become of it.
func TestCommitWithoutAnswer(t *testing.T) {
	c := transactionBroker(t)
	s := &sender{t: t, k: transactionalSink(t, c)}
	s.send(testTopic, "k", "0")
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, Err: kerr.UnknownServerError, Count: -1})
	if err := commitWith(t, s.k, "1"); err == nil || errors.Is(err, ErrFenced) {
		t.Errorf("committed: %v", err)
	}
	if s.k.Err() == nil {
		t.Error("the sink goes on")
	}
}

// A record that is refused is never committed around.
func TestRefusedRecordIsNotCommittedAround(t *testing.T) {
	c := transactionBroker(t)
	s := &sender{t: t, k: transactionalSink(t, c)}
	s.send(testTopic, "k", "0")
	s.settled()
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.InvalidRecord})
	s.send(testTopic, "k", "refused")
	if err := commitWith(t, s.k, "1"); !errors.Is(err, ErrUndeliverable) {
		t.Errorf("committed: %v", err)
	}
	var failed *FailedError
	if err := s.failed(); !errors.As(err, &failed) || failed.Position.String() != "0000000000000100-00000002" {
		t.Errorf("failed with %v", err)
	}
	transactionalSink(t, c) // aborts
	if got := fmt.Sprint(seen(t, c, testTopic), seen(t, c, positionTopic)); got != "[] []" {
		t.Errorf("committed: %s", got)
	}
}

// Where records go one by one, only some wait: a transaction with all that was read would
// take longer than its time-out, again and again. What waits is let go when the sink fails.
func TestFewWaitOneByOne(t *testing.T) {
	for _, fails := range []bool{false, true} {
		c := transactionBroker(t)
		learned := NewLearned()
		learned.change(testTopic, func(l *lesson) {
			for n := range uint32(3 * mostWaiting) {
				l.suspects.add(event.Position{CommitLSN: 0x100, Number: n + 1})
			}
		})
		k := transactionalSink(t, c, func(o *Options) { o.Learned = learned })
		answer := newGate()
		t.Cleanup(answer.open)
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.SleepControl(func() { <-answer.c })
			return nil, nil, false
		})
		s := &sender{t: t, k: k}
		const events = 3 * mostWaiting
		var sent atomic.Int32
		done := make(chan error, 1)
		go func() {
			for n := range events {
				if err := s.try(testTopic, "k", []byte("{}")); err != nil {
					done <- err
					return
				}
				sent.Store(int32(n + 1))
			}
			done <- nil
		}()
		until(t, "records wait", func() bool { return sent.Load() > mostWaiting })
		if !k.OneByOne() {
			t.Error("the sink does not know that records go one by one")
		}
		time.Sleep(20 * time.Millisecond) // no more are taken
		if n := sent.Load(); n != mostWaiting+1 {
			t.Errorf("%d records are taken, want one with the client and %d that wait", n, mostWaiting)
		}
		if fails {
			k.Fail(errors.New("over"))
			<-done
			continue
		}
		answer.open()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.delivered()
		if err := commitWith(t, k, "up to the last"); err != nil {
			t.Fatal(err)
		}
	}
}

// What is sent after a commit waits until the coordinator has completed it: sooner, the
// brokers would keep it back for longer than that takes.
func TestCommitIsComplete(t *testing.T) {
	c := transactionBroker(t)
	s := &sender{t: t, k: transactionalSink(t, c)}
	s.send(testTopic, "k", "0")
	var asked, early atomic.Int32
	const incomplete = 3 // so many answers say that it is not
	c.ControlKey(int16(kmsg.DescribeTransactions), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if asked.Add(1) > incomplete {
			return nil, nil, false
		}
		answer := r.ResponseKind().(*kmsg.DescribeTransactionsResponse)
		state := kmsg.NewDescribeTransactionsResponseTransactionState()
		state.TransactionalID, state.State = "outboxd-test", "PrepareCommit"
		answer.TransactionStates = append(answer.TransactionStates, state)
		return answer, nil, true
	})
	s.settled()
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if asked.Load() <= incomplete {
				early.Add(1)
			}
			return nil, nil, false
		})
		return nil, nil, false
	})
	s.k.Seal()
	s.send(testTopic, "k", "1")
	if err := commitWith(t, s.k, "0"); err != nil {
		t.Fatal(err)
	}
	if err := commitWith(t, s.k, "1"); err != nil {
		t.Fatal(err)
	}
	s.delivered()
	if early.Load() != 0 {
		t.Error("the next transaction began before the coordinator could take it")
	}
}

// A coordinator that is far away is not asked: what is sent to it takes longer than it does.
func TestFarCoordinatorIsNotAsked(t *testing.T) {
	c := transactionBroker(t)
	asked := watched(c, kmsg.DescribeTransactions)
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { time.Sleep(farAway) })
		return nil, nil, false
	})
	s := &sender{t: t, k: transactionalSink(t, c)}
	for _, value := range []string{"0", "1"} {
		s.send(testTopic, "k", value)
		if err := commitWith(t, s.k, value); err != nil {
			t.Fatal(err)
		}
	}
	s.delivered()
	if n := asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

// A coordinator that cannot be asked is not waited for, nor one that does not complete
// the transaction.
func TestCommitIsNotKnownToBeComplete(t *testing.T) {
	for name, answer := range map[string]func(*kmsg.DescribeTransactionsResponse){
		"no answer": func(r *kmsg.DescribeTransactionsResponse) {},
		"no right": func(r *kmsg.DescribeTransactionsResponse) {
			state := kmsg.NewDescribeTransactionsResponseTransactionState()
			state.TransactionalID, state.ErrorCode = "outboxd-test", kerr.TransactionalIDAuthorizationFailed.Code
			r.TransactionStates = append(r.TransactionStates, state)
		},
		"a partition without a leader": func(r *kmsg.DescribeTransactionsResponse) {
			state := kmsg.NewDescribeTransactionsResponseTransactionState()
			state.TransactionalID, state.State = "outboxd-test", "PrepareCommit"
			r.TransactionStates = append(r.TransactionStates, state)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := transactionBroker(t)
			s := &sender{t: t, k: transactionalSink(t, c)}
			c.ControlKey(int16(kmsg.DescribeTransactions), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				filled := r.ResponseKind().(*kmsg.DescribeTransactionsResponse)
				answer(filled)
				return filled, nil, true
			})
			for _, value := range []string{"0", "1"} {
				s.send(testTopic, "k", value)
				if err := commitWith(t, s.k, value); err != nil {
					t.Fatal(err)
				}
			}
			s.delivered()
			if got := fmt.Sprint(seen(t, c, testTopic)); got != "[0 1]" {
				t.Errorf("committed: %s", got)
			}
		})
	}
}
