package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Problem is one thing that is wrong in a configuration. It names the place,
// either in the file or by a variable, and shows no secret.
type Problem struct {
	File     string // the file; empty when a variable is at fault
	Line     int    // from 1; 0 when the problem has no one line
	Column   int    // from 1; 0 unless the YAML itself is malformed
	Variable string // the environment variable
	Key      string // full path of the key, such as kafka.tls.ca; may be empty
	Message  string
}

// String returns the problem in one line.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(cmp.Or(p.Variable, p.File))
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Column > 0 {
		fmt.Fprintf(&b, ":%d", p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// LoadError is everything that is wrong in a configuration.
type LoadError struct {
	problems []Problem
}

// Error returns the problems, one a line.
func (e *LoadError) Error() string {
	lines := make([]string, len(e.problems))
	for i, p := range e.problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Problems returns the problems in order: those of the file by line, what the
// file lacks, then those of environment variables by name.
func (e *LoadError) Problems() []Problem { return slices.Clone(e.problems) }

// NewLoadError returns nil when there are no problems.
func NewLoadError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Variable, b.Variable),
			cmp.Compare(lineOrLast(a), lineOrLast(b)),
			cmp.Compare(a.Column, b.Column),
		)
	})
	return &LoadError{problems: problems}
}

func lineOrLast(p Problem) uint {
	return uint(p.Line) - 1 // 0, no line, becomes the largest
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.:/-]{1,80}$`)

// show returns a text for a message: a word as it is, anything else in quotes,
// and not all of a long one.
func show(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	if r := []rune(s); len(r) > 80 {
		s = string(r[:80]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

func showAll(words []string) string {
	shown := make([]string, len(words))
	for i, word := range words {
		shown[i] = show(word)
	}
	return strings.Join(shown, ", ")
}
