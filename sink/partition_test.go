package sink

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
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

	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
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
