package deadletter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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

	"outboxd/decoder"
	"outboxd/internal/poison"
)

const testTopic = "outbox.dead-letter"

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func cluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func open(t testing.TB, c *kfake.Cluster) *Topic {
	t.Helper()
	topic, err := Open(TopicOptions{Topic: testTopic, Slot: "outboxd", Log: zerolog.Nop(), Client: []kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.MetadataMinAge(10 * time.Millisecond),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(topic.Close)
	return topic
}

// letter is the n-th of a test.
func letter(n int) *Letter {
	id, typ, aggregate := fmt.Sprint(n), fmt.Sprint("type", n%3), fmt.Sprint("k", n%5)
	return &Letter{
		Kind: []poison.Kind{poison.NullKey, poison.TooLarge}[n%2], Reason: "why", Topic: fmt.Sprint("topic", n%4), Time: setAside.Add(time.Duration(n) * time.Minute),
		Position: decoder.Position{CommitLSN: pglogrepl.LSN(0x1000 + n/10), Number: uint32(n%10 + 1)}, Key: []byte(aggregate),
		Event:  Event{Slot: "outboxd", CommittedAt: committed, ID: &id, Type: &typ, AggregateID: &aggregate, Columns: []Column{{Name: "id", Type: "int8"}}},
		Values: [][]byte{[]byte(id)},
	}
}

func write(t testing.TB, topic *Topic, records ...*kgo.Record) {
	t.Helper()
	for _, r := range records {
		r.Topic = testTopic
	}
	if err := topic.client.ProduceSync(limited(t), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// ids are what a selection finds, as the letters' ids with what became of them.
func ids(t testing.TB, topic *Topic, s Selection) (found []string, sum Summary) {
	t.Helper()
	sum, err := topic.Each(limited(t), s, nil, func(f Found) error {
		found = append(found, string(f.Values[0])+f.Resolved)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, sum
}

// list is ids as one text.
func list(t testing.TB, topic *Topic, s Selection) string {
	found, _ := ids(t, topic, s)
	return strings.Join(found, " ")
}

// Letters are found by what the operator asks for, each event once, in their order, and
// no longer when they are resolved; others' records are passed over and counted.
func TestEach(t *testing.T) {
	t.Parallel()
	topic := open(t, cluster(t))
	if got, sum := ids(t, topic, Selection{}); got != nil || sum != (Summary{}) {
		t.Errorf("without a topic: %v, %+v", got, sum)
	}
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	for n := range 12 {
		write(t, topic, letter(n).Encode(form))
	}
	other := letter(50)
	other.Event.Slot = "another"
	write(t, topic, other.Encode(form), &kgo.Record{Value: []byte("{}")}, &kgo.Record{Headers: []kgo.RecordHeader{{Key: "error.position", Value: []byte("x")}}})
	write(t, topic, letter(3).Encode(form)) // once more, after a crash
	if got, sum := ids(t, topic, Selection{}); strings.Join(got, " ") != "0 1 2 4 5 6 7 8 9 10 11 3" || sum != (Summary{12, 1, 2}) {
		t.Errorf("%v, %+v", got, sum)
	}
	for name, test := range map[string]struct {
		s    Selection
		want string
	}{
		"kind":      {Selection{Kinds: []string{"too_large"}}, "1 5 7 9 11 3"},
		"kinds":     {Selection{Kinds: []string{"too_large", "null_key"}, IDs: []string{"4", "5"}}, "4 5"},
		"topic":     {Selection{Topics: []string{"topic1"}}, "1 5 9"},
		"type":      {Selection{Types: []string{"type2"}}, "2 5 8 11"},
		"aggregate": {Selection{AggregateIDs: []string{"k4"}}, "4 9"},
		"both":      {Selection{AggregateIDs: []string{"k4"}, Types: []string{"type1"}}, "4"},
		"time":      {Selection{Since: setAside.Add(4 * time.Minute), Until: setAside.Add(6 * time.Minute)}, "4 5"},
		"position":  {Selection{Positions: []decoder.Position{letter(7).Position}}, "7"},
		"nothing":   {Selection{IDs: []string{"99"}}, ""},
	} {
		if got := list(t, topic, test.s); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
	find := func(n int) *Letter {
		var found *Letter
		if _, err := topic.Each(limited(t), Selection{Positions: []decoder.Position{letter(n).Position}}, nil, func(f Found) error { found = f.Letter; return nil }); err != nil || found == nil {
			t.Fatalf("letter %d: %v", n, err)
		}
		return found
	}
	for n, what := range map[int]string{3: Retried, 5: Discarded} {
		if err := topic.Resolve(limited(t), find(n), what); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, topic, Selection{}); got != "0 1 2 4 6 7 8 9 10 11" {
		t.Errorf("after two are resolved: %s", got)
	}
	if got := list(t, topic, Selection{Resolved: true}); got != "0 1 2 4 5discarded 6 7 8 9 10 11 3retried" {
		t.Errorf("with those that are resolved: %s", got)
	}
	// Set aside once more since, such as by a start from an older position.
	write(t, topic, letter(5).Encode(form))
	if got := list(t, topic, Selection{IDs: []string{"3", "5"}}); got != "5" {
		t.Errorf("set aside once more: %s", got)
	}
	stop := errors.New("stop")
	if _, err := topic.Each(limited(t), Selection{}, nil, func(Found) error { return stop }); err != stop {
		t.Errorf("the caller's error comes back as %v", err)
	}
	done, of := int64(0), int64(0)
	if _, err := topic.Each(limited(t), Selection{}, func(d, o int64) { done, of = d, o }, func(Found) error { return nil }); err != nil || done != of || of != 19 {
		t.Errorf("progress %d of %d, %v", done, of, err)
	}
}

// In a topic of many partitions, letters without a key are resolved wherever they lie.
func TestManyPartitions(t *testing.T) {
	t.Parallel()
	topic := open(t, cluster(t, kfake.SeedTopics(3, testTopic)))
	for n := range 30 {
		l := letter(n)
		l.Key = nil
		r := l.Encode(form)
		r.Partition = int32(n % 3)
		write(t, topic, r)
	}
	err := errors.New("nothing was found")
	if _, readErr := topic.Each(limited(t), Selection{Kinds: []string{"null_key"}}, nil, func(f Found) error {
		err = topic.Resolve(limited(t), f.Letter, Retried)
		return err
	}); readErr != nil || err != nil {
		t.Fatal(readErr, err)
	}
	got, _ := ids(t, topic, Selection{})
	slices.Sort(got)
	if want := 15; len(got) != want || slices.Contains(got, "4") {
		t.Errorf("%d letters are left, want %d: %v", len(got), want, got)
	}
}

// What a transaction has written counts when it is committed, and what it has aborted
// never; the markers at the end hold up nobody.
func TestTransactions(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	topic := open(t, c)
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("outboxd"), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for n, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort} {
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := producer.ProduceSync(limited(t), letter(n).Encode(form)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := producer.EndTransaction(limited(t), end); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, topic, Selection{}); got != "0 2" {
		t.Errorf("%s, want those that are committed", got)
	}
}

// The topic is made so that nothing in it is lost, and one that would lose dead letters,
// or that may not be written to, is refused before there are any.
func TestPrepare(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	topic := open(t, c)
	for range 2 {
		if err := topic.Prepare(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	settings, err := topic.settings(limited(t))
	if err != nil || settings["retention.ms"] != "-1" || settings["cleanup.policy"] != "delete" || settings["max.message.bytes"] != fmt.Sprint(MaxBytes) {
		t.Errorf("%v, %v", settings, err)
	}
	if n, _ := topic.admin.ListTopics(limited(t), testTopic); len(n[testTopic].Partitions) != Partitions {
		t.Errorf("%d partitions", len(n[testTopic].Partitions))
	}

	set := func(key, value string) {
		if _, err := topic.admin.AlterTopicConfigs(limited(t), []kadm.AlterConfig{{Name: key, Value: &value}}, testTopic); err != nil {
			t.Fatal(err)
		}
	}
	set("cleanup.policy", "compact,delete")
	if err := topic.Prepare(limited(t)); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "cleanup.policy=delete") {
		t.Errorf("compacted: %v", err)
	}
	set("cleanup.policy", "delete")
	set("retention.ms", "3600000")
	var log strings.Builder
	topic.o.Log = zerolog.New(&log)
	for range 2 {
		if err := topic.Prepare(limited(t)); err != nil {
			t.Errorf("with a retention: %v", err)
		}
	}
	if strings.Count(log.String(), "retention.ms=-1") != 1 {
		t.Errorf("log: %s", &log)
	}

	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: 1})
	if err := topic.Prepare(limited(t)); err != nil {
		t.Errorf("without the right to read settings: %v", err)
	}
	answer := func(change func(*kmsg.MetadataResponseTopic)) {
		c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
			resp := r.ResponseKind().(*kmsg.MetadataResponse)
			mt := kmsg.NewMetadataResponseTopic()
			mt.Topic = kmsg.StringPtr(testTopic)
			change(&mt)
			resp.Topics = append(resp.Topics, mt)
			return resp, nil, true
		})
	}
	answer(func(m *kmsg.MetadataResponseTopic) {
		m.AuthorizedOperations = 1<<kmsg.ACLOperationDescribe | 1<<kmsg.ACLOperationRead
	})
	if err := topic.Prepare(limited(t)); err == nil || errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "grant Write") {
		t.Errorf("without the right to write: %v", err)
	}
	answer(func(m *kmsg.MetadataResponseTopic) { m.ErrorCode = kerr.TopicAuthorizationFailed.Code })
	if err := topic.Prepare(limited(t)); err == nil || !strings.Contains(err.Error(), "grant Describe") {
		t.Errorf("without a right: %v", err)
	}
	answer(func(m *kmsg.MetadataResponseTopic) { m.AuthorizedOperations = math.MinInt32 })
	if err := topic.Prepare(limited(t)); err != nil {
		t.Errorf("where the brokers do not say: %v", err)
	}

	c = cluster(t)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	topic = open(t, c)
	if err := topic.Prepare(limited(t)); err == nil || !strings.Contains(err.Error(), "cannot be created") || !strings.Contains(err.Error(), "retention.ms=-1") {
		t.Errorf("missing, and not to be made: %v", err)
	}
}

// Many dead letters take little memory: what is kept of each is where it lies.
func TestMany(t *testing.T) {
	t.Parallel()
	topic := open(t, cluster(t))
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	const many = 1_500
	payload := []byte(strings.Repeat("x", 2_000))
	var batch []*kgo.Record
	for n := range many {
		l := letter(n)
		l.Event.Columns = append(l.Event.Columns, Column{Name: "payload", Type: "text"})
		l.Values = append(l.Values, payload)
		if batch = append(batch, l.Encode(form)); len(batch) == 500 {
			write(t, topic, batch...)
			batch = nil
		}
	}
	next := 0
	sum, err := topic.Each(limited(t), Selection{}, nil, func(f Found) error {
		if string(f.Values[0]) != fmt.Sprint(next) {
			return fmt.Errorf("letter %s instead of %d", f.Values[0], next)
		}
		next++
		return nil
	})
	if err != nil || next != many || sum.Letters != many {
		t.Errorf("%d letters, %+v, %v", next, sum, err)
	}
}
