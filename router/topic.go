package router

import (
	"fmt"
	"strings"

	"outboxd/decoder"
	"outboxd/internal/poison"
	"outboxd/internal/topicname"
)

// topics finds an event's topic: by the first override that matches, else by the
// rules' own template. The names it has made are remembered, so that a known one
// costs no allocation.
type topics struct {
	overrides []override
	regex     *Regex
	fallback  *topicTemplate
	forbidden []string
	reserved  map[string]string
	scratch   []byte // where a name is put together
	names     map[string]string
}

type override struct {
	typ, aggregateType string
	discard            bool
	topic              *topicTemplate
}

// maxNames bounds the memory of topic names against a type column that never
// repeats itself.
const maxNames = 10_000

func newTopics(rules Rules) (topics, error) {
	t := topics{names: make(map[string]string), regex: rules.Regex, forbidden: rules.Forbidden, reserved: rules.Reserved}
	var err error
	if t.regex == nil {
		if t.fallback, err = parseTemplate(rules.Topic, rules.Columns); err != nil {
			return t, fmt.Errorf("route.topic: %w", err)
		}
	}
	for i, o := range rules.Overrides {
		parsed := override{typ: o.Type, aggregateType: o.AggregateType, discard: o.Topic == ""}
		if !parsed.discard {
			if parsed.topic, err = parseTemplate(o.Topic, rules.Columns); err != nil {
				return t, fmt.Errorf("route.rules[%d].topic: %w", i, err)
			}
		}
		t.overrides = append(t.overrides, parsed)
	}
	return t, nil
}

// of returns the event's topic, "" when it is discarded. With an error it is the name
// that the event may not have, if there is one.
func (t *topics) of(ev *decoder.Event) (string, error) {
	use := t.fallback
	for i := range t.overrides {
		o := &t.overrides[i]
		if matches(o.typ, ev.Values[decoder.Type]) && matches(o.aggregateType, ev.Values[decoder.AggregateType]) {
			if o.discard {
				return "", nil
			}
			use = o.topic
			break
		}
	}
	var b []byte
	var err error
	if use == nil {
		b, err = t.regex.expand(t.scratch[:0], ev)
	} else {
		b, err = use.expand(t.scratch[:0], ev)
	}
	if err != nil {
		return "", err
	}
	t.scratch = b
	if name, ok := t.names[string(b)]; ok {
		return name, nil
	}
	name := string(b)
	if err := t.check(name); err != nil {
		if use == nil {
			return name, fmt.Errorf("%w (made by route.regex)", err)
		}
		return name, fmt.Errorf("%w (made of %s)", err, use)
	}
	if len(t.names) >= maxNames {
		clear(t.names)
	}
	t.names[name] = name
	return name, nil
}

// check refuses a name that no topic has, or that no event may be sent to. It is
// called once for each name.
func (t *topics) check(name string) error {
	if err := topicname.Check(name); err != nil {
		return poison.IllegalTopic.Mark(fmt.Errorf("%w: topic name %s %w", ErrUnroutable, decoder.Excerpt(name), err))
	}
	if key, ok := t.reserved[name]; ok {
		return poison.ForbiddenTopic.Mark(fmt.Errorf("%w: topic %q is outboxd's own (%s)", ErrUnroutable, name, key))
	}
	if topicname.Internal(name) {
		return poison.ForbiddenTopic.Mark(fmt.Errorf("%w: topic %q begins with __, as those of Kafka itself", ErrUnroutable, name))
	}
	for _, pattern := range t.forbidden {
		if glob(pattern, []byte(name)) {
			return poison.ForbiddenTopic.Mark(fmt.Errorf("%w: topic %q is forbidden by %q (route.forbidden)", ErrUnroutable, name, pattern))
		}
	}
	return nil
}

// matches compares with a glob: * stands for any characters, ? for one. An empty
// pattern matches everything, any other does not match NULL.
func matches(pattern string, value []byte) bool {
	if pattern == "" {
		return true
	}
	return value != nil && glob(pattern, value)
}

// glob goes back to the last * when something does not fit, and lets it stand for
// one byte more.
func glob(pattern string, value []byte) bool {
	p, v := 0, 0
	star, resume := -1, 0
	for v < len(value) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, v
			p++
		case p < len(pattern) && pattern[p] == '?':
			p++
			v += runeLen(value[v:])
		case p < len(pattern) && pattern[p] == value[v]:
			p++
			v++
		case star >= 0:
			resume++
			p, v = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
