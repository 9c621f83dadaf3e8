package positions

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/offsets"
)

const testTopic = "outboxd.positions"

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func broker(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, c *kfake.Cluster, slot string) *Store {
	t.Helper()
	s, err := New(Options{Topic: testTopic, Slot: slot, Log: zerolog.Nop(), Client: []kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.MetadataMinAge(10 * time.Millisecond),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func position(lsn pglogrepl.LSN, slot string) offsets.Position {
	return offsets.Position{SystemID: "7301", Timeline: 1, Slot: slot, LSN: 0x100 + lsn}
}

func save(t *testing.T, s *Store, p offsets.Position) {
	t.Helper()
	if err := s.Save(limited(t), p); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, s *Store, want *offsets.Position) {
	t.Helper()
	got, err := s.Load(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	if (got == nil) != (want == nil) || got != nil && *got != *want {
		t.Errorf("loaded %v, want %v", got, want)
	}
}

// producer writes to the topic as others do.
func producer(t *testing.T, c *kfake.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(c.ListenAddrs()...), kgo.MetadataMinAge(10*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestStore(t *testing.T) {
	c := broker(t)
	s, other := open(t, c, "outboxd"), open(t, c, "other")
	expect(t, s, nil)
	a, b := position(1, "outboxd"), position(2, "outboxd")
	b.Inside = offsets.Event{CommitLSN: 0x200, Number: 3}
	save(t, s, a)
	save(t, s, b)
	expect(t, other, nil)
	save(t, other, position(3, "other"))
	expect(t, s, &b)
	expect(t, open(t, c, "outboxd"), &b)

	topics, err := kadm.NewClient(s.client).ListTopics(limited(t), testTopic)
	if err != nil || len(topics[testTopic].Partitions) != 1 {
		t.Errorf("the topic was made with %d partitions, %v", len(topics[testTopic].Partitions), err)
	}
	configs, err := kadm.NewClient(s.client).DescribeTopicConfigs(limited(t), testTopic)
	if err != nil {
		t.Fatal(err)
	}
	policy := ""
	for _, config := range configs[0].Configs {
		if config.Key == "cleanup.policy" {
			policy = config.MaybeValue()
		}
	}
	if policy != "compact" {
		t.Errorf("cleanup.policy is %q", policy)
	}

	// The claims' records deleted are the way to forget.
	for _, key := range []string{"outboxd", s.key()} {
		if err := producer(t, c).ProduceSync(limited(t), &kgo.Record{Topic: testTopic, Key: []byte(key)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, s, nil)
}

// Aborted positions and the markers of transactions at the end are passed over; a
// transaction that is still open is waited for, and what others have committed
// behind its beginning is found.
func TestLoadSeesWhatIsCommitted(t *testing.T) {
	c := broker(t)
	s := open(t, c, "outboxd")
	want := position(1, "outboxd")
	save(t, s, want)
	id := func(id string) *kgo.Client { return producer(t, c, kgo.TransactionalID(id)) }
	in := func(client *kgo.Client, r *kgo.Record) {
		t.Helper()
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(limited(t), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	end := func(client *kgo.Client, how kgo.TransactionEndTry) {
		t.Helper()
		// EndTransaction may not see a topic that is new to the client: see partitionsStored
		// in package sink.
		if err := client.AbortBufferedRecords(limited(t)); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(limited(t), how); err != nil {
			t.Fatal(err)
		}
	}
	mine, theirs := id("mine"), id("theirs")
	for range 3 {
		in(mine, s.Record(position(9, "outboxd")))
		end(mine, kgo.TryAbort)
	}
	expect(t, s, &want)

	want = position(2, "outboxd")
	in(theirs, s.Record(position(5, "other")))
	in(mine, s.Record(want))
	end(mine, kgo.TryCommit)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, owner, err := s.LoadOwned(limited(t))
		if err != nil || p == nil || *p != want || owner != s.Owner() {
			t.Errorf("loaded %v of %q, %v; want %v", p, owner, err, want)
		}
	}()
	select {
	case <-done:
		t.Error("did not wait for the open transaction")
	case <-time.After(300 * time.Millisecond):
	}
	end(theirs, kgo.TryAbort)
	<-done
}

// What cannot be understood is an error that says where it is.
func TestLoadRefusesForeignRecords(t *testing.T) {
	for name, value := range map[string]string{
		"text": "hello", "empty": "", "other JSON": `{"offset": 12}`,
		"no timeline": `{"system_id":"7301","slot":"outboxd","lsn":"1/507C6008"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := broker(t)
			s := open(t, c, "outboxd")
			legacy(t, c, position(1, "outboxd"))
			foreign := &kgo.Record{Topic: testTopic, Key: []byte("outboxd"), Value: []byte(value)}
			if err := producer(t, c).ProduceSync(limited(t), foreign).FirstErr(); err != nil {
				t.Fatal(err)
			}
			p, err := s.Load(limited(t))
			if !errors.Is(err, offsets.ErrUnusable) || p != nil {
				t.Fatalf("loaded %v, %v", p, err)
			}
			for _, part := range []string{testTopic, "partition 0", "offset 1", `"outboxd"`} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

func TestTopicThatDoesNotFit(t *testing.T) {
	tests := []struct {
		name       string
		partitions int32
		policy     string
		says       []string
	}{
		{"several partitions", 3, "compact", []string{"3 partitions", "name another topic"}},
		{"not compacted", 1, "delete", []string{"cleanup.policy=delete", "kafka-configs.sh"}},
		{"compacted and deleted", 1, "compact,delete", []string{"cleanup.policy=compact,delete"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := broker(t)
			config := map[string]*string{"cleanup.policy": &test.policy}
			if _, err := kadm.NewClient(producer(t, c)).CreateTopic(limited(t), test.partitions, 1, config, testTopic); err != nil {
				t.Fatal(err)
			}
			s := open(t, c, "outboxd")
			_, err := s.Load(limited(t))
			if saved := s.Save(limited(t), position(1, "outboxd")); !errors.Is(saved, offsets.ErrUnusable) {
				t.Errorf("saved: %v", saved)
			}
			if !errors.Is(err, offsets.ErrUnusable) {
				t.Fatalf("loaded: %v", err)
			}
			for _, part := range append(test.says, testTopic, "delivery.topic") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

// No answer is not "no position", and another attempt may help.
func TestLoadWithoutAnAnswer(t *testing.T) {
	c := broker(t)
	s := open(t, c, "outboxd")
	save(t, s, position(1, "outboxd"))
	for _, key := range []kmsg.Key{kmsg.ListOffsets, kmsg.Fetch} {
		faults := c.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: kerr.NotLeaderForPartition, Count: -1})
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		p, err := s.Load(ctx)
		cancel()
		faults.Remove()
		if err == nil || errors.Is(err, offsets.ErrUnusable) {
			t.Errorf("%v: loaded %v, %v", key, p, err)
		}
	}
	want := position(1, "outboxd")
	expect(t, s, &want)
}
