package replication

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of a replication connection.
var (
	// ErrSetup means that the database is not set up for this configuration:
	// trying again without a change cannot help.
	ErrSetup = errors.New("the database is not set up for outboxd")
	// ErrSlotActive means that another connection streams from the slot.
	ErrSlotActive = errors.New("the replication slot is in use")
	// ErrSilent means that the server has not said anything for too long.
	ErrSilent = errors.New("the replication stream is silent")
)

// Error is a fault with advice for the operator.
type Error struct {
	Err  error
	Hint string
}

func (e *Error) Error() string { return fmt.Sprintf("%v; %s", e.Err, e.Hint) }
func (e *Error) Unwrap() error { return e.Err }

// setupError is an ErrSetup with advice.
func setupError(hint, format string, args ...any) error {
	return &Error{Err: fmt.Errorf("%w: "+format, append([]any{ErrSetup}, args...)...), Hint: hint}
}

// remedied is an error that statements put right.
type remedied struct {
	error
	sql []string
}

func (e *remedied) Unwrap() error { return e.error }

// withSQL adds to an error the statements that put it right, for who may run them.
func withSQL(err error, sql ...string) error { return &remedied{err, sql} }

// RemedySQL returns the statements that put right what an error of this package is
// about, each without its semicolon; nil where no statement does it. They are to be
// run one by one, and by a role that may.
func RemedySQL(err error) []string {
	var r *remedied
	if errors.As(err, &r) {
		return r.sql
	}
	var u *Unpublished
	if errors.As(err, &u) {
		return u.SQL
	}
	return nil
}

// Describe returns what is wrong and what to do, each as a text of its own.
func Describe(err error) (what, fix string) {
	var u *Unpublished
	if errors.As(err, &u) {
		return u.parts()
	}
	what = err.Error()
	var e *Error
	if errors.As(err, &e) && e.Hint != "" {
		what, fix = strings.TrimSuffix(what, "; "+e.Hint), e.Hint
	}
	return strings.ReplaceAll(what, ErrSetup.Error()+": ", ""), fix
}

// SlotInUse is ErrSlotActive, with how it was noticed.
func SlotInUse(err error) error {
	return &Error{fmt.Errorf("%w: %w", ErrSlotActive, err), "another connection streams from it; outboxd waits and takes over when it ends"}
}

// publicationMissed is the error of a slot whose publication was not there when
// events were written. PostgreSQL decodes rows with the catalog of their time, so
// a publication made afterwards does not bring them back.
func publicationMissed(o Options, err error) error {
	advance := "SELECT pg_replication_slot_advance(" + quote(o.Slot) + ", pg_current_wal_lsn())"
	return &Unpublished{Accept: true,
		What: fmt.Sprintf("publication %s was not there when events were written that slot %q has yet to deliver: %v", QuoteIdent(o.Publication), o.Slot, err),
		Fix:  "make sure that the publication is there (`outboxd init` prints the SQL), move the slot to the present with " + advance,
		SQL:  []string{CreatePublicationSQL(o.Publication, o.Schema, o.Table, false), advance}}
}

// errPublicationMissed is what a server warns of.
var errPublicationMissed = errors.New("a publication is missing")

// Explain adds what to do to an error of a stream that trying again cannot mend.
func Explain(err error, o Options) error {
	if sqlState(err) == undefinedObject || errors.Is(err, errPublicationMissed) {
		return publicationMissed(o, err)
	}
	return err
}

// freeSlot is the hint when there are as many slots as the server allows.
const freeSlot = "raise max_replication_slots, or drop a slot nobody uses"

// sqlState returns the SQLSTATE of a server's error, or "".
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// ShuttingDown reports whether a server that still streams refused another connection
// because it is shutting down. (It refuses so while it starts, too, but does not stream
// then.)
func ShuttingDown(err error) bool { return sqlState(err) == cannotConnectNow }

// SQLSTATEs from "PostgreSQL Error Codes".
const (
	duplicateObject       = "42710"
	insufficientPrivilege = "42501"

	objectNotInPrerequisiteState = "55000"

	configurationLimitExceeded = "53400"

	objectInUse       = "55006"
	undefinedFunction = "42883"
	undefinedObject   = "42704"

	cannotConnectNow = "57P03"
	syntaxError      = "42601"
)
