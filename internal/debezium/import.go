package debezium

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Problem is an option that cannot be honoured.
type Problem struct {
	Option string // as the file spells it; empty for the file as a whole
	Reason string
}

// String returns the problem in one line.
func (p Problem) String() string {
	if p.Option == "" {
		return p.Reason
	}
	return p.Option + ": " + p.Reason
}

// Error is everything in a file that cannot be honoured. It shows no values of
// options that may be secret.
type Error struct{ Problems []Problem }

// Error returns the problems, one a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Import returns the outboxd.yaml that equals a connector's file, or an *Error with
// all the options that cannot be honoured.
func Import(file []byte) ([]byte, error) {
	o, err := parse(file)
	if err != nil {
		return nil, &Error{[]Problem{{Reason: err.Error()}}}
	}
	im := &importer{options: o, seen: make(map[string]bool)}
	im.run()
	if len(im.problems) > 0 {
		slices.SortStableFunc(im.problems, func(a, b Problem) int { return strings.Compare(a.Option, b.Option) })
		return nil, &Error{im.problems}
	}
	return im.out.bytes(), nil
}

// importer is the state of one Import.
type importer struct {
	*options
	seen     map[string]bool // the options that were looked at
	problems []Problem
	notes    []string // differences that belong to no line
	ignored  []string // harmless options
	out      yaml

	router string // the prefix of the router's options: transforms.outbox.
	table  table
}

func (im *importer) run() {
	im.transforms()
	im.source()
	im.findTable()
	im.predicates()
	im.outbox()
	im.kafka()
	im.rest()
	im.header()
}

// get returns an option's value and takes note that it was looked at.
func (im *importer) get(name, deflt string) string {
	im.seen[name] = true
	if v, ok := im.values[name]; ok && v != "" {
		return v
	}
	return deflt
}

// smt returns an option of the outbox event router.
func (im *importer) smt(name, deflt string) string { return im.get(im.router+name, deflt) }

func (im *importer) given(name string) bool {
	_, ok := im.values[name]
	return ok
}

// spelling is an option as the file spells it.
func (im *importer) spelling(name string) string {
	if s, ok := im.names[name]; ok {
		return s
	}
	return name
}

func (im *importer) refuse(name, format string, args ...any) {
	im.problems = append(im.problems, Problem{im.spelling(name), fmt.Sprintf(format, args...)})
}

func (im *importer) note(format string, args ...any) {
	im.notes = append(im.notes, fmt.Sprintf(format, args...))
}

// choice returns an option that has to be one of some words.
func (im *importer) choice(name, deflt string, words ...string) string {
	v := strings.ToLower(im.get(name, deflt))
	if !slices.Contains(words, v) {
		im.refuse(name, "%q is not one of %s", clip(v), strings.Join(words, ", "))
		return deflt
	}
	return v
}

func (im *importer) flag(name string, deflt bool) bool {
	return im.choice(name, fmt.Sprint(deflt), "true", "false") == "true"
}

// transforms finds the outbox event router.
func (im *importer) transforms() {
	const class = "io.debezium.transforms.outbox.EventRouter"
	for _, name := range list(im.get("transforms", "")) {
		prefix := "transforms." + name + "."
		switch t := im.get(prefix+"type", ""); {
		case t == class && im.router == "":
			im.router = prefix
		case t == class:
			im.refuse(prefix+"type", "there is a second outbox event router")
		case t == "":
			im.refuse(prefix+"type", "missing; transforms names it")
		default:
			im.refuse(prefix+"type", "%s changes records in a way that outboxd does not have", clip(t))
			im.seeAll(prefix)
		}
	}
	if im.router == "" {
		im.refuse("transforms", "none of them is the outbox event router, %s", class)
		im.router = "transforms.outbox."
	}
}

// seeAll keeps the options below one that was refused from being refused as well.
func (im *importer) seeAll(prefix string) {
	for name := range im.values {
		if strings.HasPrefix(name, prefix) {
			im.seen[name] = true
		}
	}
}

