package check

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/finding"
	"outboxd/internal/positions"
	"outboxd/internal/records"
)

func (c *cluster) metadata(ctx context.Context, name string) (kmsg.MetadataResponseTopic, error) {
	return records.Metadata(ctx, c.client, name)
}

// there asks for a topic. What is amiss is the finding, nil for a topic that is there and
// may be described; missing is asked about one that is not.
func (c *cluster) there(ctx context.Context, subject, name string, missing func() finding.Finding, rights ...string) (kmsg.MetadataResponseTopic, *finding.Finding) {
	t, err := c.metadata(ctx, name)
	if err == nil {
		err = kerr.ErrorForCode(t.ErrorCode)
	}
	var f finding.Finding
	switch {
	case err == nil:
		return t, nil
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		f = missing()
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		f = c.noRight(subject, name, rights...)
	default:
		f = failed(subject, err, "")
	}
	return t, &f
}

// unmade judges a topic of outboxd's own that is not there: err is why it cannot be made.
func unmade(subject string, err error, fix, command string) finding.Finding {
	if err == nil {
		return finding.Ok(subject, "does not exist; outboxd makes it at its first start")
	}
	return finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("does not exist, and outboxd cannot make it: %v", err), Fix: fix, Command: command}
}

// exists tells whether a topic is there, as far as one may see.
func (c *cluster) exists(ctx context.Context, name string) (exists, known bool) {
	t, err := c.metadata(ctx, name)
	if err != nil {
		return false, false
	}
	err = kerr.ErrorForCode(t.ErrorCode)
	return err == nil, err == nil || errors.Is(err, kerr.UnknownTopicOrPartition)
}

// may tells of a right to a topic that is there; known is false where the brokers do
// not say.
func may(t kmsg.MetadataResponseTopic, operation kmsg.ACLOperation) (allowed, known bool) {
	if t.AuthorizedOperations == math.MinInt32 {
		return false, false
	}
	return t.AuthorizedOperations&(1<<operation) != 0, true
}

// topic looks at a topic that events go to.
func (c *cluster) topic(ctx context.Context, name string) []finding.Finding {
	subject := fmt.Sprintf("topic %q", name)
	t, amiss := c.there(ctx, subject, name, func() finding.Finding { return c.missing(ctx, subject, name) }, "Write", "Describe")
	if amiss != nil {
		return []finding.Finding{*amiss}
	}
	write, known := may(t, kmsg.ACLOperationWrite)
	if known && !write {
		return []finding.Finding{c.noRight(subject, name, "Write", "Describe")}
	}
	if f, bad := unwritable(subject, t); bad {
		return []finding.Finding{f}
	}
	return []finding.Finding{c.writable(ctx, subject, name, t, known)}
}

func (c *cluster) noRight(subject, topic string, operations ...string) finding.Finding {
	return finding.Finding{Level: finding.Fail, Subject: subject, Text: "no right to " + operations[0], Fix: "grant " + strings.Join(operations, " and ") + " on it",
		Command: c.acls("--operation " + strings.Join(operations, " --operation ") + " --topic " + quote(topic))}
}

// unwritable tells of partitions that nobody leads.
func unwritable(subject string, t kmsg.MetadataResponseTopic) (finding.Finding, bool) {
	for _, p := range t.Partitions {
		if p.Leader < 0 || len(p.ISR) == 0 {
			return finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("partition %d of %d has no leader", p.Partition, len(t.Partitions)),
				Fix: "see which of its brokers is down"}, true
		}
	}
	return finding.Finding{}, false
}

// writable looks at what acknowledgements of a topic depend on.
func (c *cluster) writable(ctx context.Context, subject, name string, t kmsg.MetadataResponseTopic, rights bool) finding.Finding {
	inSync, replicas := math.MaxInt, math.MaxInt
	for _, p := range t.Partitions {
		inSync, replicas = min(inSync, len(p.ISR)), min(replicas, len(p.Replicas))
	}
	text := count(len(t.Partitions), "partition") + ", " + count(replicas, "replica")
	if !rights {
		return finding.Unchecked(subject, text+"; the brokers do not say who may write to it")
	}
	text += ", may be written to"
	configs, err := c.topicConfigs(ctx, name)
	switch {
	case err != nil:
		return finding.Ok(subject, text, "; its settings are not shown to this user (DescribeConfigs)")
	default:
		if least, err := strconv.Atoi(configs["min.insync.replicas"]); err == nil && least > inSync {
			f := finding.Finding{Level: finding.Fail, Subject: subject, Text: fmt.Sprintf("%s; in sync: %d, and min.insync.replicas is %d: nothing is acknowledged", text, inSync, least),
				Fix: "bring its brokers back"}
			if least > replicas {
				f.Fix = "lower min.insync.replicas, or give it more replicas"
				f.Command = fmt.Sprintf("kafka-configs.sh --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=%d",
					quote(c.o.Kafka.Brokers[0]), quote(name), replicas)
			}
			return f
		}
	}
	return finding.Ok(subject, text, "; an event may take ", configs["max.message.bytes"], " bytes (max.message.bytes)")
}

