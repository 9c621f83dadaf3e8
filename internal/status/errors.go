package status

import (
	"strings"
	"sync"
	"time"
)

// maxErrors is how many of the last faults are remembered.
const maxErrors = 10

// ErrorReport is a fault of the past.
type ErrorReport struct {
	At    time.Time `json:"at"` // when it came last
	Side  string    `json:"side"`
	Error string    `json:"error"`
	Times int       `json:"times"` // in a row
}

// lastErrors are the last faults, newest first.
type lastErrors struct {
	mu   sync.Mutex
	list []ErrorReport
}

// maxErrorText bounds what is remembered of one, in bytes.
const maxErrorText = 2_000

// addChanged remembers a fault of a state, unless the state was so before.
func (l *lastErrors) addChanged(side string, was, now error) {
	if now != nil && (was == nil || was.Error() != now.Error()) {
		l.add(side, now)
	}
}

// add remembers a fault. The same one again is counted.
func (l *lastErrors) add(side string, err error) {
	text := err.Error()
	text = strings.ToValidUTF8(text[:min(len(text), maxErrorText)], "")
	l.mu.Lock()
	defer l.mu.Unlock()
	e := ErrorReport{At: time.Now(), Side: side, Error: text, Times: 1}
	if len(l.list) > 0 && l.list[0].Side == side && l.list[0].Error == text {
		l.list[0].At = e.At
		l.list[0].Times++
		return
	}
	l.list = append([]ErrorReport{e}, l.list[:min(len(l.list), maxErrors-1)]...)
}

func (l *lastErrors) report() []ErrorReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]ErrorReport(nil), l.list...)
}
