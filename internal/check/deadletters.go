package check

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/deadletter"
	"outboxd/internal/finding"
)

// deadLetters looks at the topic that events are set aside in.
func (c *cluster) deadLetters(ctx context.Context) []finding.Finding {
	name := c.o.DeadLetterTopic
	subject := fmt.Sprintf("topic %q", name)
	t, amiss := c.there(ctx, subject, name, func() finding.Finding {
		return unmade(subject, c.validate(ctx, name, deadletter.Partitions, -1, deadletter.Settings()),
			"create it; errors.poison: dead_letter needs it before the first event",
			fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions %d --config cleanup.policy=delete --config retention.ms=-1 --config max.message.bytes=%d",
				quote(c.o.Kafka.Brokers[0]), quote(name), deadletter.Partitions, deadletter.MaxBytes))
	}, "Write", "Read", "Describe")
	if amiss != nil {
		return []finding.Finding{*amiss}
	}
	if write, known := may(t, kmsg.ACLOperationWrite); known && !write {
		return []finding.Finding{c.noRight(subject, name, "Write", "Read", "Describe")}
	}
	if f, bad := unwritable(subject, t); bad {
		return []finding.Finding{f}
	}
	found := []finding.Finding{c.writable(ctx, subject, name, t, true)}
	settings, err := c.topicConfigs(ctx, name)
	if err != nil {
		return found // which says so
	}
	if err := deadletter.Judge(settings); err != nil {
		return []finding.Finding{{Level: finding.Fail, Subject: subject, Text: err.Error(), Fix: "keep each dead letter",
			Command: c.topicConfig(name, "cleanup.policy=delete,retention.ms=-1")}}
	}
	if keeps := deadletter.Retention(settings); keeps > 0 {
		found = append(found, finding.Finding{Level: finding.Warn, Subject: subject, Text: fmt.Sprintf("deletes dead letters when they are %s old, resolved or not", keeps),
			Fix: "keep them until an operator has seen them", Command: c.topicConfig(name, "retention.ms=-1")})
	}
	return found
}

// topicConfig is the command that changes settings of a topic.
func (c *cluster) topicConfig(name, settings string) string {
	return fmt.Sprintf("kafka-configs.sh --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config %s", quote(c.o.Kafka.Brokers[0]), quote(name), settings)
}
