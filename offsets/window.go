package offsets

import (
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
)

// ErrOutsideWindow is the reason of a RefusedError for a position that the slot
// cannot go back to, or that is not written yet.
var ErrOutsideWindow = errors.New("the WAL cannot be read from there")

// ErrSkips is the reason of a RefusedError for a position that the operator named
// and that would skip events.
var ErrSkips = errors.New("events would be skipped")

// Skips refuses to start at from instead of at the stored position, if that would
// skip what lies between.
func Skips(from, stored pglogrepl.LSN) error {
	if from <= stored {
		return nil
	}
	return &RefusedError{ErrSkips,
		fmt.Sprintf("--from-lsn %s is beyond the stored position %s, and transactions that were committed between were not published", from, stored),
		"add --accept-gap if they are to be skipped, or start without --from-lsn"}
}

// Window is the range of commit LSNs that a server can still decode: PostgreSQL
// decodes nothing before a slot's confirmed position.
type Window struct {
	From pglogrepl.LSN // inclusive: the slot's confirmed position
	To   pglogrepl.LSN // exclusive: the end of the WAL
}

// WindowOf returns what the server can decode for the slot.
func WindowOf(server Server) (Window, error) {
	if _, err := Resume(nil, server); err != nil {
		return Window{}, err
	}
	return Window{server.Slot.ConfirmedFlush, server.FlushLSN}, nil
}

// Contains refuses a position outside the window. The end of the WAL is inside:
// what comes next will be there.
func (w Window) Contains(lsn pglogrepl.LSN) error {
	if lsn < w.From || lsn > w.To {
		return &RefusedError{ErrOutsideWindow,
			fmt.Sprintf("%s is outside of %s to %s, which is what the slot still has", lsn, w.From, w.To),
			"name a position in that range; delivery.rewind makes it larger from now on"}
	}
	return nil
}
