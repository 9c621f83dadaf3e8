package connector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outboxd/decoder"
	"outboxd/internal/guarantee"
	"outboxd/internal/replication"
	"outboxd/offsets"
)

// connect opens the connection, decides where to resume, and starts to stream.
func (p *Connector) connect(ctx context.Context) (Stream, error) {
	conn, err := p.open(ctx, p.o.Source)
	if err != nil {
		return nil, err
	}
	stream, err := p.start(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	p.backend = conn.Backend()
	p.standingBy = false
	p.log.Info().Stringer("lsn", p.known.LSN).Str("slot", p.o.Source.Slot).Msg("streaming")
	return stream, nil
}

// start does the steps of offsets.Decide, and streams from where it says.
func (p *Connector) start(ctx context.Context, conn Connection) (Stream, error) {
	if err := conn.EndStale(ctx, p.backend); err != nil {
		return nil, err
	}
	server, err := p.prepare(ctx, conn)
	if err != nil {
		return nil, err
	}
	if server.Slot != nil && server.Slot.ConfirmedFlush > p.sent.CommitLSN {
		p.settled = p.sent // whoever has confirmed it
	}
	s := p.situation(server)
	for {
		s.Known, s.Shared, s.Lost, s.Unclaimed = p.known, p.shared, p.lost, p.guarantee.Unclaimed()
		d, err := offsets.Decide(s)
		if err != nil {
			return nil, err
		}
		p.shared = d.Shared
		switch d.Step {
		case offsets.Wait:
			p.guarantee.Replaced()
			return nil, replication.SlotInUse(d.Reason)
		case offsets.AcquireID:
			err = p.acquire(ctx, 0)
			s.ID, s.Delivered = offsets.AcquiredID, offsets.Event{}
		case offsets.ReadStore:
			if err = p.load(ctx); err == nil {
				s.Server.FlushLSN, err = conn.Flushed(ctx)
			}
			s.Read = true
		case offsets.CreateSlot:
			s.Refused = d.Reason
			if s.Server.Slot, err = conn.MakeSlot(ctx); err == nil {
				s.Server.FlushLSN = max(s.Server.FlushLSN, s.Server.Slot.ConfirmedFlush)
			}
		case offsets.AskElsewhere:
			s.Elsewhere, s.Asked = p.askElsewhere(ctx), true
		case offsets.VerifyOutbox:
			s.Outbox, err = p.verify(ctx, conn, &s.Server)
			s.Verified = true
		case offsets.Stream:
			p.lacking = p.sent.CommitLSN >= s.Server.FlushLSN
			return p.stream(ctx, conn, d)
		}
		if err != nil {
			return nil, err
		}
	}
}

// situation is what is known at the beginning of a start.
func (p *Connector) situation(server offsets.Server) offsets.Situation {
	s := offsets.Situation{
		Server: server, Store: p.o.Store != nil, Transactional: p.guarantee.Transactional(), Delivered: offsets.Event(p.published), On: p.streamedOn,
		AcceptGap: p.o.AcceptGap, From: p.o.From, Rewind: p.o.Rewind != (offsets.Rewind{}),
	}
	if p.sink != nil {
		s.ID = offsets.HeldID
	}
	return s
}

// acquire replaces the sink by one that has the transactional id. timeout is that of its
// transactions, 0 for the guarantee's.
func (p *Connector) acquire(ctx context.Context, timeout time.Duration) error {
	p.closeSink()
	p.published = decoder.Position{}
	if err := p.openSink(timeout); err != nil {
		return err
	}
	if err := p.guarantee.Acquire(ctx, p.sink); err != nil {
		p.closeSink()
		return err
	}
	return nil
}

// stream starts to stream where it was decided to.
func (p *Connector) stream(ctx context.Context, conn Connection, d offsets.Decision) (Stream, error) {
	for _, n := range d.Notes {
		p.note(n)
	}
	if err := p.follow(ctx, conn, d.Position.Timeline); err != nil {
		return nil, err
	}
	// Also if the next step fails: from here on a slot that vanishes is not replaced.
	p.known, p.published = &d.Position, decoder.Position(d.Skip)
	stream, err := conn.Stream(ctx, d.Position.LSN, d.Confirmed, p.memory)
	if err != nil {
		p.unfollow()
		p.shared = p.shared || errors.Is(err, replication.ErrSlotActive)
		return nil, err
	}
	p.streamedOn = offsets.History{SystemID: d.Position.SystemID, Timeline: d.Position.Timeline}
	if d.Save {
		saving, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if err := p.o.Store.Save(saving, d.Position); err != nil {
			stream.Close()
			p.unfollow()
			if doubt := (*guarantee.Doubt)(nil); errors.As(err, &doubt) {
				p.closeSink()
			}
			return nil, &guarantee.StoreError{Err: fmt.Errorf("store position %s: %w", d.Position, err)}
		}
		p.stored = true
	}
	p.confirmedToServer = d.Confirmed
	conn.WarnTable()
	p.moves.Do(conn.WarnMoves)
	p.shared, p.unstored, p.lost = p.guarantee.SharedStore(), nil, false
	p.o.AcceptGap, p.o.From = false, 0 // they are for the start only
	return stream, nil
}

// note warns of something that a start does.
func (p *Connector) note(n offsets.Note) {
	event := p.log.Warn()
	if n.Err != nil {
		event.Err(n.Err)
	}
	if n.Store != "" {
		event.Str("store", n.Store)
	}
	for _, at := range n.At {
		event.Stringer(at.Name, at.LSN)
	}
	event.Msg(n.Message)
}

// askElsewhere looks into the stores that are not used.
func (p *Connector) askElsewhere(ctx context.Context) (there []offsets.Stored) {
	for _, e := range p.o.Elsewhere {
		stored, err := e.Ask(ctx)
		if err != nil {
			p.log.Debug().Err(err).Str("store", e.Name).Msg("whether another store has a position of the slot is not known")
			continue
		}
		there = append(there, stored)
	}
	return there
}

// prepare sees to the publication and the slot, and says what the server is. A slot
// is made only where no position is stored: also none that another process has stored
// since we looked, and if one does while the slot is made, its position counts.
func (p *Connector) prepare(ctx context.Context, conn Connection) (offsets.Server, error) {
	server, err := conn.Prepare(ctx, false)
	if err == nil && server.Slot == nil && (!p.loaded || p.known == nil) {
		err = p.load(ctx)
		switch {
		case err != nil:
		case p.known != nil: // who has stored it may have made the slot after we looked
			server, err = conn.Prepare(ctx, false)
		default:
			p.loaded = false // until it is known what others have stored meanwhile
			if server, err = conn.Prepare(ctx, true); err == nil {
				err = p.load(ctx)
			}
		}
		if err == nil && p.known != nil {
			server.FlushLSN, err = conn.Flushed(ctx) // read after what it is compared with
		}
	}
	if err == nil {
		p.catalog, p.slotHoldTime = conn.Catalog(), conn.Keeps()
	}
	return server, p.since(ctx, conn, err)
}

// storeTimeout bounds a save while nothing else goes on, loadTimeout a load.
const (
	storeTimeout = 10 * time.Second
	loadTimeout  = 40 * time.Second
)

// load makes known what the store holds: nil when there is nothing or no store.
func (p *Connector) load(ctx context.Context) error {
	if p.o.Store == nil {
		p.known = nil
	} else {
		loading, cancel := context.WithTimeout(ctx, loadTimeout)
		defer cancel()
		known, err := p.o.Store.Load(loading)
		if err != nil {
			return &guarantee.StoreError{Err: err}
		}
		p.stored = p.stored || known != nil
		if known == nil && p.known != nil {
			if p.stored { // else the first save has failed
				p.log.Warn().Stringer("position", p.known).Msg("the stored position is gone: the topic or file was deleted or emptied while outboxd runs; the position is stored again")
			}
			p.lost = true
			return nil
		}
		p.known = known
	}
	p.loaded = true
	return nil
}
