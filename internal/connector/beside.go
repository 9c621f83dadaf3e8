package connector

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/jackc/pglogrepl"
)

// Beside works on the outbox table beside a stream, with rows that Kafka has
// acknowledged. It is used by one session at a time.
type Beside interface {
	// Check judges the set-up before a session makes or reads anything. A
	// replication.ErrSetup ends the run.
	Check(ctx context.Context) error
	// Run works until ctx ends. delivered is what delivered.LSN returns.
	Run(ctx context.Context, addr net.Addr, delivered func() pglogrepl.LSN)
}

// delivered is the position up to which a session has delivered every transaction that
// committed a row of the outbox. That is less than what is acknowledged and stored: a row
// that was written while the table was not published is in no stream, so that a position
// counts only once a later look has found the table published all the time.
type delivered struct {
	stored, seen atomic.Uint64
}

// store notes a position that is acknowledged and stored.
func (d *delivered) store(lsn pglogrepl.LSN) { d.stored.Store(uint64(lsn)) }

// begin notes what a look that begins now would prove; pass is called if it passes.
func (d *delivered) begin() (pass func()) {
	stored := d.stored.Load()
	return func() { d.seen.Store(max(stored, d.seen.Load())) }
}

// LSN returns the position. Any goroutine may call it.
func (d *delivered) LSN() pglogrepl.LSN { return pglogrepl.LSN(d.seen.Load()) }
