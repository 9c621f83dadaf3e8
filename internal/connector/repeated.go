package connector

import (
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/replication"
)

// repeatsAllowed is how often the same error of the server's decoding may end the
// stream at the same position before it is taken for one that stays.
const repeatsAllowed = 3

// repeated counts how often the stream ended in the same way.
type repeated struct {
	what  string
	times int
}

// decoding judges the end of a session. A row that the server cannot decode or send
// ends the stream again and again, at the same place: it is poison. commit is that of
// the transaction that was being read, 0 when none was; at is the position from which
// the next session reads it again.
func (r *repeated) decoding(err error, at, commit pglogrepl.LSN) error {
	server := (*replication.ServerError)(nil)
	if !errors.As(err, &server) || !staysWithTheData(server.Code) {
		r.times = 0
		return err
	}
	what := fmt.Sprint(server.Code, server.Message, server.Where, at)
	if what != r.what {
		r.what, r.times = what, 0
	}
	if r.times++; r.times < repeatsAllowed {
		return err
	}
	return advised(&flow.PoisonError{Position: decoder.Position{CommitLSN: commit}, Err: fmt.Errorf("the server cannot decode what follows on %s, %d times in the same way: %w", at, r.times, err)})
}

// staysWithTheData tells the classes of SQLSTATE that say something of the data: data
// exception, program limit exceeded, internal error and corrupted data. The others are
// of a time, such as a shutdown or a lack of resources, or have their own treatment.
func staysWithTheData(code string) bool {
	if len(code) != 5 {
		return false
	}
	switch code[:2] {
	case "22", "54", "XX":
		return true
	}
	return false
}
