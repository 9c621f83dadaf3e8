package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/json"
	"outboxd/router"
	"outboxd/sink"
)

var mapped = []string{"id", "type", "aggregate_id", "payload"}

// set is a dead letter in the topic, of a row with this aggregate and payload.
func set(t *testing.T, topic *Topic, number int, aggregate, payload string) {
	t.Helper()
	ev, row, err := decode(t, table(mapped...), number, []column{
		{"id", decoder.Int8OID, fmt.Sprint(number)}, {"type", decoder.TextOID, "paid"}, {"aggregate_id", decoder.TextOID, aggregate}, {"payload", decoder.JSONBOID, payload},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, topic, New(ev, row, Made{Topic: "orders"}, errors.New("why"), source, setAside).Encode(form))
}

// retryOptions are today's configuration of the tests.
func retryOptions(c *kfake.Cluster, topic *Topic, transactional bool) RetryOptions {
	o := RetryOptions{
		Topic: topic, Table: table(mapped...), Log: zerolog.Nop(),
		Rules:  router.Rules{Topic: "orders", Key: decoder.AggregateID, Partition: decoder.NoField},
		Sink:   sink.Options{Brokers: c.ListenAddrs(), Compression: "none", Log: zerolog.Nop(), Client: []kgo.Opt{kgo.MetadataMinAge(10 * time.Millisecond)}},
		Source: func(database string) string { return "/" + database + "/public.outbox" },
	}
	if transactional {
		o.Sink.TransactionalID = "outboxd-dead-letters"
	}
	return o
}

// retryAll retries what is not resolved, and returns what became of each.
func retryAll(t *testing.T, o RetryOptions) (outcomes []string) {
	t.Helper()
	r, err := NewRetrier(o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := o.Topic.Each(limited(t), Selection{}, nil, func(f Found) error {
		resolved, err := r.Retry(limited(t), f.Letter)
		if errors.Is(err, ErrStillPoison) {
			resolved, err = err.Error(), nil
		}
		outcomes = append(outcomes, string(f.Values[0])+": "+resolved)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return outcomes
}

// committedRecords are those that a consumer of committed records sees, up to the
// topic's end as it is now.
func committedRecords(t *testing.T, c *kfake.Cluster, topic string) (records []*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListCommittedOffsets(limited(t), topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	for next := int64(0); next < end.Offset; {
		f := client.PollFetches(limited(t))
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if next = r.Offset + 1; !r.Attrs.IsControl() {
				records = append(records, r)
			}
		})
	}
	return records
}

func guarantees(t *testing.T, f func(t *testing.T, transactional bool)) {
	t.Run("at least once", func(t *testing.T) { t.Parallel(); f(t, false) })
	t.Run("exactly once", func(t *testing.T) { t.Parallel(); f(t, true) })
}

// Events go to their topics by today's configuration, with the header, their position
// and the time of their commit, and are no longer listed. What still cannot be delivered
// stays, and what a rule discards now is discarded.
func TestRetry(t *testing.T) {
	t.Parallel()
	guarantees(t, func(t *testing.T, transactional bool) {
		c := cluster(t, kfake.SeedTopics(1, "orders"))
		topic := open(t, c)
		if err := topic.Prepare(limited(t)); err != nil {
			t.Fatal(err)
		}
		set(t, topic, 1, "k1", `{"n": 1.50}`)
		set(t, topic, 2, "NULL", `{"n": 2}`)
		set(t, topic, 3, "k3", "NULL")
		o := retryOptions(c, topic, transactional)
		o.DryRun = true
		want := "1: retried|2: still cannot be delivered: event cannot be routed: its key aggregate_id (route.key) is NULL|3: retried"
		if got := strings.Join(retryAll(t, o), "|"); got != want {
			t.Errorf("a dry run: %s", got)
		}
		if got := committedRecords(t, c, "orders"); len(got) != 0 || list(t, topic, Selection{}) != "1 2 3" {
			t.Errorf("a dry run has written %d records, and resolved letters", len(got))
		}
		o.DryRun = false
		if got := strings.Join(retryAll(t, o), "|"); got != want {
			t.Error(got)
		}
		records := committedRecords(t, c, "orders")
		if len(records) != 2 || string(records[0].Value) != `{"n": 1.50}` || records[1].Value != nil || string(records[0].Key) != "k1" {
			t.Fatalf("%d records: %+v", len(records), records)
		}
		r := records[0]
		if header(r, "dead_letter_retry") != "true" || header(r, "position") != "0000000001507C60-00000001" || header(r, "error.kind") != "(none)" || header(r, "id") != "1" ||
			r.Timestamp.UnixMilli() != committed.UnixMilli() {
			t.Errorf("%+v", r)
		}
		if got := list(t, topic, Selection{}); got != "2" {
			t.Errorf("left: %s", got)
		}
		// A rule that discards it now.
		o.Rules.Overrides = []router.Override{{Type: "paid"}}
		if got := strings.Join(retryAll(t, o), "|"); got != "2: discarded" {
			t.Error(got)
		}
		if got := list(t, topic, Selection{Resolved: true}); got != "1retried 2discarded 3retried" {
			t.Errorf("resolved: %s", got)
		}
	})
}

// Each format writes what it would have written then.
func TestRetryByFormat(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "orders"))
	topic := open(t, c)
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct {
		f    format.Options
		want string
	}{
		{format.Options{Format: json.Format{}}, `{"id":"1","type":"paid","aggregate_id":"k","committed_at":"2026-11-28T12:30:00.123456Z","position":"0000000001507C60-00000001","payload":{"n": 1e3}}`},
		{format.Options{Format: cloudevents.Format{}}, `{"specversion":"1.0","id":"2","source":"/shop/public.outbox","type":"paid","subject":"k","time":"2026-11-28T12:30:00.123456Z","datacontenttype":"application/json","partitionkey":"k","sequence":"0000000001507C60-00000002","data":{"n": 1e3}}`},
	} {
		set(t, topic, i+1, "k", `{"n": 1e3}`)
		o := retryOptions(c, topic, false)
		o.Format = test.f
		retryAll(t, o)
		records := committedRecords(t, c, "orders")
		if got := string(records[len(records)-1].Value); got != test.want {
			t.Errorf("%s\nwant %s", got, test.want)
		}
	}
}

// Killed after Kafka has the event and before the letter is resolved, a retry repeats
// that one event, and no other; with transactions none.
func TestRetryIsKilled(t *testing.T) {
	t.Parallel()
	guarantees(t, func(t *testing.T, transactional bool) {
		c := cluster(t, kfake.SeedTopics(1, "orders"))
		topic := open(t, c)
		if err := topic.Prepare(limited(t)); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			set(t, topic, n+1, "k", fmt.Sprint(n+1))
		}
		// The write that resolves the second one never comes.
		ctx, kill := context.WithCancel(limited(t))
		var writes atomic.Int32
		var over atomic.Bool
		c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			p := r.(*kmsg.ProduceRequest)
			resolves := len(p.Topics) == 1 && (p.Topics[0].Topic == testTopic || p.Topics[0].TopicID == c.TopicInfo(testTopic).TopicID)
			if resolves && writes.Add(1) >= 2 && !over.Load() {
				kill()
				return nil, errors.New("gone"), true
			}
			return nil, nil, false
		})
		o := retryOptions(c, topic, transactional)
		r, err := NewRetrier(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = topic.Each(limited(t), Selection{}, nil, func(f Found) error {
			_, err := r.Retry(ctx, f.Letter)
			return err
		})
		if err == nil {
			t.Fatal("the retry was not stopped")
		}
		r.Close()
		topic.Close()
		over.Store(true)
		topic = open(t, c)
		if got := list(t, topic, Selection{}); got != "2 3" {
			t.Errorf("left: %s", got)
		}
		o.Topic = topic
		if got := strings.Join(retryAll(t, o), "|"); got != "2: retried|3: retried" {
			t.Error(got)
		}
		var values []string
		for _, r := range committedRecords(t, c, "orders") {
			values = append(values, string(r.Value))
		}
		want := "1 2 2 3"
		if transactional {
			want = "1 2 3"
		}
		if got := strings.Join(values, " "); got != want {
			t.Errorf("published %s, want %s", got, want)
		}
	})
}

