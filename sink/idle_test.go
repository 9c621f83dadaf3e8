package sink

import (
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/memory"
	"outboxd/internal/record"
)

// A sink in which nothing is in flight uses no memory, and one that has ended keeps
// none, whatever ended it.
func TestIdleSinkUsesNoMemory(t *testing.T) {
	some := func(s *sender) {
		for i := range 3*slabSize + 7 {
			s.send(testTopic, key(i), fmt.Sprint(i))
		}
	}
	tests := map[string]func(s *sender, c *kfake.Cluster){
		"unused":    func(*sender, *kfake.Cluster) {},
		"delivered": func(s *sender, _ *kfake.Cluster) { some(s); s.delivered() },
		"one at a time": func(s *sender, _ *kfake.Cluster) {
			for range 2*slabSize + 1 {
				s.send(testTopic, "k", "0")
				s.delivered()
			}
		},
		"whole slabs": func(s *sender, _ *kfake.Cluster) {
			for range 2 * slabSize {
				s.send(testTopic, "k", "0")
			}
			s.delivered()
		},
		"returned": func(s *sender, _ *kfake.Cluster) {
			for range 100 {
				s.k.Next()
				s.k.Return()
			}
		},
		"not taken": func(s *sender, _ *kfake.Cluster) {
			some(s)
			for range 2 * slabSize {
				if err := s.try(testTopic, "k", noise(2<<20)); !errors.Is(err, ErrUndeliverable) {
					s.t.Fatal(err)
				}
			}
			s.delivered()
		},
		"refused": func(s *sender, c *kfake.Cluster) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: -1})
			some(s)
			s.failed()
		},
		"closed in flight": func(s *sender, c *kfake.Cluster) {
			hold(s.t, c)
			some(s)
			s.k.Close()
			s.settled()
		},
		"closed while topics are not known": func(s *sender, c *kfake.Cluster) {
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Err: kerr.UnknownTopicOrPartition, Count: -1})
			some(s)
			s.k.Close()
			s.settled()
		},
	}
	for name, test := range tests {
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, full %t", name, full), func(t *testing.T) {
				t.Parallel()
				c := broker(t, 3)
				budget := memory.New(1 << 40)
				if full { // nothing may be kept
					budget = memory.New(0)
				}
				s := &sender{t: t, k: open(t, c, func(o *Options) { o.Budget = budget })}
				test(s, c)
				until(t, "no memory is used", func() bool { return budget.Used() == 0 })
				s.k.Close()
				until(t, "no memory is kept", func() bool { return budget.Accounts() == memory.Accounts{} })
			})
		}
	}
}

// The same of transactions, and each time the transactional id is taken again.
func TestIdleTransactionsUseNoMemory(t *testing.T) {
	c := transactionBroker(t)
	budget := memory.New(1 << 40)
	for round := range 3 {
		k := transactionalSink(t, c, func(o *Options) { o.Budget = budget })
		s := &sender{t: t, k: k}
		for i := range 100 {
			s.send(testTopic, key(i), fmt.Sprint(i))
		}
		if err := commitWith(t, k, fmt.Sprint(round)); err != nil {
			t.Fatal(err)
		}
		s.delivered()
		if budget.Used() != 0 {
			t.Errorf("round %d: %s", round, budget.Accounts())
		}
		k.Seal()
		s.send(testTopic, "k", "given up")
		k.Close()
		s.settled()
		until(t, "no memory is used or kept", func() bool { return budget.Accounts() == memory.Accounts{} })
	}
}

// What a delivery is used for again carries nothing over from an event that was not
// taken.
func TestEventThatWasNotTakenLeavesNothing(t *testing.T) {
	c := broker(t, 1)
	s := &sender{t: t, k: open(t, c)}
	if err := s.try(testTopic, "k", noise(2<<20), record.Header{Key: "of", Value: []byte("another")}); !errors.Is(err, ErrUndeliverable) {
		t.Fatal(err)
	}
	d := s.k.Next()
	if d.Key != nil || len(d.Headers) != 0 || d.Receipt != nil || d.Record.Value != nil {
		t.Errorf("the next delivery is %+v", d)
	}
	s.k.Return()
	s.send(testTopic, "k", "0")
	s.delivered()
	inOrder(t, consume(t, c, 1))
}
