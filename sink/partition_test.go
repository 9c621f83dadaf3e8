package sink

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/record"
)

// vector says where Kafka's own client puts a key.
type vector struct {
	key        []byte
	partitions map[int]int32 // by the topic's number of partitions
}

func vectors(t *testing.T) (counts []int, all []vector) {
	t.Helper()
	file, err := os.Open("testdata/murmur2.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if header, ok := strings.CutPrefix(lines.Text(), "# key murmur2 "); ok {
			for _, n := range strings.Fields(header) {
				counts = append(counts, number(n))
			}
		}
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		fields := strings.Fields(lines.Text())
		if len(fields) != 2+len(counts) {
			t.Fatalf("not a line of %d fields: %s", 2+len(counts), lines.Text())
		}
		key, err := hex.DecodeString(strings.Trim(fields[0], "-"))
		if err != nil {
			t.Fatal(err)
		}
		v := vector{key, make(map[int]int32)}
		for i, n := range counts {
			v.partitions[n] = int32(number(fields[2+i]))
		}
		all = append(all, v)
	}
	if len(counts) == 0 || len(all) < 50 {
		t.Fatalf("%d keys for %d numbers of partitions", len(all), len(counts))
	}
	return counts, all
}

// A key goes where every other Kafka client puts it, so that consumers find one
// order whoever wrote.
func TestPartitionsAreKafkasOwn(t *testing.T) {
	counts, all := vectors(t)
	topic := func(n int) string { return fmt.Sprint("partitions-", n) }
	var opts []kfake.Opt
	var topics []string
	for _, n := range counts {
		opts = append(opts, kfake.SeedTopics(int32(n), topic(n)))
		topics = append(topics, topic(n))
	}
	c := broker(t, 0, opts...)
	s := &sender{t: t, k: open(t, c)}
	for _, v := range all {
		for _, n := range counts {
			s.send(topic(n), string(v.key), "{}")
		}
	}
	s.delivered()

	client := client(t, c, kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	got := make(map[string]int32)
	for ctx := limited(t); len(got) < len(s.sent); {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { got[fmt.Sprintf("%s %x", r.Topic, r.Key)] = r.Partition })
	}
	for _, v := range all {
		for _, n := range counts {
			if p := got[fmt.Sprintf("%s %x", topic(n), v.key)]; p != v.partitions[n] {
				t.Errorf("key %q goes to partition %d of %d, Kafka's client puts it on %d", v.key, p, n, v.partitions[n])
			}
		}
	}
}

// to sends an event that names its partition.
func (s *sender) to(topic string, partition int32, payload string) error {
	w := &witness{}
	d := s.k.Next()
	d.fill(len(s.sent)+1, []byte(payload))
	d.ID, d.Topic, d.Key, d.Partition = []byte(payload), topic, []byte("k"), partition
	d.Receipt, d.Memory = w, w
	if err := s.k.Send(d); err != nil {
		return err
	}
	s.sent = append(s.sent, w)
	return nil
}

func (s *sender) mustTo(topic string, partition int32, payload string) {
	s.t.Helper()
	if err := s.to(topic, partition, payload); err != nil {
		s.t.Fatal(err)
	}
}

func TestNamedPartitions(t *testing.T) {
	c := broker(t, 4)
	s := &sender{t: t, k: open(t, c)}
	for p := range int32(4) {
		s.mustTo(testTopic, p, fmt.Sprint(p))
	}
	s.mustTo(testTopic, record.ByKey, "by key")
	err := s.to(testTopic, 4, "4")
	if !errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a partition that is not there: %v", err)
	}
	says(t, err, "route.partition", "partition 4", testTopic, "4 partitions")
	s.delivered()
	for _, r := range consume(t, c, 5) {
		if string(r.Value) != "by key" && fmt.Sprint(r.Partition) != string(r.Value) {
			t.Errorf("record %s is in partition %d", r.Value, r.Partition)
		}
	}
}

// grow adds partitions to testTopic.
func grow(t *testing.T, c *kfake.Cluster, to int) {
	t.Helper()
	answers, err := admin(t, c).UpdatePartitions(limited(t), to, testTopic)
	if err == nil {
		err = answers.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A partition that was added is used: at the latest by the next sink, since a
// client looks for new partitions only now and then.
func TestPartitionsGrow(t *testing.T) {
	c := broker(t, 2)
	s := &sender{t: t, k: open(t, c, func(o *Options) {
		o.Client = []kgo.Opt{kgo.MetadataMinAge(10 * time.Millisecond), kgo.MetadataMaxAge(time.Hour)}
	})}
	s.mustTo(testTopic, 1, "1")
	s.delivered()
	if err := s.to(testTopic, 4, "4"); !errors.Is(err, ErrUndeliverable) {
		t.Fatalf("a partition that is not there: %v", err)
	}
	grow(t, c, 5)
	s.mustTo(testTopic, 4, "4")
	s.mustTo(testTopic, 1, "behind it")
	if err := s.failed(); errors.Is(err, ErrUndeliverable) {
		t.Fatalf("the sink fails for good: %v", err)
	}
	if got := consume(t, c, 1); string(got[0].Value) != "1" {
		t.Errorf("%s arrived", got[0].Value)
	}
	next := &sender{t: t, k: open(t, c)}
	next.mustTo(testTopic, 4, "4")
	next.delivered()
	consume(t, c, 2)
}

// While nobody knows the topic, its partitions are not known either: the event
// waits, and is found out when the topic comes. Nothing overtakes it.
func TestNamedPartitionOfATopicThatComesLate(t *testing.T) {
	c := broker(t, 0)
	s := &sender{t: t, k: open(t, c)}
	asked := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Observe: true, Count: -1})
	before := asked.Hits()
	for i := range 200 {
		s.mustTo(testTopic, 3, fmt.Sprint(i))
	}
	if n := asked.Hits() - before; n > 100 {
		t.Errorf("the brokers were asked %d times for 200 events", n)
	}
	create(t, c, "1000000") // with one partition
	if err := s.failed(); errors.Is(err, ErrUndeliverable) {
		t.Fatalf("the sink fails for good: %v", err)
	}
	next := &sender{t: t, k: open(t, c)}
	err := next.to(testTopic, 3, "0")
	says(t, err, "partition 3", "1 partitions")
	consume(t, c, 0)
}

// What waited by partition goes where it was meant to, unless the topic has another number
// of partitions by now: then its key decides again.
func TestPartitionOfWhatWaited(t *testing.T) {
	for _, test := range []struct {
		count, place int32
		want         bool
	}{{count: 3, place: 2, want: true}, {count: 4, place: 2}, {count: 0, place: 2}} {
		learned := 0
		p := partitioner{kgo.StickyKeyPartitioner(nil), func(_ *topic, n int) { learned = n }, nil}.ForTopic(testTopic)
		d := &Delivery{Record: record.Record{Record: kgo.Record{Topic: testTopic, Key: []byte("order-1"), Partition: record.ByKey}}, count: test.count, place: test.place}
		d.Record.Context = d
		byKey := kgo.StickyKeyPartitioner(nil).ForTopic(testTopic).Partition(&d.Record.Record, 3)
		if byKey == 2 {
			t.Fatal("the key has the partition of the test")
		}
		if got := p.Partition(&d.Record.Record, 3); (got == 2) != test.want || got != 2 && got != byKey {
			t.Errorf("partition %d of 3 for one that waited for %d of %d", got, test.place, test.count)
		}
		if (learned == 3) == test.want {
			t.Errorf("%d partitions are learned", learned)
		}
	}
}
