package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"outboxd/internal/testbed"
)

// On a cluster with access control check names each right that is missing, with the
// command that grants it, and is content once that is granted.
func TestCheckRights(t *testing.T) {
	t.Parallel()
	kafka := ownKafka(t, testbed.KafkaOptions{Settings: map[string]string{
		"authorizer.class.name":                        "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                                  "User:ANONYMOUS", // the brokers' own listeners, and the test's
		"auto.create.topics.enable":                    "false",
		"listener.security.protocol.map":               "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"listener.name.client.sasl.enabled.mechanisms": "PLAIN",
		"listener.name.client.plain.sasl.jaas.config":  `org.apache.kafka.common.security.plain.PlainLoginModule required user_outboxd="right";`,
	}})
	s := newScenario(t, nil, kafka)
	topic, positions, id, group := s.topic+".orders", s.topic+".positions", "id-"+s.topic, "billing"
	s.createTopic(topic, 1, nil)
	compact := "compact"
	s.createTopic(positions, 1, map[string]*string{"cleanup.policy": &compact})
	admin := s.admin()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, 0, -1)
	if err := admin.CommitAllOffsets(t.Context(), group, offsets); err != nil {
		t.Fatal(err)
	}
	s.brokersInExtra, s.route = true, fmt.Sprintf("{topic: %q, create_topics: {enabled: true, partitions: 1}}", topic)
	s.extra = fmt.Sprintf(`kafka: {brokers: [%q], sasl: {mechanism: PLAIN, username: outboxd, password: right}}
delivery: {guarantee: exactly_once, topic: %q, transactional_id: %q}
monitor: {consumer_groups: [%s]}
`, kafka.Brokers()[0], positions, id, group)

	on := map[string]func(*kadm.ACLBuilder) *kadm.ACLBuilder{
		"topic":     func(b *kadm.ACLBuilder) *kadm.ACLBuilder { return b.Topics(topic) },
		"positions": func(b *kadm.ACLBuilder) *kadm.ACLBuilder { return b.Topics(positions) },
		"id":        func(b *kadm.ACLBuilder) *kadm.ACLBuilder { return b.TransactionalIDs(id) },
		"group":     func(b *kadm.ACLBuilder) *kadm.ACLBuilder { return b.Groups(group) },
	}
	rights := func(resource string, operations ...kadm.ACLOperation) *kadm.ACLBuilder {
		return on[resource](kadm.NewACLs()).Allow("User:outboxd").AllowHosts("*").Operations(operations...).ResourcePatternType(kadm.ACLPatternLiteral)
	}
	set := func(resource string, operations ...kadm.ACLOperation) {
		t.Helper()
		if _, err := admin.DeleteACLs(t.Context(), rights(resource, kadm.OpAny)); err != nil {
			t.Fatal(err)
		}
		if len(operations) == 0 {
			return
		}
		results, err := admin.CreateACLs(t.Context(), rights(resource, operations...))
		for _, r := range results {
			if err == nil {
				err = r.Err
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all := map[string][]kadm.ACLOperation{
		"topic": {kadm.OpWrite, kadm.OpDescribe, kadm.OpDescribeConfigs}, "positions": {kadm.OpRead, kadm.OpWrite, kadm.OpDescribe, kadm.OpDescribeConfigs},
		"id": {kadm.OpWrite, kadm.OpDescribe}, "group": {kadm.OpDescribe},
	}
	for resource, operations := range all {
		set(resource, operations...)
	}
	// What was granted or taken reaches the authorizer a moment later.
	until := func(what string, fits func(checked) bool) {
		t.Helper()
		waitFor(t, 20*time.Second, func() (string, bool) {
			c := s.check()
			return fmt.Sprintf("%s: %+v", what, c.unwell()), fits(c)
		})
	}
	well := func(c checked) bool {
		return !slices.ContainsFunc(c.unwell(), func(f finding) bool {
			return f.Level == "FAIL" || strings.HasPrefix(f.Check, "topic") || strings.HasPrefix(f.Check, "transactional") || strings.HasPrefix(f.Check, "consumer group")
		})
	}
	until("with all rights", well)
	for _, test := range []struct {
		name, resource string
		left           []kadm.ACLOperation
		line, says     string
		level          string
		command        string
	}{
		{"nothing on the topic", "topic", nil, `topic "` + topic + `"`, "no right to", "FAIL", "--operation Write --operation Describe --topic"},
		{"only Describe on the topic", "topic", []kadm.ACLOperation{kadm.OpDescribe}, `topic "` + topic + `"`, "no right to Write", "FAIL", "--operation Write --operation Describe --topic"},
		{"positions may not be read", "positions", []kadm.ACLOperation{kadm.OpWrite}, `topic "` + positions + `"`, "no right to Read", "FAIL", "--operation Read --operation Write --operation Describe --topic"},
		{"positions may not be written", "positions", []kadm.ACLOperation{kadm.OpRead}, `topic "` + positions + `"`, "no right to Write", "FAIL", "--operation Read --operation Write --operation Describe --topic"},
		{"no transactional id", "id", nil, "transactional id", "no right to", "FAIL", "--operation Write --operation Describe --transactional-id"},
		{"the group may not be seen", "group", nil, "consumer group billing", "no right to Describe", "warn", "--operation Describe --group"},
	} {
		set(test.resource, test.left...)
		until(test.name, func(c checked) bool {
			return slices.ContainsFunc(c.unwell(), func(f finding) bool {
				return f.Check == test.line && f.Level == test.level && strings.Contains(f.Text, test.says) && strings.Contains(f.Command, "User:outboxd") && strings.Contains(f.Command, test.command)
			})
		})
		set(test.resource, all[test.resource]...)
		until("after "+test.name, well)
	}
	// A topic that is not there yet, and may not be made.
	s.route = fmt.Sprintf("{topic: %q, create_topics: {enabled: true, partitions: 1}}", topic+".new")
	until("Create", func(c checked) bool {
		return slices.ContainsFunc(c.failed(), func(f finding) bool {
			return f.Check == `topic "`+topic+`.new"` && (strings.Contains(f.Command, "--operation Create") || strings.Contains(f.Text, "no right to"))
		})
	})
	s.route = fmt.Sprintf("{topic: %q}", topic)
	c := s.startStreaming()
	s.events(1, 3)
	s.waitConfirmed(30 * time.Second)
	c.stop()
}
