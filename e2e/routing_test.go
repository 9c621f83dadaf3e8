package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"outboxd/internal/testbed"
)

// Rules, first match first; discarded events keep their numbers in positions; keys
// and topics from columns; partitions that events name, and those that the key
// chooses where they name none.
func TestRouting(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ALTER aggregatetype DROP NOT NULL, ADD tenant varchar, ADD shard smallint")
	s.route = strings.ReplaceAll(`
  topic: "PREFIX.{aggregate_type}.{column:tenant}"
  rules:
    - {type: "Test*", topic: ""}
    - {type: "*Placed", aggregate_type: "or?er", topic: "PREFIX.placed"}
    - {aggregate_type: "audit", topic: "PREFIX.audit-{column:tenant}"}
    - {type: "Placed", topic: "PREFIX.never"}
  key: "{column:tenant}"
  partition: shard`, "PREFIX", s.topic)
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (type, aggregatetype, tenant, shard, payload) VALUES
		('OrderPlaced', 'order', 'acme', NULL, '1'),
		('TestPlaced', 'order', NULL, 99, '2'),
		('OrderPlaced', 'ORDER', 'acme', 2, '3'),
		('Testing', NULL, NULL, NULL, '4'),
		('', 'audit', 'b', 0, '5'),
		('Placed', 'order', 'c', 1, '6')`)
	s.exec(`INSERT INTO outbox (type, payload) VALUES ('Test', '7')`) // a transaction of which nothing is left
	s.waitConfirmed(60 * time.Second)
	// A topic that grows while running.
	if _, err := s.admin().UpdatePartitions(context.Background(), 8, s.topic+".placed"); err != nil {
		t.Fatal(err)
	}
	s.exec(`INSERT INTO outbox (type, aggregatetype, tenant, shard, payload) VALUES ('OrderPlaced', 'order', 'd', 7, '8')`)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	type place struct {
		topic, key, number string
		partition          int32
	}
	got := make(map[string]place)
	for _, r := range s.read() {
		if _, ok := got[string(r.value)]; ok {
			t.Errorf("repeated: %v", r)
		}
		got[string(r.value)] = place{strings.TrimPrefix(r.topic, s.topic+"."), r.key, r.position[17:], r.partition}
	}
	byKey := int32(murmur2([]byte("acme"))&0x7fffffff) % 3
	want := map[string]place{
		"1": {"placed", "acme", "00000001", byKey},
		"3": {"ORDER.acme", "acme", "00000003", 2},
		"5": {"audit-b", "b", "00000005", 0},
		"6": {"placed", "c", "00000006", 1},
		"8": {"placed", "d", "00000001", 7},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// Without a key, events have none, and a NULL aggregate id is fine.
func TestKeyNone(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.route = fmt.Sprintf(`{topic: %s.all, key: none}`, s.topic)
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES (NULL, NULL, '1'), ('', 't', '2')`)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	records := s.read()
	if len(records) != 2 || slices.ContainsFunc(records, func(r record) bool { return r.hasKey }) {
		t.Errorf("%v", records)
	}
}

// Topics are made as the configuration says, before their first record. What the
// broker does not take is waited for, and named. In the long form the broker makes
// none by itself, and is down at the start.
func TestCreateTopics(t *testing.T) {
	t.Parallel()
	var kafka *testbed.Kafka
	if *soak {
		kafka = ownKafka(t, testbed.KafkaOptions{Settings: map[string]string{"auto.create.topics.enable": "false"}})
	}
	s := newScenario(t, nil, kafka)
	s.route = fmt.Sprintf(`
  topic: "%s.{type}"
  create_topics: {enabled: true, partitions: 5, config: {retention.ms: "3600000", max.message.bytes: "50000"}}`, s.topic)
	if *soak {
		if err := kafka.Kill(0); err != nil {
			t.Fatal(err)
		}
	}
	c := s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i, 't' || i % 3, jsonb_build_object('n', i) FROM generate_series(1, 60) i`)
	if *soak {
		c.waitLog("Kafka acknowledges nothing", 60*time.Second)
		if err := kafka.Start(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	s.waitConfirmed(90 * time.Second)
	c.stop()
	if r := s.verify(); r.records != 60 {
		t.Errorf("%+v", r)
	}
	admin := s.admin()
	topics, err := admin.ListTopics(t.Context(), s.topic+".t0", s.topic+".t1", s.topic+".t2")
	if err != nil {
		t.Fatal(err)
	}
	topics.EachError(func(d kadm.TopicDetail) { t.Error(d.Topic, d.Err) })
	topics.EachPartition(func(d kadm.PartitionDetail) {
		if len(d.Replicas) != 1 {
			t.Errorf("%s has %d replicas", d.Topic, len(d.Replicas))
		}
	})
	for _, d := range topics.Sorted() {
		if len(d.Partitions) != 5 {
			t.Errorf("%s has %d partitions", d.Topic, len(d.Partitions))
		}
	}
	configs, err := admin.DescribeTopicConfigs(t.Context(), s.topic+".t1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if want, ok := map[string]string{"retention.ms": "3600000", "max.message.bytes": "50000"}[c.Key]; ok && c.MaybeValue() != want {
			t.Errorf("%s is %s, want %s", c.Key, c.MaybeValue(), want)
		}
	}

	// With what the broker does not take, nothing is lost either.
	s.route = fmt.Sprintf(`
  topic: "%s.new-{type}"
  create_topics: {enabled: true, replication_factor: 3, config: {retention.ms: soon}}`, s.topic)
	c = s.startStreaming()
	s.exec(`INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{"n": 61}')`)
	c.waitLog("route.create_topics", 60*time.Second)
	s.createTopic(s.topic+".new-t0", 1, nil)
	s.waitConfirmed(60 * time.Second)
	c.stop()
	if n := s.arrived(); n != 61 {
		t.Errorf("%d records, want 61", n)
	}
}
