package connector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outboxd/internal/replication"
	"outboxd/offsets"
)

// A row reaches the stream only if the table was published when the row was written,
// and PostgreSQL says nothing of those that do not. So before a position is
// confirmed to PostgreSQL, the catalog is looked at. What was received before a look that finds the
// outbox published as it was, by the same OIDs, was published: had it been removed
// before, it would still be, or have another OID.
//
// The bound is on what is confirmed to PostgreSQL, not on what is stored: a stored position is
// the end of what was delivered, which a missing row does not change, and the last
// look (offsets.Outbox.Seen) is stored with it. An exactly-once transaction therefore
// does not wait for a look. With the slot as the only store, its position is the last
// look's, and a start knows from it since when rows may be missing.

const (
	// lookAtLeast is how often the outbox is looked at when positions are confirmed
	// less often.
	lookAtLeast = 10 * time.Second
	// lookTimeout bounds a look.
	lookTimeout = 10 * time.Second
	// finalLookTimeout bounds the one of a stop.
	finalLookTimeout = 5 * time.Second
	// failingAfter is how long looks may fail before the operator hears of it.
	failingAfter = 5 * time.Second
	// changingLimit is how long positions are held back for a transaction that
	// changes the publication and does not end. It may wait for a synchronous standby
	// that we are: waiting for each other would be for ever.
	changingLimit = 10 * time.Second
)

// errChanging is why nobody knows what a look found.
var errChanging = errors.New("a transaction is changing the publication and has not ended (see pg_locks)")

// looks is the state of one session's looks. It belongs to one goroutine at a time.
type looks struct {
	outbox offsets.Outbox // as the last look found it
	// failing is when looks began to fail, zero when the last one passed.
	failing time.Time
	said    bool
}

// mayConfirm makes c what may be confirmed to PostgreSQL as far as Kafka and the store
// are concerned. The next look confirms it.
func (s *session) mayConfirm(c offsets.Confirmed) { s.acked.Store(&c) }

// lookSoon makes observe look now.
func (s *session) lookSoon() {
	select {
	case s.lookDue <- struct{}{}:
	default:
	}
}

// observe looks at the outbox until ctx ends, and confirms to PostgreSQL what may be
// confirmed.
// An outbox that is not published any more ends the session.
func (s *session) observe(ctx context.Context) {
	tick := time.NewTicker(lookAtLeast)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lookDue:
		case <-tick.C:
		}
		if _, err := s.look(ctx, lookTimeout); err != nil {
			s.stream.Interrupt(err)
			return
		}
	}
}

// look looks once. It returns an error if the outbox is not published any more, and
// otherwise why nobody knows; neither when the position was confirmed.
func (s *session) look(ctx context.Context, limit time.Duration) (unknown, err error) {
	acked, received, pass := s.acked.Load(), s.stream.Received(), s.delivered.begin()
	if acked != nil {
		received = max(received, acked.LSN())
	}
	ask, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v := &s.looks
	now, changing, err := s.p.observer.Look(ask, v.outbox)
	if gone := new(*replication.Unpublished); errors.As(err, gone) {
		return nil, err
	}
	if err == nil && changing {
		err = errChanging
	}
	if err == nil {
		pass()
	}
	if now.Publication != 0 { // else only messages are read, which depend on no table
		if now.Seen = v.outbox.Seen; err == nil {
			now.Seen = max(now.Seen, received)
		}
		v.outbox = now
		s.committer.Saw(now)
	}
	if replication.ShuttingDown(err) {
		// It waits until everything it sends is confirmed (wal_sender_timeout at most),
		// and has ended all sessions that could change the catalog. What one of them
		// changed since the last look, the next start finds: Seen stays behind it.
		err = nil
	}
	if ctx.Err() == nil {
		s.reportFailing(err)
	}
	if err != nil && !(changing && !v.failing.IsZero() && time.Since(v.failing) >= changingLimit) {
		return err, nil
	}
	if acked != nil {
		s.stream.Confirm(*acked)
		s.p.confirmedToServer = max(s.p.confirmedToServer, acked.LSN())
	}
	return nil, nil
}

// reportFailing says once that looks fail, and once that they pass again.
func (s *session) reportFailing(err error) {
	v := &s.looks
	switch {
	case err == nil && v.said:
		s.p.o.Status.Unobserved(nil)
		s.p.log.Info().Msg("the outbox table and its publication can be looked at again; positions are confirmed")
		fallthrough
	case err == nil:
		v.failing, v.said = time.Time{}, false
	case v.failing.IsZero():
		v.failing = time.Now()
	case !v.said && time.Since(v.failing) >= failingAfter:
		v.said = true
		err = fmt.Errorf("positions are not confirmed to PostgreSQL, because nobody can see whether the outbox table is still published: %w", err)
		s.p.o.Status.Unobserved(err)
		s.p.log.Warn().Err(err).Msg("the outbox table and its publication cannot be looked at; events are delivered, and PostgreSQL keeps their WAL")
	}
}

// finalLook confirms the last position of a stop to PostgreSQL.
func (s *session) finalLook(ctx context.Context) error {
	unknown, err := s.look(ctx, finalLookTimeout)
	if unknown != nil {
		return fmt.Errorf("nobody can see whether the outbox table is still published: %w", unknown)
	}
	return err
}

// verify compares what the start found published with what is remembered, and returns
// what is to be remembered.
func (p *Connector) verify(ctx context.Context, conn Connection, server *offsets.Server) (offsets.Outbox, error) {
	var was offsets.Outbox
	if p.known != nil && p.known.SystemID == server.SystemID {
		was = p.known.Outbox
	}
	err := conn.Verify(ctx, was, server.Slot)
	if gone := new(*replication.Unpublished); errors.As(err, gone) {
		err = p.since(ctx, conn, err)
		if !p.o.AcceptGap {
			return was, err
		}
		p.log.Warn().Err(err).Stringer("since", (*gone).Since).Msg("resuming with the outbox table as it is now (--accept-gap)")
	} else if err != nil {
		return was, err
	}
	now := conn.Outbox(was)
	if now.Publication != 0 {
		now.Seen = was.Seen
	}
	return now, nil
}

// since adds to an *replication.Unpublished up to where the outbox was published. With
// the slot as the only store that is the slot's position, which it has already.
func (p *Connector) since(ctx context.Context, conn Connection, err error) error {
	var gone *replication.Unpublished
	if !errors.As(err, &gone) || p.o.Store == nil {
		return err
	}
	if !p.loaded || p.shared {
		known := p.known
		if unknown := p.load(ctx); unknown != nil {
			p.known = known
			p.log.Warn().Err(unknown).Msg("the stored position cannot be read; the slot's own is named")
		}
	}
	system, _ := conn.System()
	switch known := p.known; {
	case known == nil || known.SystemID != system:
	case known.Outbox.Seen != 0:
		gone.Since = known.Outbox.Seen
	default:
		gone.Since = known.LSN
	}
	if known := p.known; known != nil && known.SystemID == system {
		return conn.Compared(ctx, err, known.Outbox)
	}
	return err
}

// dated adds to the error of a look up to where the outbox was published, as the next
// start will say it, too.
func (s *session) dated(err error) error {
	var gone *replication.Unpublished
	if errors.As(err, &gone) && gone.Since == 0 {
		if gone.Since = s.p.confirmedToServer; s.p.o.Store != nil {
			gone.Since = s.p.known.Outbox.Seen
		}
	}
	return err
}