// predicates accepts one that lets the outbox through, which is what they are for:
// to keep heartbeats and the like from the router.
func (im *importer) predicates() {
	names := list(im.get("predicates", ""))
	use := im.smt("predicate", "")
	negate := im.flag(im.router+"negate", false)
	for _, name := range names {
		if name != use {
			im.seeAll("predicates." + name + ".")
			im.ignored = append(im.ignored, im.spelling("predicates")+": "+name+" is used by no transform")
		}
	}
	if use == "" {
		return
	}
	prefix := "predicates." + use + "."
	if !slices.Contains(names, use) {
		im.refuse(im.router+"predicate", "predicates does not name %s", clip(use))
		return
	}
	if t := im.get(prefix+"type", ""); t != "org.apache.kafka.connect.transforms.predicates.TopicNameMatches" {
		im.refuse(prefix+"type", "only TopicNameMatches can be imported")
		im.seeAll(prefix)
		return
	}
	pattern := im.get(prefix+"pattern", "")
	if err := goRegex(pattern); err != nil {
		im.refuse(prefix+"pattern", "%s", err)
		return
	}
	topic := im.get("topic.prefix", "") + "." + im.table.schema + "." + im.table.name
	if matches := regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(topic); matches == negate {
		im.refuse(im.router+"predicate", "it keeps the outbox (topic %s) from the router, so the connector publishes plain change events", topic)
		return
	}
	im.ignored = append(im.ignored, im.spelling("predicates")+": "+use+" lets the outbox through, and outboxd reads nothing else")
}

// rest looks at the options that nothing has asked for.
func (im *importer) rest() {
	for _, name := range slices.Sorted(maps.Keys(im.values)) {
		value := im.values[name]
		if im.seen[name] {
			continue
		}
		if o, ok := only[name]; ok {
			if !slices.ContainsFunc(o.values, func(v string) bool { return strings.EqualFold(v, strings.TrimSpace(value)) }) {
				im.refuse(name, "%s cannot be honoured: %s", shown(name, value), o.reason)
			}
			continue
		}
		if reason, ok := ignorable(name); ok {
			line := im.spelling(name)
			if reason != "" {
				line += ": " + reason
			}
			im.ignored = append(im.ignored, line)
			continue
		}
		if now, old := im.successor(name); old {
			im.refuse(name, "it is the name of Debezium 1, which Debezium passes over since 2.0; write %s", im.spelling(now))
			continue
		}
		if reason, ok := im.idle(name); ok {
			im.ignored = append(im.ignored, im.spelling(name)+": "+reason+", so it does nothing in Kafka Connect either")
			continue
		}
		switch {
		case strings.HasPrefix(name, "column.mask."), strings.HasPrefix(name, "column.truncate."):
			im.names[name], _, _ = strings.Cut(im.spelling(name), ".with.salt.") // behind it is a secret
			im.refuse(name, "cannot be honoured: no column's text is changed")
		case strings.HasPrefix(name, im.router+"tracing."):
			im.refuse(name, "cannot be honoured: its column has a Java properties text; a column with a W3C traceparent is made a header by outbox.columns.traceparent, and spans by monitor.trace.endpoint")
		default:
			im.refuse(name, "unknown option")
		}
	}
}

func ignorable(name string) (reason string, ok bool) {
	if reason, ok = harmless[name]; ok {
		return reason, true
	}
	for _, beginning := range slices.Sorted(maps.Keys(harmless)) {
		if prefix, isPrefix := strings.CutSuffix(beginning, "*"); isPrefix && strings.HasPrefix(name, prefix) {
			return harmless[beginning], true
		}
	}
	return "", false
}

// header puts what belongs to no line before everything.
func (im *importer) header() {
	var lines []string
	lines = append(lines, "Made by outboxd import-debezium. What differs from the connector is said beside it.")
	if len(im.notes) > 0 {
		lines = append(lines, "", "Differences:")
		for _, n := range im.notes {
			lines = append(lines, "- "+n)
		}
	}
	if len(im.ignored) > 0 {
		slices.Sort(im.ignored)
		lines = append(lines, "", "Options that change nothing here:")
		for _, n := range im.ignored {
			lines = append(lines, "- "+n)
		}
	}
	im.out.preface(lines)
}

// shown is an option with its value, unless that may be a secret.
func shown(name, value string) string {
	for _, word := range []string{"password", "secret", "jaas", "token", "key", "credential"} {
		if strings.Contains(strings.ToLower(name), word) {
			return "the value"
		}
	}
	return fmt.Sprintf("%q", clip(value))
}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return s
}

func list(s string) (items []string) {
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
