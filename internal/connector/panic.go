package connector

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"outboxd/decoder"
	"outboxd/internal/replication"
)

// ErrPanic is wrapped by the error that a panic becomes. It is a defect of outboxd
// itself, and ends the run with exit code 1; what Go does with a panic that nobody
// recovers, and with a fatal error such as a stack overflow, is exit code 2.
var ErrPanic = errors.New("internal error")

// PanicError makes an error of a recovered panic. The stack is part of it.
func PanicError(recovered any, stack []byte) error {
	return &replication.Error{
		Err:  fmt.Errorf("%w: %v: %s", ErrPanic, recovered, stack),
		Hint: "this is a defect of outboxd: please report it with this line",
	}
}

// recovered makes an error of a panic in the stages, which an event may have caused.
// It is deferred by the goroutine that reads.
func (s *session) recovered(err *error) {
	r := recover()
	if r == nil {
		return
	}
	s.tracker.Fail() // what the panic has left half done is not confirmed
	cause := fmt.Errorf("%v", r)
	s.p.log.Error().Err(cause).Bytes("stack", debug.Stack()).Msg("internal error")
	id, at := s.flow.Last()
	*err = &replication.Error{
		Err:  fmt.Errorf("%w at event id %s at position %s: %w", ErrPanic, decoder.Excerpt(id), at, cause),
		Hint: "this is a defect of outboxd: please report it with the row; nothing after the event is confirmed; " + wayPast(at.CommitLSN),
	}
}

// goBackground runs f on a goroutine of its own, whose panic interrupts the stream.
func (s *session) goBackground(ctx context.Context, f func(ctx context.Context)) func() {
	return func() {
		defer func() {
			if r := recover(); r != nil {
				s.p.log.Error().Interface("panic", r).Bytes("stack", debug.Stack()).Msg("internal error")
				s.stream.Interrupt(fmt.Errorf("%w: %v; please report it with the log", ErrPanic, r))
			}
		}()
		f(ctx)
	}
}
