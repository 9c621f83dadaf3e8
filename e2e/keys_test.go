package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A record lies in the partition where any Kafka client puts its key, so that
// consumers can join it with what others write.
func TestPartitionOfKey(t *testing.T) {
	t.Parallel()
	const partitions = 7
	s := newScenario(t, nil, nil)
	s.createTopic(s.topic+".t0", partitions, nil)
	keys := []string{"", " ", "a", "ab", "abc", "abcd", "ключ", "鍵", "clé", "🔑", "\u00ff\u0080", "line\nbreak", strings.Repeat("long ", 500)}
	for key := range javaMurmur2 {
		keys = append(keys, key)
	}
	for i := range 200 {
		keys = append(keys, fmt.Sprintf("order-%d", i*i))
	}
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT k, 't0', jsonb_build_object('n', n) FROM unnest($1::text[]) WITH ORDINALITY AS u (k, n)`, keys)
	s.waitConfirmed(30 * time.Second)
	c.stop()
	if r := s.verify(); r.records != len(keys) {
		t.Errorf("%+v", r)
	}
	used := make(map[int32]bool)
	for _, r := range s.read() {
		used[r.partition] = true
		if want := int32(murmur2([]byte(r.key))&0x7fffffff) % partitions; r.partition != want {
			t.Errorf("key %q is in partition %d, other clients use %d", r.key, r.partition, want)
		}
	}
	if len(used) != partitions {
		t.Errorf("only partitions %v are used", used)
	}
}

// javaMurmur2 are the vectors of UtilsTest.testMurmur2 in Apache Kafka.
var javaMurmur2 = map[string]int32{
	"21":                         -973932308,
	"foobar":                     -790332482,
	"a-little-bit-long-string":   -985981536,
	"a-little-bit-longer-string": -1486304829,
	"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	"abc": 479470107,
}

// murmur2 is written after org.apache.kafka.common.utils.Utils, apart from the
// client that is under test.
func murmur2(data []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for len(data) >= 4 {
		k := (uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24) * m
		k ^= k >> r
		h = h*m ^ k*m
		data = data[4:]
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}

func TestMurmur2IsJavas(t *testing.T) {
	for key, want := range javaMurmur2 {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, in Java it is %d", key, got, want)
		}
	}
}
