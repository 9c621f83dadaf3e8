package router

import (
	"fmt"
	"strings"

	"outboxd/decoder"
)

// template is a topic name with places for fields.
type template struct {
	parts []part
	// scratch is where a name is put together; names holds those made before,
	// so that a known topic costs no allocation.
	scratch []byte
	names   map[string]string
}

// maxNames bounds the memory of topic names against a type column that never
// repeats itself.
const maxNames = 10_000

type part struct {
	text  string
	field decoder.Field // -1: text
}

var placeholders = map[string]decoder.Field{
	"type":           decoder.Type,
	"aggregate_type": decoder.AggregateType,
}

func parseTemplate(s string) (template, error) {
	t := template{names: make(map[string]string)}
	for rest := s; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			open = len(rest)
		}
		if text := rest[:open]; text != "" {
			t.parts = append(t.parts, part{text: text, field: -1})
		}
		if rest = rest[open:]; rest == "" {
			break
		}
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return t, fmt.Errorf("%q: { without }", s)
		}
		name := rest[1:end]
		field, ok := placeholders[name]
		if !ok {
			return t, fmt.Errorf("%q: unknown placeholder {%s}", s, name)
		}
		t.parts = append(t.parts, part{field: field})
		rest = rest[end+1:]
	}
	if len(t.parts) == 0 {
		return t, fmt.Errorf("is empty")
	}
	return t, nil
}

func (t *template) expand(ev *decoder.Event) (string, error) {
	b := t.scratch[:0]
	for _, p := range t.parts {
		if p.field < 0 {
			b = append(b, p.text...)
			continue
		}
		v := ev.Values[p.field]
		if v == nil {
			return "", fmt.Errorf("%w: %s, which names its topic, is NULL", ErrUnroutable, p.field)
		}
		b = append(b, v...)
	}
	t.scratch = b
	if name, ok := t.names[string(b)]; ok {
		return name, nil
	}
	name := string(b)
	if err := checkTopic(name); err != nil {
		return "", err
	}
	if len(t.names) >= maxNames {
		clear(t.names)
	}
	t.names[name] = name
	return name, nil
}

// maxTopicLen is Kafka's limit (org.apache.kafka.common.internals.Topic).
const maxTopicLen = 249

// checkTopic applies Kafka's rule for topic names, so that a bad one is found
// here with its event and not as a failed produce request.
func checkTopic(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxTopicLen {
		return fmt.Errorf("%w: topic name %q must have 1 to %d characters, and neither . nor .. is one", ErrUnroutable, clip(name), maxTopicLen)
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return fmt.Errorf("%w: topic name %q has a character other than a-z A-Z 0-9 . _ -", ErrUnroutable, clip(name))
	}
	return nil
}

func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
