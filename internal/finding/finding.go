// Package finding is what a check of a set-up says of one thing. Whoever judges the
// thing when the connector starts makes the findings too, so that a check and a start
// cannot disagree.
package finding

import "strings"

// Level is how much a finding matters.
type Level int

// Levels, the worst last.
const (
	OK   Level = iota
	Warn       // it works, and is not safe; or nobody could look
	Fail       // run would end, or wait and deliver nothing
)

// String returns the word that a check prints.
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Warn:
		return "warn"
	}
	return "FAIL"
}

// MarshalText makes it the same word in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Finding is one line of a check.
type Finding struct {
	Level   Level  `json:"level"`
	Subject string `json:"check"` // what was looked at
	Text    string `json:"text"`  // what was found
	// Fix says in words what to do; "" where nothing is to be done.
	Fix string `json:"fix,omitempty"`
	// SQL are the statements of Fix, one by one and without semicolons, where
	// statements do it.
	SQL []string `json:"sql,omitempty"`
	// Command is the shell command of Fix, where one does it.
	Command string `json:"command,omitempty"`
}

// Ok returns a finding that nothing is wrong.
func Ok(subject string, text ...string) Finding {
	return Finding{Level: OK, Subject: subject, Text: strings.Join(text, "")}
}

// NotChecked is what the text of a finding begins with of what could not be looked at.
const NotChecked = "not checked: "

// Unchecked returns a finding of what could not be looked at, and why. It is a
// warning: nobody knows.
func Unchecked(subject, why string) Finding {
	return Finding{Level: Warn, Subject: subject, Text: NotChecked + why}
}
