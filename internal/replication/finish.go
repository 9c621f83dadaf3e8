package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/jackc/pglogrepl"
)

// Finish tells the server the confirmed position for the last time, reads it
// back, and closes the stream. What the server still sends is thrown away: a
// connection closed with unread bytes is reset, and the server might never read
// our last message.
func (s *Stream) Finish(ctx context.Context, o Options) error {
	defer s.Close()
	if err := s.send(time.Now(), false); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	readBack := s.readBack
	if readBack == nil {
		readBack = func(ctx context.Context, want pglogrepl.LSN) error {
			return waitConfirmed(ctx, s.conn.RemoteAddr(), o, want)
		}
	}
	done := make(chan error, 1)
	go func() { done <- readBack(ctx, pglogrepl.LSN(s.confirmed.Load())) }()
	scratch := make([]byte, 64<<10)
	for {
		select {
		case err := <-done:
			return err
		default:
		}
		if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return <-done
		}
		if _, err := s.conn.Read(scratch); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			// The server ended the stream. It may have taken the position
			// before that.
			return <-done
		}
	}
}

// waitConfirmed asks, over a connection of its own, until the slot has the
// position.
func waitConfirmed(ctx context.Context, addr net.Addr, o Options, want pglogrepl.LSN) error {
	pg, err := connectBeside(ctx, addr, o)
	if err != nil {
		return fmt.Errorf("read back the slot's position: %w", err)
	}
	defer closeSoon(pg)
	for {
		rows, err := query(ctx, pg, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = "+quote(o.Slot))
		if err != nil {
			return fmt.Errorf("read back the slot's position: %w", err)
		}
		if len(rows) == 0 {
			return fmt.Errorf("read back the slot's position: slot %q is gone", o.Slot)
		}
		have, err := pglogrepl.ParseLSN(rows[0][0])
		if err != nil {
			return fmt.Errorf("read back the slot's position: %w", err)
		}
		if have >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("read back the slot's position: it is %s instead of %s: %w", have, want, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
