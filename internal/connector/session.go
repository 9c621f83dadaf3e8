package connector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/deadletter"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/guarantee"
	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/internal/uptime"
	"outboxd/offsets"
	"outboxd/sink"
)

// session is the work of one replication connection. Its fields belong to the
// goroutine of run, but for committer and keeper, which the goroutine of
// keepPositions uses while the session streams.
type session struct {
	p         *Connector
	stream    Stream
	source    *walSource
	flow      *flow.Flow
	sink      *sink.Kafka
	tracker   *offsets.Tracker
	committer *offsets.Committer
	keeper    guarantee.Keeper

	// acked is what may be confirmed to PostgreSQL once a look finds the outbox
	// published; nil at first. lookDue has room for one, see look.go.
	acked   atomic.Pointer[offsets.Confirmed]
	lookDue chan struct{}
	looks   looks
	// delivered is for who works beside the session.
	delivered delivered
	// storing is since when a position is being stored, as of uptime.Of, 0 when none is:
	// another goroutine watches it.
	storing atomic.Int64
}

// session opens one replication connection and streams over it until ctx ends
// (nil, or ErrUnclean) or a fault.
func (p *Connector) session(ctx context.Context) error {
	if err := p.prepareDeadLetters(ctx); err != nil {
		return err
	}
	if err := p.mayBegin(ctx); err != nil {
		return err
	}
	if !p.guarantee.Transactional() && !p.loaded {
		if err := p.load(ctx); err != nil {
			return err
		}
	}
	if p.o.Beside != nil {
		if err := p.o.Beside.Check(ctx); err != nil {
			return err
		}
	}
	if err := p.backfill(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return p.runSession(ctx, ctx)
}

// runSession is the part of a session that has the connection, which is made under connecting.
// Where ctx has ended it reads no more than a stop reads.
func (p *Connector) runSession(ctx, connecting context.Context) error {
	stream, err := p.connect(connecting)
	if err != nil {
		return err
	}
	defer p.unfollow()
	s, err := p.newSession(stream)
	if err != nil {
		stream.Close()
		return err
	}
	s.source.stopping = ctx.Err() != nil
	if p.timeline != nil {
		s.committer.Follow(p.timeline.Now)
	}
	p.o.Status.Streaming(&status.Gauges{
		InFlightEvents: p.sink.InFlight,
		InFlightBytes:  p.inFlightBytes(),
		ReceivedLSN:    stream.Received,
		Confirmed:      func() pglogrepl.LSN { return s.tracker.Confirmed().LSN() },
		OldestUnacked:  p.sink.Waiting,
		UnackedTopics:  p.sink.UnackedTopics,
		Alive:          stream.Alive,
		Busy:           stream.Busy,
	})
	return s.run(ctx)
}

// mayBegin reports whether a session may begin: after the sink has failed, another
// process may have taken over.
func (p *Connector) mayBegin(ctx context.Context) error {
	if p.sink != nil {
		return nil
	}
	p.published = decoder.Position{}
	return p.guarantee.Check(ctx, p.known)
}

// newSession joins the stages behind a stream.
func (p *Connector) newSession(stream Stream) (*session, error) {
	o, err := p.stages()
	if err != nil {
		return nil, err
	}
	s := &session{p: p, stream: stream, sink: p.sink, lookDue: make(chan struct{}, 1), looks: looks{outbox: p.known.Outbox}}
	s.tracker = offsets.NewTrackerInside(p.known.LSN, p.known.Inside)
	s.committer = offsets.NewCommitter(s.tracker, p.o.Store, *p.known, s.mayConfirm)
	s.committer.HoldBack(p.o.Rewind, p.o.Now)
	s.keeper = p.guarantee.Begin(guarantee.Session{
		Tracker: s.tracker, Commit: s.commit, At: *p.known, Every: p.o.ConfirmEvery, Stop: p.limits.all,
		Due: s.lookSoon, Confirmed: p.o.Status.Confirmed,
	})
	s.source = &walSource{stream: stream, waiting: p.limits.acks}
	if !p.covers(p.sent) && !p.lacking {
		s.source.finish = p.sent.CommitLSN
	}
	p.refused.Forget(p.known.LSN)
	o.Source, o.Tracker, o.Skip, o.Refused = s.source, s.tracker, p.published, p.refused
	if gate := s.keeper.Gate(); gate != nil {
		o.Gate, o.Wait = gate, s.source.wait
	}
	s.flow = flow.New(o)
	s.source.flow = s.flow
	p.observer.At(stream.Addr())
	return s, nil
}

// run streams, and ends the session in the way that fits why streaming ended.
func (s *session) run(ctx context.Context) error {
	before := s.p.published
	// PostgreSQL is served also while an event waits for an answer of others.
	s.sink.WaitWith(s.source.wait)
	err := s.streamUntil(ctx)
	s.sink.WaitWith(nil)
	s.p.reading = s.flow.Reading()
	if s.p.published = s.flow.Published(); s.p.published != before && s.p.published.After(s.p.sent) {
		s.p.sent = s.p.published
	}
	s.p.o.Status.Stopped()
	switch {
	case errors.Is(err, ErrPanic):
		// What it has left half done is given up.
		s.abandon(settleLimit)
	case s.sink.Err() != nil:
		// Nothing behind the failed event may be confirmed, and what is still
		// in flight arrives before the next session, or not.
		err = s.sinkFailed()
	case ctx.Err() != nil:
		err = s.drain()
	case errors.Is(err, flow.ErrPoison) || errors.Is(err, deadletter.ErrTooMany) || errors.Is(err, format.ErrSchemaRefused):
		// What came before the event is delivered and confirmed, so that the
		// event is the first thing that the next start meets.
		if unclean := s.drain(); unclean != nil {
			s.p.log.Warn().Err(unclean).Msg("events before the one that cannot be delivered were not all confirmed")
		}
	default:
		if unclean := s.settle(); unclean != nil {
			err = unclean
		}
	}
	s.stream.Close()
	return s.dated(err)
}

// streamUntil moves events until a fault or the end of ctx.
func (s *session) streamUntil(ctx context.Context) (err error) {
	var background sync.WaitGroup
	defer background.Wait()
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	background.Go(func() { s.interrupt(inner, ctx) })
	background.Go(s.goBackground(inner, s.keepPositions))
	background.Go(s.goBackground(inner, s.observe))
	background.Go(s.goBackground(inner, func(ctx context.Context) { s.p.watch(ctx, s.sink, &s.storing) }))
	if beside := s.p.o.Beside; beside != nil {
		background.Go(s.goBackground(inner, func(ctx context.Context) { beside.Run(ctx, s.stream.Addr(), s.delivered.LSN) }))
	}
	defer s.recovered(&err)
	return advised(replication.Explain(s.flow.Run(), s.p.o.Source))
}

// interrupt ends the reading of frames from outside.
func (s *session) interrupt(inner, ctx context.Context) {
	select {
	case <-ctx.Done():
		s.stream.Interrupt(errStopping)
	case <-s.sink.Failed():
		s.tracker.Fail()
		s.stream.Interrupt(s.sink.Err())
		return
	case <-inner.Done():
		return
	}
	select {
	case <-s.p.limits.acks.Done():
		s.stream.Interrupt(context.Cause(s.p.limits.acks))
	case <-s.sink.Failed():
		s.tracker.Fail()
		s.stream.Interrupt(s.sink.Err())
	case <-inner.Done():
	}
}

// keepPositions stores positions while the session streams.
func (s *session) keepPositions(ctx context.Context) {
	if err := s.keeper.Run(ctx); err != nil {
		s.stream.Interrupt(err)
	}
}

// commit is the committer's, watched.
func (s *session) commit(ctx context.Context) (offsets.Position, error) {
	s.storing.Store(int64(uptime.Of(time.Now())))
	defer s.storing.Store(0)
	at, err := s.committer.Commit(ctx)
	if err == nil {
		s.delivered.store(at.LSN)
	}
	return at, err
}

// sinkFailed ends the sink. The next session starts from what was confirmed.
func (s *session) sinkFailed() error {
	err := s.sink.Err()
	s.abandon(settleLimit)
	var failed *sink.FailedError
	if errors.As(err, &failed) && errors.Is(err, sink.ErrUndeliverable) {
		// What was in flight before it is sent again, and then it is the first thing that
		// is not confirmed.
		s.p.refusedLate(failed)
		return &sink.FailedError{Err: fmt.Errorf("%v; what was not acknowledged before it is sent again", err)}
	}
	return err // with exactly_once the next session asks what is committed
}

// abandon ends the sink with what is in flight in it, after the brokers' answers to what they
// have been sent, which it waits for no longer than answers says.
func (s *session) abandon(answers time.Duration) {
	s.tracker.Fail()
	s.p.replaceSink(answers)
	_ = s.finalCommit(s.p.limits.all, false) // logged, and kept in unstored
}

// settleLimit is how long Kafka may take to acknowledge what was sent before the
// stream ended. The slot is free meanwhile, and another process may take over: what
// arrives later may arrive behind newer events of its keys. It is also how long the
// brokers may take to answer what a sink has sent that is replaced.
const settleLimit = 10 * time.Second

// settle follows on a fault of PostgreSQL: everything sent is waited for, so
// that the next session can resume behind it. What Kafka does not acknowledge in
// time is abandoned, and sent again by who has the slot next.
func (s *session) settle() error {
	s.stream.Close() // the slot is free for the next session, or another process
	select {
	case <-s.tracker.Drained():
		err := s.finalCommit(s.p.limits.all, true)
		if doubt := (*guarantee.Doubt)(nil); errors.As(err, &doubt) {
			return s.uncommitted(err)
		}
		return nil
	case <-time.After(settleLimit):
		n := s.sink.InFlight()
		s.abandon(0)
		return &sink.FailedError{Err: fmt.Errorf("the stream has ended and Kafka has not acknowledged %d events for %s: they are abandoned, and published again after the last confirmed position", n, settleLimit)}
	case <-s.sink.Failed():
		return s.sinkFailed()
	case <-s.p.limits.acks.Done():
		_ = s.finalCommit(s.p.limits.all, false)
		return s.undelivered()
	}
}

// uncommitted ends a session whose last transaction is in doubt.
func (s *session) uncommitted(err error) error {
	if s.sink.Err() != nil {
		return s.sinkFailed()
	}
	s.p.closeSink()
	return err
}

// finalCommit stores what is confirmed at the end of a session, after keepPositions
// has ended. whole says that everything that was sent is acknowledged.
func (s *session) finalCommit(ctx context.Context, whole bool) error {
	at, err := s.keeper.Final(ctx, whole)
	if s.p.unstored = err; err != nil {
		s.p.log.Warn().Err(err).Msg("the last position was not stored; events after the stored one are published again")
		// See what is stored before the next session. Where the slot is the store, it has less
		// than is known here, and may be another standby's by then.
		s.p.shared = s.p.shared || s.p.o.Store != nil
	}
	if errors.Is(err, offsets.ErrUnknownTimeline) {
		// What was delivered since the last position may be of a timeline on which no other
		// server is: of a standby that was promoted by mistake, or for a test.
		s.p.published = decoder.Position{}
	}
	s.p.stored = s.p.stored || !at.Same(*s.p.known)
	*s.p.known = at
	s.p.streamedOn.Timeline = at.Timeline // that of a standby may have changed
	return err
}
