package connector

import (
	"context"
	"net"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/replication"
	"outboxd/offsets"
)

// Connection is what the pipeline needs of a replication connection that does not
// stream yet. One goroutine uses it.
type Connection interface {
	EndStale(ctx context.Context, earlier replication.Backend) error
	Prepare(ctx context.Context, first bool) (offsets.Server, error)
	Flushed(ctx context.Context) (pglogrepl.LSN, error)
	MakeSlot(ctx context.Context) (*offsets.Slot, error)
	Verify(ctx context.Context, was offsets.Outbox, slot *offsets.Slot) error
	Outbox(was offsets.Outbox) offsets.Outbox
	Compared(ctx context.Context, err error, was offsets.Outbox) error
	WarnTable()
	WarnMoves()
	System() (systemID string, timeline int32)
	FollowTimeline() *replication.Timeline
	Catalog() replication.Catalog
	Keeps() time.Duration
	Backend() replication.Backend
	Stream(ctx context.Context, start, confirmed pglogrepl.LSN, memory *replication.Memory) (Stream, error)
	Close()
}

// Stream is what a session needs of a connection that streams: see
// replication.Stream.
type Stream interface {
	Next() (replication.Frame, error)
	Block() *replication.Block
	Interrupt(err error)
	Resume(err error)
	ClearInterrupt()
	Addr() net.Addr
	Confirm(c offsets.Confirmed)
	Received() pglogrepl.LSN
	Alive() time.Time
	Busy() string
	Serve(ctx context.Context, done <-chan struct{}) error
	Finish(ctx context.Context, o replication.Options) error
	Close()
}

// Observer looks at the slot, the outbox table and its publication: see
// replication.Observer.
type Observer interface {
	At(addr net.Addr)
	Look(ctx context.Context, was offsets.Outbox) (now offsets.Outbox, changing bool, err error)
	Health(ctx context.Context) (*replication.Health, error)
	Close()
}

// postgres is a connection to a server.
type postgres struct{ *replication.Conn }

func openPostgres(ctx context.Context, o replication.Options) (Connection, error) {
	conn, err := replication.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	return postgres{conn}, nil
}

func (c postgres) Stream(ctx context.Context, start, confirmed pglogrepl.LSN, memory *replication.Memory) (Stream, error) {
	s, err := c.Start(ctx, start, confirmed, memory)
	if err != nil {
		return nil, err
	}
	return s, nil
}
