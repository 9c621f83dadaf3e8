package router

import (
	"errors"
	"testing"

	"outboxd/decoder"
	"outboxd/internal/record"
)

// A topic that is made of a column is made by whoever may insert a row.
func TestForbiddenTopics(t *testing.T) {
	guarded := func(r Rules) Rules {
		r.Reserved = map[string]string{"outboxd.positions": "delivery.topic", "outbox.dead-letter": "errors.dead_letter_topic"}
		r.Forbidden = []string{"_*", "audit.?", "*.internal"}
		return r
	}
	regex, err := NewRegex(decoder.Type, "type", `(.*)`, `${1}`)
	if err != nil {
		t.Fatal(err)
	}
	byRegex := base("", decoder.NoField)
	byRegex.Regex = regex
	byRule := base("fallback", decoder.NoField)
	byRule.Overrides = []Override{{Topic: "{column:note}"}}
	byRule.Columns = map[string]decoder.Field{"note": note}
	for name, test := range map[string]struct {
		rules Rules
		field decoder.Field
	}{
		"template": {base("{type}", decoder.NoField), decoder.Type},
		"rule":     {byRule, note},
		"regex":    {byRegex, decoder.Type},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustNew(t, guarded(test.rules))
			var m record.Record
			for topic, because := range map[string]string{
				"outboxd.positions":  "delivery.topic",
				"outbox.dead-letter": "errors.dead_letter_topic",
				"__consumer_offsets": "__",
				"__x":                "__",
				"_schemas":           `"_*" (route.forbidden)`,
				"audit.1":            `"audit.?" (route.forbidden)`,
				"orders.internal":    `"*.internal" (route.forbidden)`,
			} {
				for range 2 { // the second time from what is remembered, if anything is
					err := r.Route(event(with(test.field, topic)), &m)
					if !errors.Is(err, ErrUnroutable) {
						t.Fatalf("%s: %v", topic, err)
					}
					says(t, err, topic, because)
				}
			}
			for _, topic := range []string{"orders", "a_b", "audit.12", "outboxd.position", "outbox.dead-letter.x", "a__b"} {
				if err := r.Route(event(with(test.field, topic)), &m); err != nil || m.Topic != topic {
					t.Errorf("%s: %v", topic, err)
				}
			}
		})
	}
	// What begins with __ is refused whatever the configuration says.
	var m record.Record
	if err := mustNew(t, base("{type}", decoder.NoField)).Route(event(with(decoder.Type, "__x")), &m); !errors.Is(err, ErrUnroutable) {
		t.Errorf("%v", err)
	}
}
