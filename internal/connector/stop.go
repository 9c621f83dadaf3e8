package connector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/guarantee"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/sink"
)

// A stop is one sequence:
//
//  1. The stream is interrupted (session.interrupt, errStopping).
//  2. A transaction that is being read is read to its end, so that nothing of it has to
//     be published again (walSource), and so is what an earlier session has published and
//     not confirmed. An event in it that waits for its topic or for the registry is waited
//     for.
//  3. Kafka acknowledges what was sent.
//  4. The position is stored.
//  5. It is confirmed to PostgreSQL, after a last look at the outbox.
//  6. It is read back.
//
// All of it has one deadline, Options.DrainTimeout after the signal; steps 2 and 3 end
// earlier, so that what Kafka did acknowledge can still be stored and confirmed. A
// second signal ends all of it at once. Where there is no session, finish does steps 4
// to 6 over new connections, and before them steps 2 and 3 where something is published
// that is not confirmed: after a fault of Kafka, or where a transaction was published in
// part when the last session broke.
//
// There is one rule for how a run that is told to stop ends (owes): nil, which is exit
// code 0, exactly if nothing that was published will be published again at the next
// start. drain and finish both end by it; where they cannot help that, the error is ErrUnclean.

// ErrUnclean is returned by a stop that had to leave events unacknowledged or
// the position unconfirmed: they are published again at the next start.
var ErrUnclean = errors.New("stopped before everything was acknowledged and confirmed")

var (
	// errStopping interrupts the stream when the run is told to stop.
	errStopping = errors.New("stopping")
	errHurry    = errors.New("a second signal ended the wait")
)

// storeShare is the part of DrainTimeout that is kept for storing and confirming.
const storeShare = 5

// limits are the contexts of a stop. Neither ends before the run is told to stop.
type limits struct {
	// acks ends when a stop no longer waits for acknowledgements, all when it waits
	// for nothing.
	acks, all context.Context
}

// limit starts the goroutine that ends the limits, which ends with the run.
func (p *Connector) limit(ctx, hurry context.Context) (release func()) {
	acks, endAcks := context.WithCancelCause(context.Background())
	all, endAll := context.WithCancelCause(context.Background())
	p.limits = limits{acks, all}
	released := make(chan struct{})
	p.background.Go(func() {
		defer endAcks(nil)
		defer endAll(nil)
		select {
		case <-ctx.Done():
		case <-released:
			return
		}
		total := p.o.DrainTimeout
		for _, step := range []struct {
			wait time.Duration
			end  context.CancelCauseFunc
		}{{total - total/storeShare, endAcks}, {total / storeShare, endAll}} {
			select {
			case <-time.After(step.wait):
				step.end(fmt.Errorf("not done within the %s that a stop may take", total))
			case <-hurry.Done():
				endAcks(errHurry)
				endAll(errHurry)
				return
			case <-released:
				return
			}
		}
	})
	return func() { close(released) }
}

// walSource is the stream of a session as the source of its flow. It knows when a stop
// may end the reading: between two transactions.
type walSource struct {
	stream   Stream
	flow     *flow.Flow
	stopping bool
	finish   pglogrepl.LSN   // a stop reads on to the end of the transaction of this commit, 0 when it has been met
	waiting  context.Context // ends a wait
}

// Next returns the next frame. A transaction that has begun when the stream is
// interrupted by errStopping is read to its end.
func (w *walSource) Next() (flow.Frame, error) {
	if reading := w.flow.Reading(); reading != 0 && reading >= w.finish {
		w.finish = 0
	}
	if w.stopping && w.between() {
		return flow.Frame{}, errStopping
	}
	for {
		frame, err := w.stream.Next()
		if err == nil {
			if frame.Data == nil && frame.WALEnd > w.finish {
				w.finish = 0 // it will not come any more
			}
			return flow.Frame{Data: frame.Data, WALEnd: frame.WALEnd}, nil
		}
		if !errors.Is(err, errStopping) || w.between() {
			return flow.Frame{}, err
		}
		w.resume()
	}
}

