package replication

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Limits of what is repeated of the server's words.
const (
	// maxText is how much of one of its texts is shown, in bytes.
	maxText = 1000
	// warningsEvery is how often the same warning is logged, and maxWarnings how many
	// different ones are in that time.
	warningsEvery = 30 * time.Second
	maxWarnings   = 5
)

// cut shortens a text to what is shown of it.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

// warnings says which warnings of a server are logged. It repeats one each time it
// looks at what it waits for.
type warnings struct {
	since  time.Time
	logged []string
	// skipped were not logged since the last that was, those apart that only repeat
	// one.
	skipped int
}

// admit tells whether a warning is to be logged, and how many others were not.
func (w *warnings) admit(message string, now time.Time) (skipped int, ok bool) {
	if now.Sub(w.since) >= warningsEvery {
		w.since, w.logged = now, nil
	}
	switch {
	case slices.Contains(w.logged, cut(message)):
		return 0, false
	case len(w.logged) == maxWarnings:
		w.skipped++
		return 0, false
	}
	w.logged = append(w.logged, cut(message))
	skipped, w.skipped = w.skipped, 0
	return skipped, true
}

// ServerError is an error that the server ended the stream with.
type ServerError struct {
	*pgconn.PgError // its texts are cut to a length that can be shown
	// LSN is the position of the change that the server could not decode, by the
	// context of the error; 0 if it names none.
	LSN pglogrepl.LSN
}

// Error returns the server's message with its SQLSTATE, and with the context if that
// names a position.
func (e *ServerError) Error() string {
	text := e.PgError.Error()
	if e.LSN != 0 {
		text += fmt.Sprintf(" (%s)", strings.ReplaceAll(e.Where, "\n", "; "))
	}
	return text
}

func (e *ServerError) Unwrap() error { return e.PgError }

// contextLSN finds the position in an error's context, which output_plugin_error_callback
// in PostgreSQL's logical.c writes: slot "…", output plugin "…", in the … callback,
// associated LSN X/X. The words are translated.
var contextLSN = regexp.MustCompile(`"pgoutput".*[^0-9A-Fa-f/]([0-9A-F]{1,8}/[0-9A-F]{1,8})\b`)

// serverError decodes an ErrorResponse.
func serverError(body []byte) error {
	var m pgproto3.ErrorResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	e := &ServerError{PgError: pgconn.ErrorResponseToPgError(&m)}
	if found := contextLSN.FindStringSubmatch(e.Where); found != nil {
		e.LSN, _ = pglogrepl.ParseLSN(found[1]) // it has the form of one
	}
	for _, text := range []*string{&e.Message, &e.Detail, &e.Hint, &e.Where, &e.InternalQuery} {
		*text = cut(*text)
	}
	return e
}

// notice looks at what the server says beside the stream. One is an error: that a
// publication did not exist when events were written. Before PostgreSQL 18 the
// server made it one itself; since then it warns, and passes the events over. It
// shares its SQLSTATE with others, and messages are translated, so what tells it
// apart is the function that it comes from.
//
// Other warnings say what the server waits for, above all for a standby of
// synchronized_standby_slots, and are logged.
func (s *Stream) notice(body []byte) error {
	var m pgproto3.NoticeResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	if m.Code == objectNotInPrerequisiteState && m.Routine == "LoadPublications" {
		return fmt.Errorf("%w: %s; %s", errPublicationMissed, cut(m.Message), cut(m.Detail))
	}
	if skipped, ok := s.warnings.admit(m.Message, time.Now()); ok {
		e := s.log.Warn().Str("detail", cut(m.Detail)).Str("hint", cut(m.Hint))
		if skipped > 0 {
			e.Int("not_logged", skipped)
		}
		e.Msg("PostgreSQL warns: " + cut(m.Message))
	}
	return nil
}
