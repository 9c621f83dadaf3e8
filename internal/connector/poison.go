package connector

import (
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/deadletter"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/replication"
)

// advised adds to the error of an event that ends the run what to do about it.
func advised(err error) error {
	if poison := (*flow.PoisonError)(nil); errors.As(err, &poison) {
		return &replication.Error{
			Err: err,
			Hint: fmt.Sprintf("nothing after it is confirmed; fix the cause and start again, or set this event aside in the dead-letter topic with `%s`, or %s",
				deadletter.Command(poison.Position), wayPast(poison.Position.CommitLSN)),
		}
	}
	if advice := deadletter.Advice(err); advice != "" {
		return &replication.Error{Err: err, Hint: advice}
	}
	if errors.Is(err, format.ErrSchemaRefused) {
		return &replication.Error{
			Err:  err,
			Hint: "nothing after it is confirmed; fix the subject in the registry, or name another with value.avro.subject, and start again",
		}
	}
	return err
}

// wayPast says how to get past a transaction. Decoding begins with the first
// transaction whose commit record does not begin before the position, so that the
// next byte is past this one and before every other. (The position is only where to
// begin; what is confirmed is still what the server named.)
func wayPast(commit pglogrepl.LSN) string {
	if commit == 0 {
		return "start behind its transaction with `outboxd run --from-lsn LSN --accept-gap`, LSN being past its commit record (pg_waldump shows it)"
	}
	return fmt.Sprintf("skip the rest of its transaction with `outboxd run --from-lsn %s --accept-gap`", commit+1)
}
