package offsets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// Elsewhere is a place that the configuration names and does not use, where an
// earlier one may have kept the slot's position.
type Elsewhere struct {
	Name string
	// Peek returns the position there, nil when there is none or it may not be read.
	Peek func(ctx context.Context) (*Position, error)
}

// peekTimeout bounds the look at one place: a start does not depend on it.
const peekTimeout = 5 * time.Second

// ErrOtherStore is the reason of a RefusedError for a start that would publish again
// what another store says was published.
var ErrOtherStore = errors.New("another store has a newer position of this slot")

// Ask returns what the place has.
func (e Elsewhere) Ask(ctx context.Context) (Stored, error) {
	ask, cancel := context.WithTimeout(ctx, peekTimeout)
	defer cancel()
	there, err := e.Peek(ask)
	return Stored{e.Name, there}, err
}

// Refuse returns a *RefusedError if a start at this position would publish again what
// the place says was published, and another error if that is not known.
func (e Elsewhere) Refuse(ctx context.Context, server Server, start pglogrepl.LSN) error {
	there, err := e.Ask(ctx)
	if err != nil {
		return err
	}
	return there.refuse(server, start)
}

// refuse is Refuse for what is known of the place.
func (s Stored) refuse(server Server, start pglogrepl.LSN) error {
	there := s.Position
	if there == nil || there.SystemID != server.SystemID || there.Slot != server.SlotName || there.LSN <= start || there.LSN > server.FlushLSN {
		return nil
	}
	return &RefusedError{
		Reason: ErrOtherStore,
		Detail: fmt.Sprintf("%s has %s, and the start would be at %s: events between were published, and would be published again", s.Store, there, start),
		Hint:   "set delivery.store and delivery.guarantee as they were; or start with --accept-gap, if the events may come again",
	}
}
