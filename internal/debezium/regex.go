package debezium

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// goRegex returns a Java pattern if it means the same in Go, else the reason why it
// cannot be used. Where the two differ only for texts that no Kafka topic's name can
// come of (a line's end, a character beyond ASCII under (?i)), they count as equal.
func goRegex(pattern string) error {
	class := false // inside [ ]
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		rest := pattern[i:]
		switch {
		case c == '\\':
			if i+1 == len(pattern) {
				return errors.New("it ends with a backslash")
			}
			i++
			switch n := pattern[i]; {
			case n == 'Q':
				end := strings.Index(pattern[i:], `\E`)
				if end < 0 {
					return nil // literal to its end
				}
				i += end + 1
			case n >= '1' && n <= '9', n == 'k':
				return fmt.Errorf("it has a backreference, \\%c, which takes more than linear time to match", n)
			case strings.IndexByte("dDwWsStnrfaxzApP", n) >= 0:
			case n >= 'a' && n <= 'z' || n >= 'A' && n <= 'Z' || n >= '0' && n <= '9':
				return fmt.Errorf("it has \\%c, which Go's regular expressions do not have, or which means something else there", n)
			}
		case class:
			switch {
			case c == ']':
				class = false
			case c == '[' || strings.HasPrefix(rest, "&&"):
				return errors.New("it has a character class inside another, or an intersection of them")
			}
		case c == '[':
			if class = true; strings.HasPrefix(rest, "[^") {
				i++
			}
			if i+1 < len(pattern) && pattern[i+1] == ']' {
				return errors.New("it has a character class that begins with ]; write \\]")
			}
		case strings.HasPrefix(rest, "(?"):
			if err := goGroup(rest); err != nil {
				return err
			}
		case strings.IndexByte("*+?}", c) >= 0 && i+1 < len(pattern) && pattern[i+1] == '+':
			return errors.New("it has a possessive quantifier, " + string(pattern[i:i+2]) + ", which Go's regular expressions do not have")
		case c == '$' && i+1 < len(pattern) && pattern[i+1] != ')' && pattern[i+1] != '|':
			return errors.New("it has $ before its end")
		}
	}
	if _, err := regexp.Compile(pattern); err != nil {
		return errors.New("Go's regular expressions do not take it: " + strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return nil
}

func goGroup(rest string) error {
	for _, look := range []string{"(?=", "(?!", "(?<=", "(?<!"} {
		if strings.HasPrefix(rest, look) {
			return errors.New("it has a look-around, " + look + "…), which takes more than linear time to match")
		}
	}
	switch {
	case strings.HasPrefix(rest, "(?>"):
		return errors.New("it has an independent group, (?>…), which Go's regular expressions do not have")
	case strings.HasPrefix(rest, "(?:"), strings.HasPrefix(rest, "(?<"):
		return nil
	}
	flags, _, _ := strings.Cut(strings.TrimPrefix(rest, "(?"), ")")
	flags, _, _ = strings.Cut(flags, ":")
	if strings.Trim(flags, "is-") != "" {
		return fmt.Errorf("it has the flags (?%s), of which only i and s mean the same in Go", flags)
	}
	return nil
}

// goReplacement returns Go's form of a Java replacement for a pattern that goRegex
// accepts.
func goReplacement(replacement, pattern string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i := 0; i < len(replacement); i++ {
		c := replacement[i]
		switch {
		case c == '\\':
			if i++; i == len(replacement) {
				return "", errors.New("it ends with a backslash")
			}
			b.WriteString(strings.ReplaceAll(replacement[i:i+1], "$", "$$"))
		case c != '$':
			b.WriteByte(c)
		case i+1 < len(replacement) && replacement[i+1] == '{':
			name, _, closed := strings.Cut(replacement[i+2:], "}")
			if !closed || re.SubexpIndex(name) < 0 {
				return "", fmt.Errorf("it names a group, %q, that the pattern does not have", name)
			}
			b.WriteString("${" + name + "}")
			i += len(name) + 2
		case i+1 < len(replacement) && replacement[i+1] >= '0' && replacement[i+1] <= '9':
			// As many digits as still name a group.
			end := i + 2
			for end < len(replacement) && replacement[end] >= '0' && replacement[end] <= '9' {
				if n, _ := strconv.Atoi(replacement[i+1 : end+1]); n > re.NumSubexp() {
					break
				}
				end++
			}
			n, _ := strconv.Atoi(replacement[i+1 : end])
			if n > re.NumSubexp() {
				return "", fmt.Errorf("it names group %d, the pattern has %d", n, re.NumSubexp())
			}
			b.WriteString("${" + strconv.Itoa(n) + "}")
			i = end - 1
		default:
			return "", errors.New("it has a $ that names no group; write \\$ for a dollar")
		}
	}
	return b.String(), nil
}

// template returns the topic's template for a pattern that takes the whole text and
// a replacement that puts it in once or more, such as the defaults.
func template(pattern, replacement, field string) (string, bool) {
	group, ok := strings.CutSuffix(pattern, ".*)")
	if !ok {
		return "", false
	}
	name, named := strings.CutPrefix(group, "(?<")
	switch {
	case named && strings.HasSuffix(name, ">"):
		name = name[:len(name)-1]
	case group == "(":
		name = "1"
	default:
		return "", false
	}
	text := strings.NewReplacer("${"+name+"}", field, "${1}", field, "${0}", field).Replace(replacement)
	return text, !strings.Contains(text, "$")
}
