package config

import (
	"slices"
	"strings"
)

// reportUnknown reports a key that a group does not have.
func (l *loader) reportUnknown(group *key, e entry, at, name place) {
	if e.value.kind == unsupported {
		l.report(name, "%s", e.value.text)
		return
	}
	holdsSecret := slices.ContainsFunc(group.keys, (*key).isSecret)
	if holdsSecret && e.value.kind == null {
		// {password: one,two} has the key two: the name is half of a secret.
		at.line = e.line
		l.report(at, "unknown key without a value; quote a value that contains a comma")
		return
	}
	hint := ""
	if meant := meantKey(group, e.key); meant != "" {
		hint = "; did you mean " + meant + "?"
	}
	l.report(name, "unknown key%s", hint)
}

// meantKey returns the key that an unknown name probably means: a similar one
// of its group, or the same name elsewhere.
func meantKey(group *key, name string) string {
	var names []string
	for _, k := range group.keys {
		names = append(names, k.name)
	}
	if meant := suggest(name, names); meant != "" {
		return meant
	}
	elsewhere := ""
	for k := range schema().leaves() {
		if k.path == name {
			return k.name + " below " + strings.TrimSuffix(name, "."+k.name)
		}
		if k.name != name {
			continue
		}
		if elsewhere != "" {
			return "" // several: no guess
		}
		elsewhere = k.path
	}
	return elsewhere
}

// suggest returns the candidate that a misspelt name probably means, or "".
func suggest(name string, candidates []string) string {
	name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	best, least := "", max(1, min(3, len(name)/3))+1
	for _, candidate := range candidates {
		if d := editDistance(name, strings.ToLower(candidate)); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// editDistance counts the bytes to insert, delete or replace, or the adjacent
// ones to swap, that make b of a.
func editDistance(a, b string) int {
	// Three rows of the table: of a[:i-1], a[:i] and a[:i+1].
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(above[j+1]+1, row[j]+1, above[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
