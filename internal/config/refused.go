package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"outboxd/internal/topicname"
)

// checkForbidden refuses a topic of the configuration that no event may be sent
// to: each of its events would be a poison event.
func (l *loader) checkForbidden() {
	r := l.config.Route
	if r.Regex.Column == "" {
		l.requireAllowed(r.Topic, "route.topic")
	}
	for i, rule := range r.Rules {
		if rule.Topic != "" {
			l.requireAllowed(rule.Topic, fmt.Sprintf("route.rules[%d].topic", i))
		}
	}
}

// requireAllowed reports a template all of whose topics are forbidden.
func (l *loader) requireAllowed(template, key string) {
	head, _, made := strings.Cut(template, "{")
	l.require(!topicname.Internal(head), "begins with __, as topics of Kafka itself do, to which no event may be sent", key)
	for _, own := range []struct{ topic, key string }{
		{l.config.Delivery.Topic, "delivery.topic"},
		{l.config.Errors.DeadLetterTopic, "errors.dead_letter_topic"},
	} {
		l.require(made || head != own.topic, "is the topic of "+own.key+", to which no event may be sent", key, own.key)
	}
	for _, pattern := range l.config.Route.Forbidden {
		var forbidden bool
		if made {
			// Whatever comes behind what is before the first {.
			start, all := strings.CutSuffix(pattern, "*")
			n := len([]rune(start))
			if all && len(head) >= n {
				forbidden, _ = path.Match(start, head[:n]) // a topic has only ASCII, and no /
			}
		} else {
			forbidden, _ = path.Match(pattern, head)
		}
		l.require(!forbidden, fmt.Sprintf("is forbidden by %q in route.forbidden", pattern), key, "route.forbidden")
	}
}

// ownHeaders are the headers that records of a value.headers have from outboxd
// itself; as in format.OwnNames.
var ownHeaders = map[string][]string{
	"plain": {
		"id", "type", "aggregate_type", "aggregate_id", "position",
		"version", "schema_version", "correlation_id", "causation_id", "traceparent", "timestamp",
	},
	"cloudevents": {
		"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_partitionkey", "ce_sequence",
		"ce_correlationid", "ce_causationid", "ce_traceparent", "content-type",
	},
	"debezium": {"id"},
}

// checkHeaders refuses names in outbox.headers under which consumers look for what
// outboxd itself says.
func (l *loader) checkHeaders() {
	v := l.config.Value
	for _, h := range l.config.Outbox.Headers {
		key := "outbox.headers." + show(h.Name)
		own := slices.Contains(ownHeaders[v.Headers], h.Name) || v.Format == "cloudevents" && h.Name == "content-type"
		complaint := "is a header of value.headers " + v.Headers + " itself; choose another name"
		if slices.Contains(mappedFields, h.Name) {
			complaint += ", or read the column as outbox.columns." + h.Name
		}
		l.require(!own, complaint, key, "value.headers")
		reserved := h.Name == "replayed" || h.Name == "dead_letter_retry"
		for _, prefix := range []string{"error.", "__connect.errors.", "__debezium.context."} {
			reserved = reserved || strings.HasPrefix(h.Name, prefix)
		}
		l.require(!reserved, "is a header that outboxd adds to records itself; choose another name", key)
	}
}

// mappedFields are the fields whose headers come from columns of any name.
var mappedFields = []string{"version", "schema_version", "correlation_id", "causation_id", "traceparent", "timestamp"}