// between reports whether a stop may end here.
func (w *walSource) between() bool { return w.flow.Reading() == 0 && w.finish == 0 }

func (w *walSource) resume() {
	w.stopping = true
	w.stream.Resume(errStopping)
}

// Retain keeps the memory of the frame that Next returned last.
func (w *walSource) Retain() sink.Memory {
	block := w.stream.Block()
	block.Retain()
	return block
}

// wait serves PostgreSQL while an event waits for an answer of others. A stop does not
// end it where the event's transaction is published in part.
func (w *walSource) wait(done <-chan struct{}) error {
	for {
		err := w.stream.Serve(w.waiting, done)
		if !errors.Is(err, errStopping) || !w.flow.Begun() && w.finish == 0 {
			return err
		}
		w.resume()
	}
}

// drain is steps 3 to 6 of a stop with a session. Nothing more is read.
func (s *session) drain() error {
	total := s.p.o.DrainTimeout
	acks, cancel := context.WithTimeout(s.p.limits.acks, total-total/storeShare)
	defer cancel()
	all, cancelAll := context.WithTimeout(s.p.limits.all, total)
	defer cancelAll()

	served := s.awaitAcknowledgements(acks)
	if s.sink.Err() != nil && acks.Err() == nil {
		return s.sinkFailed() // finish tries again
	}
	stored := s.finalCommit(all, s.sink.InFlight() == 0)
	if doubt := (*guarantee.Doubt)(nil); errors.As(stored, &doubt) {
		if acks.Err() == nil {
			return s.uncommitted(stored) // here too
		}
		return fmt.Errorf("%w: the last transaction could not be committed, its events are published again at the next start: %w", ErrUnclean, stored)
	}
	if s.sink.InFlight() > 0 || s.sink.Err() != nil {
		return s.undelivered()
	}
	if errors.Is(stored, offsets.ErrUnknownTimeline) && acks.Err() == nil {
		return stored // and here
	}
	if stored != nil {
		return fmt.Errorf("%w: the last position could not be stored, events after the stored one are published again at the next start: %w", ErrUnclean, stored)
	}
	if err := s.confirmFinally(all, served); err != nil {
		return err
	}
	if !s.p.covers(s.p.sent) {
		return s.p.inPart()
	}
	s.p.settledNow()
	s.p.log.Info().Stringer("lsn", s.p.known.LSN).Msg("drained and confirmed")
	return nil
}

// awaitAcknowledgements serves PostgreSQL until Kafka has acknowledged everything, or
// the sink has failed, or ctx ends. It returns why PostgreSQL could not be served.
func (s *session) awaitAcknowledgements(ctx context.Context) (served error) {
	drained, done := s.tracker.Drained(), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-drained:
		case <-s.sink.Failed():
		case <-ctx.Done():
		}
	}()
	if n := s.sink.InFlight(); n > 0 {
		s.p.log.Info().Int64("in_flight_events", n).Msg("draining")
	}
	s.stream.ClearInterrupt() // it has done its work
	served = s.stream.Serve(ctx, done)
	<-done
	return served
}

// confirmFinally confirms the stored position and reads it back, unless PostgreSQL
// could not be served before.
func (s *session) confirmFinally(ctx context.Context, served error) error {
	looked := s.finalLook(ctx)
	if errors.Is(looked, replication.ErrSetup) {
		return looked
	}
	if served == nil {
		served = s.stream.Finish(ctx, s.p.o.Source)
	}
	if served == nil {
		served = looked
	}
	if served != nil {
		// The run tries over another connection, if there is time.
		return fmt.Errorf("the position %s could not be confirmed to PostgreSQL: %w", s.p.known.LSN, served)
	}
	return nil
}

// undelivered is the error of a stop that could not wait for Kafka.
func (s *session) undelivered() error {
	return fmt.Errorf("%w: %d events were sent and not acknowledged by Kafka; they are published again at the next start", ErrUnclean, s.sink.InFlight())
}

