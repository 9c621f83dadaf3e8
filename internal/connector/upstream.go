package connector

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/backfill"
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
	// ReplaceSlot lets the next Snapshot replace the slot: see replication.Conn.
	ReplaceSlot()
	// Snapshot returns nil when the slot is there.
	Snapshot(ctx context.Context) (Snapshot, error)
	Verify(ctx context.Context, was offsets.Outbox, slot *offsets.Slot) error
	Outbox(was offsets.Outbox) offsets.Outbox
	Compared(ctx context.Context, err error, was offsets.Outbox) error
	WarnTable()
	WarnMoves()
	System() (systemID string, timeline int32)
	// FollowTimeline returns nil for a primary.
	FollowTimeline() Timeline
	Catalog() replication.Catalog
	Keeps() time.Duration
	Backend() replication.Backend
	Stream(ctx context.Context, start, confirmed pglogrepl.LSN, memory *replication.Memory) (Stream, error)
	// Inspect changes nothing. StartCopy streams from a copy of the slot, which ends with
	// the stream.
	Inspect(ctx context.Context) (offsets.Server, error)
	StartCopy(ctx context.Context, start pglogrepl.LSN, memory *replication.Memory) (Stream, error)
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

// Timeline follows that of a standby: see replication.Timeline.
type Timeline interface {
	Now(ctx context.Context) (timeline int32, same bool, err error)
	Close()
}

// Snapshot is the outbox as it is where a slot begins: see replication.Snapshot.
type Snapshot interface {
	At() pglogrepl.LSN
	Rows(ctx context.Context, t decoder.Table, memory *replication.Memory) (*backfill.Reader, error)
	Watch(ctx context.Context) error
	MakeSlot(ctx context.Context) error
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

func (c postgres) StartCopy(ctx context.Context, start pglogrepl.LSN, memory *replication.Memory) (Stream, error) {
	s, err := c.Conn.StartCopy(ctx, start, memory)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c postgres) FollowTimeline() Timeline {
	if t := c.Conn.FollowTimeline(); t != nil {
		return t
	}
	return nil
}

func (c postgres) Snapshot(ctx context.Context) (Snapshot, error) {
	s, err := c.Conn.Snapshot(ctx)
	if s == nil || err != nil {
		return nil, err
	}
	return snapshot{s}, nil
}

// snapshot is one of a server.
type snapshot struct{ *replication.Snapshot }

func (s snapshot) At() pglogrepl.LSN { return s.LSN }

func (s snapshot) Rows(ctx context.Context, t decoder.Table, memory *replication.Memory) (*backfill.Reader, error) {
	filter, err := s.Filter(ctx)
	if err != nil {
		return nil, err
	}
	pg, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	o := backfill.Options{
		Schema: t.Schema, Table: t.Name, Filter: filter, Slot: s.LSN,
		Timestamp: t.Columns[decoder.Timestamp].Name, ID: t.Columns[decoder.ID].Name,
	}
	for _, c := range t.Columns {
		if c.Name != "" && !slices.Contains(o.Columns, c.Name) {
			o.Columns = append(o.Columns, c.Name)
		}
	}
	return backfill.Open(ctx, pg, o, memory)
}
