package replication

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Start begins to stream after start, into memory. confirmed is what PostgreSQL is
// told until Stream.Confirm says more, and not after start. The replication connection
// belongs to the stream from then on, the other is closed, also after an error.
func (c *Conn) Start(ctx context.Context, start, confirmed pglogrepl.LSN, memory *Memory) (*Stream, error) {
	defer c.Close() // of what the stream does not take over
	if err := c.pg.SyncConn(ctx); err != nil {
		return nil, fmt.Errorf("start replication: %w", err)
	}
	hijacked, err := c.pg.Hijack()
	if err != nil {
		return nil, fmt.Errorf("start replication: %w", err)
	}
	s := streamFor(hijacked.Conn, c.o.pace(hijacked.Conn), memory, c.timeout, confirmed)
	s.log = c.o.Log
	s.sender.look = lookAt(hijacked.Conn.RemoteAddr(), c.o, c.backend)
	s.floor = max(uint64(start), uint64(c.system.XLogPos))
	limitUnacknowledged(hijacked.Conn, max(s.silentAfter, writeTimeout))
	stop := context.AfterFunc(ctx, func() { s.Interrupt(context.Cause(ctx)) })
	defer stop()
	if err := s.start(startSQL(c.o, start)); err != nil {
		s.Close()
		if sqlState(err) == objectInUse {
			return nil, SlotInUse(err)
		}
		return nil, fmt.Errorf("start replication: %w", err)
	}
	return s, nil
}

// StartCopy streams from a temporary copy of the slot, which ends with the
// connection: neither the slot nor who streams from it notices.
func (c *Conn) StartCopy(ctx context.Context, start pglogrepl.LSN, memory *Memory) (*Stream, error) {
	// A temporary slot belongs to the server process that made it, so it has to
	// be this one. The call reads nothing of the outbox's catalog: see Conn.
	name := fmt.Sprintf("%.40s_replay_%d", c.o.Slot, c.pg.PID())
	_, err := query(ctx, c.pg, fmt.Sprintf("SELECT pg_copy_logical_replication_slot(%s, %s, true)", quote(c.o.Slot), quote(name)))
	if err != nil {
		err = fmt.Errorf("copy replication slot %q: %w", c.o.Slot, err)
		if sqlState(err) == configurationLimitExceeded {
			err = &Error{err, freeSlot}
		}
		return nil, err
	}
	c.o.Slot = name
	return c.Start(ctx, start, start, memory)
}

// originNone of Options.Origin.
const originNone = "none"

// startSQL is the command that begins to stream. Options of pgoutput that are not wanted
// are not named, since older servers do not know them: messages is from PostgreSQL 14,
// origin from 16.
func startSQL(o Options, at pglogrepl.LSN) string {
	further := ""
	if o.MessagePrefix != "" {
		further += ", messages 'true'"
	}
	if o.Origin == originNone {
		further += ", origin 'none'"
	}
	return fmt.Sprintf(`START_REPLICATION SLOT "%s" LOGICAL %s (proto_version '1', publication_names '%s'%s)`,
		o.Slot, at, strings.ReplaceAll(QuoteIdent(o.Publication), "'", "''"), further)
}

// start sends START_REPLICATION and reads until the copy begins.
func (s *Stream) start(sql string) error {
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return err
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := s.conn.Write(query); err != nil {
		return err
	}
	// No status may go out before the copy has begun.
	s.lastStatus = time.Now().Add(time.Hour)
	for {
		m, err := s.message()
		if err != nil {
			return err
		}
		switch m[0] {
		case 'W':
			s.lastStatus = time.Now()
			s.statusDue.Store(true)
			return nil
		case 'E':
			return serverError(m[5:])
		case 'N', 'S':
		default:
			return fmt.Errorf("unexpected message %q", m[0])
		}
	}
}
