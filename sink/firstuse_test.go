package sink

import (
	"fmt"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A transaction whose records are acknowledged before the client has stored the
// partitions of their topic is committed, and so is the next: see partitionsStored. The
// client's partitioner, asked for another record of the topic, is what delays it here.
func TestCommitBeforeThePartitionsAreStored(t *testing.T) {
	c := transactionBroker(t)
	storing, metadata := newGate(), newGate()
	k := transactionalSink(t, c, func(o *Options) {
		o.Client = append(o.Client, kgo.WithLogger(aborts{storing.open}), kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
			return func(r *kgo.Record, _ int) int {
				if string(r.Value) == "delays" {
					<-storing.c
				}
				return 0
			}
		})))
	})
	t.Cleanup(storing.open)
	t.Cleanup(metadata.open)
	c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if len(r.(*kmsg.MetadataRequest).Topics) > 0 {
			c.SleepControl(func() { <-metadata.c })
		}
		return nil, nil, false
	})
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		storing.open() // too late for the transaction
		return nil, nil, false
	})
	s := &sender{t: t, k: k}
	s.send(testTopic, "k", "0")
	until(t, "the client has the event", func() bool { return k.client.BufferedProduceRecords() == 1 })
	k.client.Produce(limited(t), &kgo.Record{Topic: testTopic, Value: []byte("delays")}, nil)
	metadata.open()
	s.delivered()
	k.Seal()
	if err := k.Commit(limited(t), nil); err != nil {
		t.Fatal(err)
	}
	k.Unseal()
	if got := fmt.Sprint(seen(t, c, testTopic)); got != "[0]" {
		t.Errorf("committed: %s", got)
	}
	s.send(testTopic, "k", "1")
	if err := commitWith(t, k, "up to 1"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seen(t, c, testTopic)); got != "[0 1]" {
		t.Errorf("committed: %s", got)
	}
}

// gate is passed when it is open.
type gate struct {
	c    chan struct{}
	once sync.Once
}

func newGate() *gate { return &gate{c: make(chan struct{})} }

func (g *gate) open() { g.once.Do(func() { close(g.c) }) }

// aborts is told when the client has been asked to abort what is buffered.
type aborts struct{ told func() }

func (aborts) Level() kgo.LogLevel { return kgo.LogLevelInfo }

func (a aborts) Log(_ kgo.LogLevel, msg string, _ ...any) {
	if msg == "producer state set to aborting; continuing to wait via flushing" {
		a.told()
	}
}
