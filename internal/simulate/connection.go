package simulate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/connector"
	"outboxd/internal/replication"
	"outboxd/offsets"
)

// queryTimeout bounds a command that the network has swallowed.
const queryTimeout = 10 * time.Second

// connection is a process's connection to the server that does not stream yet. Its
// link is also the network between both: a command takes no time, and is answered only
// if the link lets it through.
type connection struct {
	s      *postgres
	host   *host
	p      *process
	link   *link
	pid    uint32
	system offsets.Server // as of the connection's start
	// replaces says that a snapshot may replace the slot.
	replaces bool
}

// connect connects a process, to the server of an address where that is not "".
func (s *postgres) connect(ctx context.Context, p *process, to address) (connector.Connection, error) {
	if err := p.gate(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c := &connection{s: s, p: p}
	s.mu.Lock()
	if s.down || to != "" && to != s.address {
		s.mu.Unlock()
		return nil, errRefused
	}
	s.pid++
	c.pid, c.host = s.pid, s.host
	c.link = newLink(p, "client", s.address, socketBytes)
	c.link.late = s.w.o.lateData()
	s.links = append(slices.DeleteFunc(s.links, (*link).ended), c.link)
	s.mu.Unlock()
	if err := p.add(c.link); err != nil {
		return nil, err
	}
	err := c.ask(ctx, func() { c.system = c.identify() })
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// ask runs a command on the server, which holds its lock.
func (c *connection) ask(ctx context.Context, run func()) error {
	if err := c.p.gate(); err != nil {
		return err
	}
	if err := c.link.passes(ctx, queryTimeout); err != nil {
		return err
	}
	c.s.mu.Lock()
	down := c.s.down || c.s.host != c.host
	if !down {
		run()
	}
	c.s.mu.Unlock()
	if down {
		return errRefused
	}
	if err := c.link.passes(ctx, queryTimeout); err != nil {
		return err // the answer is lost
	}
	return c.p.gate()
}

// identify says what the server is. The caller holds postgres.mu.
func (c *connection) identify() offsets.Server {
	s := c.s
	o := offsets.Server{SystemID: s.system, Timeline: s.timelineNow(), FlushLSN: s.flushed(), Standby: s.standby, SlotName: slotName}
	if o.Timeline > 1 {
		o.Switches = s.switches
		if o.Timeline < s.timeline {
			o.Switches = maps.Clone(s.switches)
			maps.DeleteFunc(o.Switches, func(left int32, _ pglogrepl.LSN) bool { return left >= o.Timeline })
		}
	}
	return o
}

// readSlot is the slot as pg_replication_slots has it. The caller holds postgres.mu.
func (c *connection) readSlot() *offsets.Slot {
	s := c.s.slot
	if s == nil {
		return nil
	}
	return &offsets.Slot{Name: slotName, ConfirmedFlush: s.confirmed, RestartLSN: c.s.restart(), WALStatus: "reserved", Active: s.sender != nil}
}

func (c *connection) EndStale(ctx context.Context, earlier replication.Backend) error {
	if earlier.PID == 0 {
		return nil
	}
	if err := c.ask(ctx, func() {}); err != nil {
		return err
	}
	c.s.terminate(earlier.PID)
	return nil
}

func (c *connection) Prepare(ctx context.Context, first bool) (offsets.Server, error) {
	var slot *offsets.Slot
	if err := c.ask(ctx, func() { slot = c.readSlot() }); err != nil {
		return offsets.Server{}, err
	}
	if slot == nil && first {
		var err error
		if slot, err = c.MakeSlot(ctx); err != nil {
			return offsets.Server{}, err
		}
	}
	server := c.system
	server.Slot = slot
	return server, nil
}

func (c *connection) Flushed(ctx context.Context) (at pglogrepl.LSN, err error) {
	err = c.ask(ctx, func() { at = c.s.flushed() })
	return max(at, c.system.FlushLSN), err
}

// MakeSlot waits for the transactions that are open.
func (c *connection) MakeSlot(ctx context.Context) (*offsets.Slot, error) {
	for {
		var slot *offsets.Slot
		var changed <-chan struct{}
		err := c.ask(ctx, func() {
			if changed = c.s.changed; len(c.s.open) > 0 {
				return
			}
			if c.s.slot == nil {
				c.s.makeSlot()
				c.s.w.verifier.madeSlot(c.p, c.s.slot.confirmed)
			}
			slot = c.readSlot()
		})
		if err != nil {
			return nil, err
		}
		if slot != nil {
			c.system.FlushLSN = max(c.system.FlushLSN, slot.ConfirmedFlush)
			return slot, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// published is what the outbox is in this world: it never changes.
var published = offsets.Outbox{Table: relationID, Publication: 16401, Entry: 16402}

func (c *connection) Verify(ctx context.Context, _ offsets.Outbox, _ *offsets.Slot) error {
	return c.ask(ctx, func() {})
}

func (c *connection) Outbox(was offsets.Outbox) offsets.Outbox {
	now := published
	now.Seen = was.Seen
	return now
}

func (c *connection) Compared(_ context.Context, err error, _ offsets.Outbox) error { return err }
func (c *connection) WarnTable()                                                    {}
func (c *connection) WarnMoves()                                                    {}
func (c *connection) System() (string, int32)                                       { return c.system.SystemID, c.system.Timeline }

// FollowTimeline asks over a connection of its own, as replication.Timeline does.
func (c *connection) FollowTimeline() connector.Timeline {
	if !c.system.Standby {
		return nil
	}
	return &follower{s: c.s, p: c.p, to: c.host.address}
}

type follower struct {
	s    *postgres
	p    *process
	to   address
	conn connector.Connection
}

func (f *follower) Now(ctx context.Context) (timeline int32, same bool, err error) {
	if same = f.conn != nil; !same {
		if f.conn, err = f.s.connect(ctx, f.p, f.to); err != nil {
			f.conn = nil
			return 0, false, err
		}
	}
	latency := f.s.w.o.latency[postgresSide]
	time.Sleep(latency[0])
	if err := f.conn.(*connection).ask(ctx, func() { timeline = f.s.timelineNow() }); err != nil {
		f.Close()
		return 0, false, err
	}
	time.Sleep(latency[1])
	return timeline, same, nil
}

func (f *follower) Close() {
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
}

func (c *connection) Catalog() replication.Catalog {
	attributes := make(map[string]replication.Attribute, len(columns))
	for _, name := range columns {
		attributes[name] = replication.Attribute{Modifier: -1, Type: "text"}
	}
	return replication.Catalog{Database: "shop", Attributes: attributes}
}

// Keeps is what replication.Conn makes of wal_sender_timeout.
func (c *connection) Keeps() time.Duration {
	if c.s.timeout == 0 {
		return 30 * time.Second
	}
	return c.s.timeout - min(10*time.Second, c.s.timeout/3)
}

func (c *connection) Backend() replication.Backend {
	return replication.Backend{PID: c.pid, Started: pidText(c.pid)}
}

func (c *connection) Stream(ctx context.Context, start, confirmed pglogrepl.LSN, memory *replication.Memory) (connector.Stream, error) {
	var sender *walsender
	var refused error
	err := c.ask(ctx, func() {
		switch s := c.s; {
		case s.slot == nil:
			refused = fmt.Errorf("start replication: slot %q does not exist", slotName)
		case s.slot.sender != nil:
			refused = replication.SlotInUse(fmt.Errorf("it is active for PID %d", s.slot.sender.pid))
		default:
			s.w.note("%s: streams from %s (slot at %s, walsender %d)", c.p.name, start, s.slot.confirmed, c.pid)
			s.w.verifier.started(c.p, s.slot, start)
			sender = s.streamFrom(c.link, c.pid, start)
		}
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return replication.Over(c.link.client, memory, c.s.timeout, start, confirmed, c.system.FlushLSN, sender.look(c), c.readBack), nil
}

// look is what the process asks over a second connection when the stream is silent.
func (w *walsender) look(c *connection) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		beside, err := c.s.connect(ctx, c.p, c.host.address)
		if err != nil {
			return "", err
		}
		defer beside.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case w.ended:
			return "", errors.New("its process has ended")
		case time.Now().Before(w.busyUntil):
			return "its process is running", nil
		}
		return "", errors.New("its process waits and would have answered, so the connection to it is broken")
	}
}

// readBack waits until the slot has a position.
func (c *connection) readBack(ctx context.Context, want pglogrepl.LSN) error {
	beside, err := c.s.connect(ctx, c.p, c.host.address)
	if err != nil {
		return fmt.Errorf("read back the slot's position: %w", err)
	}
	defer beside.Close()
	for {
		var have pglogrepl.LSN
		if err := beside.(*connection).ask(ctx, func() {
			if c.s.slot != nil {
				have = c.s.slot.confirmed
			}
		}); err != nil {
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

func (c *connection) Close() { _ = c.link.client.Close() }

// observer looks at the outbox, which never changes, over a connection that it keeps, and
// opens another when that has failed.
type observer struct {
	s *postgres
	p *process
	// at is where the process streams from.
	at atomic.Value

	mu   sync.Mutex
	kept *connection // nil: none, or somebody uses it
}

// keep keeps a connection, nil for none, and returns the one before.
func (o *observer) keep(c *connection) *connection {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.kept
	o.kept = c
	return was
}

func (o *observer) Close() {
	if c := o.keep(nil); c != nil {
		c.Close()
	}
}

// At is called at the beginning of each session.
func (o *observer) At(server net.Addr) {
	o.at.Store(server)
	o.s.w.verifier.begun(o.p)
}

// ask asks the server something.
func (o *observer) ask(ctx context.Context) error {
	to, _ := o.at.Load().(address)
	c := o.keep(nil)
	if c != nil && (c.link.ended() || to != "" && to != c.host.address) {
		c.Close()
		c = nil
	}
	if c == nil {
		made, err := o.s.connect(ctx, o.p, to)
		if err != nil {
			return err
		}
		c = made.(*connection)
	} else if err := c.ask(ctx, func() {}); err != nil {
		c.Close()
		return err
	}
	if other := o.keep(c); other != nil {
		other.Close()
	}
	return nil
}

func (o *observer) Look(ctx context.Context, was offsets.Outbox) (offsets.Outbox, bool, error) {
	if err := o.ask(ctx); err != nil {
		return was, false, err
	}
	return published, false, nil
}

func (o *observer) Health(ctx context.Context) (*replication.Health, error) {
	if err := o.ask(ctx); err != nil {
		return nil, err
	}
	return &replication.Health{Safe: -1, WALStatus: "reserved"}, nil
}
