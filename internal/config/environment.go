package config

import (
	"maps"
	"slices"
	"strings"
)

const variablePrefix = "OUTBOXD_"

// otherVariables belong to the command line, not to the configuration.
var otherVariables = []string{"OUTBOXD_CONFIG", "OUTBOXD_CACHE"}

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

// findOverrides matches the OUTBOXD_ variables with keys. One that matches none
// is reported when it is nearly the name of a key: then it was meant to do
// something. Others are left alone, since not everybody who uses the prefix
// means us: Kubernetes sets OUTBOXD_SERVICE_HOST for a Service named outboxd.
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
		default:
			if meant := suggest(name, slices.Sorted(maps.Keys(known))); meant != "" {
				l.report(at, "unknown variable; did you mean %s?", meant)
			}
		}
	}
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
