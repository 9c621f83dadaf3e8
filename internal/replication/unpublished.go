package replication

import (
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
)

// Unpublished is the error of an outbox whose rows are not, or not all, in the
// stream. It is an ErrSetup.
type Unpublished struct {
	What string // is wrong
	Fix  string // makes it right for the rows to come
	// SQL are the statements of Fix, where statements do it; see RemedySQL.
	SQL []string
	// Since is the position up to which the outbox was known to be published as a
	// whole. 0: nothing was streamed from it before, so that nothing can be missing.
	Since pglogrepl.LSN
	// Accept says that a start refuses what was fixed, too, unless it is accepted.
	Accept bool
	// Rows is what brings the missing rows back; "" for what does it for a table
	// whose rows are all in it.
	Rows string
}

func (e *Unpublished) Error() string {
	what, fix := e.parts()
	separator := "; "
	if e.Since != 0 {
		separator = ": "
	}
	return fmt.Sprintf("%v: %s%s%s", ErrSetup, what, separator, fix)
}

// parts are what is wrong and what to do.
func (e *Unpublished) parts() (what, fix string) {
	if e.Since == 0 {
		return e.What, e.Fix
	}
	what = fmt.Sprintf("%s; rows committed after %s may be missing from Kafka, and the slot does not bring them", e.What, e.Since)
	steps := []string{e.Fix}
	if e.Fix == "" {
		steps = nil
	}
	if e.Accept {
		steps = append(steps, "run `outboxd recover`, which publishes the rows that Kafka lacks, or start once with `outboxd run --accept-gap`, which resumes where it stopped")
	}
	rows := e.Rows
	if rows == "" {
		rows = "`outboxd reconcile --repair` publishes the rows that Kafka still lacks"
	}
	return what, strings.Join(append(steps, rows), "; then ")
}

func (e *Unpublished) Unwrap() error { return ErrSetup }
