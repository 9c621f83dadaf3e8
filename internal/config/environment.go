package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

const variablePrefix = "OUTBOXD_"

// otherVariables belong to the command line, not to the configuration.
var otherVariables = []string{"OUTBOXD_CONFIG", "OUTBOXD_CACHE"}

// serviceVariable matches what Kubernetes puts in every container for a Service
// whose name begins with outboxd, such as OUTBOXD_SERVICE_HOST or
// OUTBOXD_METRICS_PORT_9188_TCP_ADDR. Nobody typed them, so nobody mistyped.
var serviceVariable = regexp.MustCompile(`^OUTBOXD_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// variables makes a map of an environment.
func variables(env []string) map[string]string {
	values := make(map[string]string, len(env))
	for _, pair := range env {
		if name, value, ok := strings.Cut(pair, "="); ok {
			values[name] = value
		}
	}
	return values
}

// findOverrides matches the OUTBOXD_ variables with keys. A variable that
// matches none is reported like an unknown key: it was meant to do something.
func (l *loader) findOverrides() {
	l.overrides = map[*key]string{}
	known := map[string]*key{}
	for k := range schema().leaves() {
		known[k.variable] = k
	}
	for _, name := range slices.Sorted(maps.Keys(l.env)) {
		k := known[name]
		at := place{variable: show(name)}
		switch {
		case !strings.HasPrefix(name, variablePrefix) || slices.Contains(otherVariables, name):
		case k != nil && (k.isScalar() || k.isTextList()):
			l.overrides[k] = l.env[name]
		case k != nil:
			at.key = k.path
			l.report(at, "got text; want %s, which only the file can hold", want(k.typ))
		case serviceVariable.MatchString(name):
		default:
			l.reportUnknownVariable(name, at, slices.Sorted(maps.Keys(known)))
		}
	}
}

func (l *loader) reportUnknownVariable(name string, at place, known []string) {
	hint := ""
	if meant := suggest(name, append(known, otherVariables...)); meant != "" {
		hint = "; did you mean " + meant + "?"
	}
	l.report(at, "unknown variable%s", hint)
}

// applyOverrides sets the keys that the environment gives. Their text is taken
// as it is: ${ has no meaning in it.
func (l *loader) applyOverrides() {
	for k := range schema().leaves() {
		value, given := l.overrides[k]
		if !given {
			continue
		}
		at := place{key: k.path, variable: k.variable, hidden: k.isSecret()}
		l.origins[k.path] = at
		if k.isTextList() {
			l.setList(k, k.of(l.config), value, at)
		} else {
			l.setScalar(k, k.of(l.config), value, at)
		}
	}
}
