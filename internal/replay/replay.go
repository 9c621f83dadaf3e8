// Package replay is a past window of the WAL as a source of the flow.
package replay

import (
	"encoding/binary"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/flow"
	"outboxd/internal/replication"
	"outboxd/sink"
)

// Stream is a stream of the WAL that begins before the window.
type Stream interface {
	Next() (replication.Frame, error)
	Block() *replication.Block
}

// Source yields the transactions that were committed from one LSN on and before
// another, and then ends. One goroutine uses it.
type Source struct {
	stream   Stream
	from, to pglogrepl.LSN
	open     bool // inside a transaction
	before   bool // the open transaction was committed before from
}

// New returns a source of the window from from (inclusive) to to (exclusive), both
// commit LSNs.
func New(stream Stream, from, to pglogrepl.LSN) *Source {
	return &Source{stream: stream, from: from, to: to}
}

// Next returns the next message of the window. Of a transaction before it, it returns
// everything but the changes: what describes tables is needed later.
func (s *Source) Next() (flow.Frame, error) {
	for {
		frame, err := s.stream.Next()
		if err != nil {
			return flow.Frame{}, err
		}
		data := frame.Data
		switch {
		case frame.Kind == replication.Keepalive:
			if !s.open && frame.WALEnd >= s.to {
				return flow.Frame{}, flow.ErrEnd
			}
			continue
		case len(data) == 0: // the decoder says so
		case data[0] == 'B' && len(data) >= 9:
			commit := pglogrepl.LSN(binary.BigEndian.Uint64(data[1:]))
			if commit >= s.to {
				return flow.Frame{}, flow.ErrEnd
			}
			s.open, s.before = true, commit < s.from
		case data[0] == 'C':
			s.open, s.before = false, false
		case s.before && (data[0] == 'I' || data[0] == 'M'):
			continue
		}
		return flow.Frame{Data: data}, nil
	}
}

// Retain keeps the memory of the frame that Next returned last.
func (s *Source) Retain() sink.Memory {
	block := s.stream.Block()
	block.Retain()
	return block
}

// Counter is a sink that counts what it is given. A dry one sends nothing, and
// acknowledges at once.
type Counter struct {
	flow.Sink
	Dry bool

	Events       int
	Transactions int // with events
	last         pglogrepl.LSN
}

// Send counts the record and sends it.
func (c *Counter) Send(d *sink.Delivery) error {
	commit := d.Position.CommitLSN // of the event; after Send the delivery is the sink's
	if c.Dry {
		receipt, memory := d.Receipt, d.Memory
		c.Return()
		memory.Release(0)
		receipt.Acknowledge()
	} else if err := c.Sink.Send(d); err != nil {
		return err
	}
	c.Events++
	if commit != c.last {
		c.Transactions++
		c.last = commit
	}
	return nil
}