// A transaction that does not get the record that resolves its letter is not another
// attempt's: the error says what failed, and the event is not published.
func TestRetryThatCannotBeResolved(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "orders"))
	topic := open(t, c)
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	set(t, topic, 1, "k", "1")
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	r, err := NewRetrier(retryOptions(c, topic, true))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = topic.Each(limited(t), Selection{}, nil, func(f Found) error {
		_, err := r.Retry(limited(t), f.Letter)
		return err
	})
	text := fmt.Sprint(err)
	for _, want := range []string{"resolve the dead letter", "errors.dead_letter_topic", testTopic, "TOPIC_AUTHORIZATION_FAILED", "list the dead letters again"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in: %s", want, text)
		}
	}
	if strings.Contains(text, "delivery.topic") || strings.Contains(text, "the position") {
		t.Errorf("the letter's topic is not that of the positions: %s", text)
	}
	if got := committedRecords(t, c, "orders"); len(got) != 0 {
		t.Errorf("%d events are published", len(got))
	}
	if got := list(t, topic, Selection{}); got != "1" {
		t.Errorf("left: %s", got)
	}
}

// An event that the broker refuses stays, and those behind it are published.
func TestRetryIsRefused(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "orders"))
	topic := open(t, c)
	if err := topic.Prepare(limited(t)); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		set(t, topic, n+1, "k", fmt.Sprint(n+1))
	}
	refused := false
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		p := r.(*kmsg.ProduceRequest)
		if refused || len(p.Topics) != 1 || p.Topics[0].Topic == testTopic || p.Topics[0].TopicID == c.TopicInfo(testTopic).TopicID {
			return nil, nil, false
		}
		refused = true
		resp := r.ResponseKind().(*kmsg.ProduceResponse)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = p.Topics[0].Topic, p.Topics[0].TopicID
		rp := kmsg.NewProduceResponseTopicPartition()
		rp.ErrorCode = kerr.InvalidRecord.Code
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	got := retryAll(t, retryOptions(c, topic, false))
	if len(got) != 3 || !strings.HasPrefix(got[0], "1: still cannot be delivered") || got[1] != "2: retried" || got[2] != "3: retried" {
		t.Errorf("%q", got)
	}
	if got := list(t, topic, Selection{}); got != "1" {
		t.Errorf("left: %s", got)
	}
}