// inPart is the error of a stop inside a transaction, or before what the server has not got.
func (p *Connector) inPart() error {
	if p.lacking {
		return fmt.Errorf("%w: this server has not got what was published last, up to %s; if it is a standby that gets it, that is published again", ErrUnclean, p.sent)
	}
	return fmt.Errorf("%w: a transaction was published in part, up to %s; it is published again from its beginning at the next start", ErrUnclean, p.sent)
}

// owes reports whether Kafka may have events that PostgreSQL has not been confirmed:
// they would be published again at the next start.
func (p *Connector) owes() bool {
	if p.unstored != nil {
		return true
	}
	return p.sent != decoder.Position{} && p.sent.After(p.settled)
}

// settledNow notes that a session's last position is stored and that PostgreSQL has it.
func (p *Connector) settledNow() {
	p.settled, p.unstored = p.sent, nil
}

// covers reports whether the next start, resuming at the known position, does not
// publish an event again. The slot alone knows no position inside a transaction.
func (p *Connector) covers(ev decoder.Position) bool {
	return ev.CommitLSN < p.known.LSN || p.o.Store != nil && !ev.After(decoder.Position(p.known.Inside))
}

// finish ends a run that was told to stop, given how its last session ended. Where that
// is not known to have confirmed everything, what Kafka has acknowledged is confirmed,
// as long as a stop may take.
func (p *Connector) finish(fault error) error {
	if p.backfilled > 0 {
		return fmt.Errorf("%w: stopped before the backfill was complete, %d of its rows were sent; the next start publishes all of them: %w", ErrUnclean, p.backfilled, fault)
	}
	if !p.owes() {
		if fault != nil && !errors.Is(fault, context.Canceled) {
			p.log.Info().AnErr("fault", fault).Msg("stopped during a fault; nothing is left to confirm")
		}
		return nil
	}
	p.log.Warn().Err(fault).Msg("stopping during a fault; confirming what was published before")
	wait := backoff{min: p.o.RetryMin, max: min(p.o.RetryMax, time.Second)}
	ctx := p.limits.all
	for ctx.Err() == nil {
		err := p.finishOnce(ctx)
		if err == nil {
			return nil
		}
		if fault = err; permanent(err) || errors.Is(err, ErrUnclean) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait.next()):
		}
	}
	return fmt.Errorf("%w: events that were published are not confirmed, and are published again at the next start: %w", ErrUnclean, fault)
}

// finishOnce has what was published and is not confirmed read again and delivered, as long
// as Kafka may be waited for, or else confirms what is known.
func (p *Connector) finishOnce(ctx context.Context) error {
	if p.known == nil || p.covers(p.sent) || p.limits.acks.Err() != nil {
		return p.confirmKnown(ctx)
	}
	if err := p.mayBegin(ctx); err != nil {
		return err
	}
	told, stop := context.WithCancel(ctx)
	stop()
	return p.guarantee.Judge(p.runSession(told, p.limits.acks))
}

// confirmKnown opens a session for nothing but to store and confirm what is known.
func (p *Connector) confirmKnown(ctx context.Context) error {
	if p.known == nil {
		return fmt.Errorf("%w: no position is known", ErrUnclean)
	}
	if p.sink == nil {
		if err := p.guarantee.Check(ctx, p.known); err != nil {
			return err
		}
	}
	s, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer p.unfollow()
	if err := s.Finish(ctx, p.o.Source); err != nil {
		return err
	}
	switch {
	case p.covers(p.sent):
		p.settledNow()
		p.log.Info().Stringer("lsn", p.known.LSN).Msg("drained and confirmed")
		return nil
	case p.sink != nil:
		return p.inPart()
	}
	return fmt.Errorf("%w: events up to position %s were sent, and not all before it were acknowledged; the confirmed position is %s", ErrUnclean, p.sent, p.known)
}
