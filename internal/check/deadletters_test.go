package check

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/finding"
)

// What a run needs to set events aside is proved before there are any.
func TestDeadLetterTopic(t *testing.T) {
	const name, subject = "outbox.dead-letter", `topic "outbox.dead-letter"`
	look := func(c *kfake.Cluster, o Options) []finding.Finding {
		o.DeadLetterTopic = name
		return kafka(t, o)
	}
	c, o := fake(t)
	expect(t, line(t, look(c, o), subject), finding.OK, "outboxd makes it")
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	expect(t, line(t, look(c, o), subject), finding.Fail, "cannot make it", "kafka-topics.sh", "retention.ms=-1", "max.message.bytes=67108864")

	c, o = fake(t, kfake.SeedTopics(1, name))
	expect(t, line(t, look(c, o), subject), finding.OK, "may be written to")
	set := func(key, value string) { alter(t, o, name, key, value) }
	set("retention.ms", "86400000")
	found := look(c, o)
	if last := found[len(found)-1]; last.Subject != subject || last.Level != finding.Warn {
		t.Errorf("%+v", found)
	} else {
		expect(t, last, finding.Warn, "24h0m0s", "kafka-configs.sh", "retention.ms=-1")
	}
	set("cleanup.policy", "compact")
	expect(t, line(t, look(c, o), subject), finding.Fail, "last dead letter of each key", "cleanup.policy=delete")

	if found := kafka(t, o); len(found) == 0 {
		t.Error("nothing was checked")
	} else {
		for _, f := range found {
			if f.Subject == subject {
				t.Errorf("looked at without being used: %+v", f)
			}
		}
	}
}

// alter sets one key of a topic's configuration.
func alter(t *testing.T, o Options, topic, key, value string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(o.Kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: key, Value: &value}}, topic); err != nil {
		t.Fatal(err)
	}
}