func (c *cluster) topicConfigs(ctx context.Context, name string) (map[string]string, error) {
	if len(c.brokers) == 0 || !c.apis[describeConfigs] {
		return nil, errors.New("the brokers do not know DescribeConfigs")
	}
	return c.describe(ctx, kmsg.ConfigResourceTypeTopic, name, c.brokers[0])
}

// missing judges a topic that is not there, by who would make it.
func (c *cluster) missing(ctx context.Context, subject, name string) finding.Finding {
	create := finding.Finding{Level: finding.Fail, Subject: subject, Text: "does not exist", Fix: "create it, or set route.create_topics.enabled: true",
		Command: fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions 6", quote(c.o.Kafka.Brokers[0]), quote(name))}
	who := "outboxd makes it (route.create_topics)"
	partitions, replicas, config := int32(c.o.Kafka.CreateTopics.Partitions), int16(c.o.Kafka.CreateTopics.ReplicationFactor), configOf(c.o.Kafka.CreateTopics.Config)
	if !c.o.Kafka.CreateTopics.Enabled {
		switch {
		case c.settings == nil:
			create.Level = finding.Warn
			create.Text += ", and whether the brokers make it is not known (auto.create.topics.enable)"
			return create
		case c.settings["auto.create.topics.enable"] != "true":
			create.Text += ", and neither outboxd nor the brokers make it"
			return create
		}
		who, partitions, replicas, config = "the brokers make it (auto.create.topics.enable)", -1, -1, nil
	}
	if err := c.validate(ctx, name, partitions, replicas, config); err != nil {
		create.Text += fmt.Sprintf(", and %s, but: %v", who, err)
		if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
			create.Fix = "grant Create on it, or create it"
			create.Command = c.acls("--operation Create --operation Write --operation Describe --topic " + quote(name))
		}
		return create
	}
	return finding.Ok(subject, "does not exist; ", who, " with its first event")
}

func configOf(config map[string]string) map[string]*string {
	pointers := make(map[string]*string, len(config))
	for key, value := range config {
		pointers[key] = &value
	}
	return pointers
}

// validate asks whether a topic could be created, and creates none.
func (c *cluster) validate(ctx context.Context, name string, partitions int32, replicas int16, config map[string]*string) error {
	answers, err := c.admin.ValidateCreateTopics(ctx, partitions, replicas, config, name)
	if err != nil {
		return err
	}
	answer, err := answers.On(name, nil)
	if err == nil {
		err = answer.Err
	}
	if err != nil && answer.ErrMessage != "" {
		err = fmt.Errorf("%w: %s", err, answer.ErrMessage)
	}
	return err
}

// template judges topics whose names depend on the row: by what happens where one is
// missing.
func (c *cluster) template(ctx context.Context, template string) []finding.Finding {
	subject := fmt.Sprintf("topics %q", template)
	const depends = "depend on the row, so that none was looked at; "
	f := c.missing(ctx, subject, probe(template))
	if f.Level == finding.OK {
		return []finding.Finding{finding.Ok(subject, depends, "where one is missing, ", strings.TrimPrefix(f.Text, "does not exist; "))}
	}
	text := depends + "one that is missing holds up its events"
	if _, reason, found := strings.Cut(f.Text, ", and "); found {
		text += ": " + reason
	}
	return []finding.Finding{{Level: finding.Warn, Subject: subject, Text: text,
		Fix: "create each topic before its first event, or set route.create_topics.enabled: true"}}
}

// probe is a topic of a template, to ask about and never to make.
func probe(template string) string {
	var b strings.Builder
	for rest := template; ; {
		before, after, open := strings.Cut(rest, "{")
		b.WriteString(before)
		if !open {
			return b.String()
		}
		b.WriteString("outboxd-check")
		_, rest, _ = strings.Cut(after, "}")
	}
}

// positions looks at the topic of positions. What it must be like is the store's
// matter, which the stored position is read by.
func (c *cluster) positions(ctx context.Context) []finding.Finding {
	name := c.o.PositionsTopic
	subject := fmt.Sprintf("topic %q", name)
	t, amiss := c.there(ctx, subject, name, func() finding.Finding {
		return unmade(subject, c.validate(ctx, name, 1, -1, positions.TopicConfig()),
			"create it with one partition and cleanup.policy=compact",
			fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions 1 --config cleanup.policy=compact",
				quote(c.o.Kafka.Brokers[0]), quote(name)))
	}, "Read", "Write", "Describe")
	if amiss != nil {
		return []finding.Finding{*amiss}
	}
	for _, operation := range []struct {
		name string
		is   kmsg.ACLOperation
	}{{"Read", kmsg.ACLOperationRead}, {"Write", kmsg.ACLOperationWrite}} {
		switch allowed, known := may(t, operation.is); {
		case !known:
			return []finding.Finding{finding.Unchecked(subject, "the brokers do not say who may read and write it")}
		case !allowed:
			f := c.noRight(subject, name, "Read", "Write", "Describe")
			f.Text = "no right to " + operation.name
			return []finding.Finding{f}
		}
	}
	if f, bad := unwritable(subject, t); bad {
		return []finding.Finding{f}
	}
	return []finding.Finding{c.writable(ctx, subject, name, t, true)}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
