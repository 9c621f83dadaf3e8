package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// substitute replaces ${NAME} and ${file:PATH} in a scalar's text and makes ${
// of $${. It works on parsed values, not on the file, so that what is put in
// cannot change the YAML around it, and it does not look at what it put in.
func (l *loader) substitute(text string) (result string, replaced bool, err error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		if !found {
			b.WriteString(text)
			return b.String(), replaced, nil
		}
		if escaped, ok := strings.CutSuffix(before, "$"); ok {
			b.WriteString(escaped + "${")
			text = rest
			continue
		}
		b.WriteString(before)
		reference, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", true, errors.New("${ without a closing }; write $${ for a literal ${")
		}
		value, err := l.resolve(reference)
		if err != nil {
			return "", true, err
		}
		b.WriteString(value)
		text, replaced = after, true
	}
}

// resolve returns what stands between ${ and } stands for.
func (l *loader) resolve(reference string) (string, error) {
	if path, ok := strings.CutPrefix(reference, "file:"); ok {
		content, err := l.readFile(path)
		if err != nil {
			return "", fmt.Errorf("${file:%s}: %s", path, reason(err))
		}
		value, ended := strings.CutSuffix(string(content), "\n")
		if ended {
			value = strings.TrimSuffix(value, "\r")
		}
		return value, nil
	}
	if !variableName.MatchString(reference) {
		return "", errors.New("${...} holds neither a variable's name nor file: and a path; write $${ for a literal ${")
	}
	value, ok := l.env[reference]
	if !ok {
		return "", fmt.Errorf("the environment variable %s is not set", reference)
	}
	return value, nil
}

// references returns what a text that substitute takes names in ${}, as it is
// written there.
func references(text string) (all []string) {
	for {
		before, rest, found := strings.Cut(text, "${")
		if !found {
			return all
		}
		text = rest
		if strings.HasSuffix(before, "$") {
			continue
		}
		reference, after, _ := strings.Cut(rest, "}")
		all, text = append(all, "${"+reference+"}"), after
	}
}
