package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"outboxd/decoder"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

// ErrPoison is wrapped by the error of an event that can never be delivered as
// it is.
var ErrPoison = errors.New("poison event")

// session is the work of one replication connection. Its fields belong to the
// goroutine of run, but for the committer, which a goroutine of its own uses
// while the session streams.
type session struct {
	p         *Pipeline
	stream    *replication.Stream
	blocks    interface{ Block() *replication.Block } // of the frames: stream, or a backfill's reader
	decoder   *decoder.Decoder
	router    *router.Router
	sink      *sink.Kafka
	tracker   *offsets.Tracker
	committer *offsets.Committer

	tx *offsets.Transaction // open, or nil
	// gate is held by whoever sends or commits, with exactly_once: a transaction
	// is closed between two events.
	gate sync.Mutex
	// committed is what PostgreSQL may be told, with exactly_once. It belongs to
	// the goroutine that commits.
	committed offsets.Confirmed
	// giveUp ends when a stop has waited for Kafka as long as it may.
	giveUp context.Context
	// drainBy is when a stop gives up waiting; set before reading is
	// interrupted for it.
	drainBy time.Time
}

// run streams, and ends the session in the way that fits why streaming ended.
func (s *session) run(ctx, hurry context.Context) error {
	giveUp, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.giveUp = giveUp
	context.AfterFunc(ctx, func() {
		defer cancel()
		select {
		case <-time.After(s.p.o.DrainTimeout):
		case <-hurry.Done():
		case <-giveUp.Done():
		}
	})
	err := s.streamUntil(ctx, hurry)
	s.p.o.Status.Stopped()
	switch {
	case s.sink.Err() != nil:
		// Nothing behind the failed event may be confirmed, and what is still
		// in flight may arrive or not.
		err = s.sinkFailed()
	case ctx.Err() != nil:
		err = s.drain(hurry)
	case errors.Is(err, ErrPoison) || errors.Is(err, sink.ErrSchemaRefused):
		// What came before the event is delivered and confirmed, so that the
		// event is the first thing that the next start meets.
		if unclean := s.drain(hurry); unclean != nil {
			s.p.log.Warn().Err(unclean).Msg("events before the one that cannot be delivered were not all confirmed")
		}
	default:
		if unclean := s.settle(ctx, hurry); unclean != nil {
			err = unclean
		}
	}
	s.stream.Close()
	return err
}

// errStopping interrupts the stream when the run is told to stop.
var errStopping = errors.New("stopping")

// streamUntil reads frames until a fault or the end of ctx. A transaction that
// has begun to be published when ctx ends is read to its end, so that a stop
// leaves nothing behind that has to be published again.
func (s *session) streamUntil(ctx, hurry context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	background.Go(func() { s.interrupt(inner, ctx, hurry) })
	if s.p.exactly != nil {
		background.Go(func() { s.commitTransactions(inner) })
	} else {
		background.Go(func() { s.confirm(inner) })
	}
	background.Go(func() { s.watch(inner) })
	stopping := false
	for {
		frame, err := s.stream.Next()
		switch {
		case errors.Is(err, errStopping) && s.tx != nil:
			stopping = true
			s.stream.Resume(errStopping)
			continue
		case err != nil:
			return replication.Explain(err, s.p.o.Source)
		case frame.Kind == replication.Keepalive:
			s.tracker.Idle(frame.WALEnd)
			continue
		}
		if err := s.handle(frame.Data); err != nil {
			return err
		}
		if stopping && s.tx == nil {
			return errStopping
		}
	}
}

// interrupt ends the reading of frames from outside.
func (s *session) interrupt(inner, ctx, hurry context.Context) {
	select {
	case <-ctx.Done():
		s.drainBy = time.Now().Add(s.p.o.DrainTimeout)
		s.stream.Interrupt(errStopping)
	case <-s.sink.Failed():
		s.tracker.Fail()
		s.stream.Interrupt(s.sink.Err())
		return
	case <-inner.Done():
		return
	}
	select {
	case <-time.After(s.p.o.DrainTimeout):
		s.stream.Interrupt(context.DeadlineExceeded)
	case <-hurry.Done():
		s.stream.Interrupt(context.Canceled)
	case <-s.sink.Failed():
		s.tracker.Fail()
		s.stream.Interrupt(s.sink.Err())
	case <-inner.Done():
	}
}

// handle takes one pgoutput message through the stages.
func (s *session) handle(data []byte) error {
	if s.p.exactly != nil {
		s.gate.Lock()
		defer s.gate.Unlock()
	}
	kind, err := s.decoder.Decode(data)
	switch {
	case err != nil && errors.Is(err, decoder.ErrRow):
		return s.poison(s.decoder.Event(), err)
	case err != nil:
		return fmt.Errorf("decode at %s: %w", s.decoder.Position(), err)
	}
	switch kind {
	case decoder.Insert:
		return s.publish(s.decoder.Event())
	case decoder.Stray:
		s.p.stray.Do(func() {
			s.p.log.Warn().Str("prefix", s.p.o.Table.MessagePrefix).
				Msg("messages that are not transactional are passed over: they are in no transaction, and so not events; write pg_logical_emit_message(true, …)")
		})
	case decoder.Begin:
		s.tx = s.tracker.Begin()
	case decoder.Commit:
		s.tx.Commit(s.decoder.CommitEnd())
		s.tx = nil
	}
	return nil
}

// publish routes one event and hands it to the sink.
func (s *session) publish(ev *decoder.Event) error {
	if !ev.Position.After(s.p.published) {
		return nil // acknowledged in an earlier session
	}
	if r := s.p.refused; r != nil && ev.Position == r.Position {
		return s.poison(ev, r)
	}
	d := s.sink.Next()
	if err := s.router.Route(ev, &d.Message); err != nil {
		return s.poison(ev, err)
	}
	if d.Topic == "" {
		s.sink.Return()
		return nil // discarded by a rule
	}
	if err := s.send(ev, d); err != nil {
		if errors.Is(err, sink.ErrSchemaRefused) {
			return &replication.Error{
				Err:  fmt.Errorf("event id %.200q at position %s: %w", ev.Values[decoder.ID], ev.Position, err),
				Hint: "nothing after it is confirmed; mend the subject in the registry, or name another with value.avro.subject, and start again",
			}
		}
		if !errors.Is(err, sink.ErrUndeliverable) {
			return fmt.Errorf("event id %.200q at position %s: %w", ev.Values[decoder.ID], ev.Position, err)
		}
		return s.poison(ev, err)
	}
	s.p.published = ev.Position
	return nil
}

// send hands a routed event to the sink. Its memory is kept, and its transaction
// open, until Kafka has acknowledged it.
func (s *session) send(ev *decoder.Event, d *sink.Delivery) error {
	block := s.blocks.Block()
	block.Retain()
	s.tx = s.tx.Add(offsets.Event(ev.Position))
	d.Receipt, d.Memory = s.tx, block
	err := s.sink.Send(ev, d)
	if err != nil {
		s.tx.Withdraw()
		block.Release(0)
	}
	return err
}

// poison is the one place that decides what becomes of an event that can never
// be delivered as it is: it stops the run, and is never confirmed past.
func (s *session) poison(ev *decoder.Event, err error) error {
	return &replication.Error{
		Err:  fmt.Errorf("%w: event id %.200q at position %s: %w", ErrPoison, ev.Values[decoder.ID], ev.Position, err),
		Hint: poisonHint,
	}
}

const poisonHint = "nothing after it is confirmed; mend the cause and start again, or move the slot past its transaction with " +
	"pg_replication_slot_advance when it may be lost"

// confirm takes the newest safe position to the store and to PostgreSQL, every
// so often.
func (s *session) confirm(ctx context.Context) {
	tick := time.NewTicker(s.p.o.ConfirmEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := s.committer.Commit(ctx); err != nil {
				s.stream.Interrupt(err)
				return
			}
			s.p.o.Status.Confirmed(s.tracker.Confirmed().LSN(), s.tracker.Unconfirmed() == 0)
		}
	}
}

// stallAfter is how long Kafka may acknowledge nothing before the operator is
// told why.
const stallAfter = 5 * time.Second

// watch tells the operator when Kafka acknowledges nothing.
func (s *session) watch(ctx context.Context) {
	tick := time.NewTicker(stallAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		waiting := s.sink.Waiting()
		if waiting < stallAfter {
			s.p.o.Status.Kafka(nil)
			continue
		}
		ask, cancel := context.WithTimeout(ctx, stallAfter)
		err := s.sink.Diagnose(ask)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the cluster answers, but does not acknowledge")
		}
		s.p.o.Status.Kafka(err)
		s.p.log.Warn().Err(err).Stringer("for", waiting.Round(time.Second)).Int64("in_flight_events", s.sink.InFlight()).
			Msg("Kafka acknowledges nothing; waiting")
	}
}

// sinkFailed ends the sink. The next session starts from what was confirmed.
func (s *session) sinkFailed() error {
	err := s.sink.Err()
	s.abandon()
	if s.p.exactly != nil {
		var failed *sink.FailedError
		if errors.As(err, &failed) && errors.Is(err, sink.ErrUndeliverable) {
			s.p.refused = failed
			return &sink.FailedError{Err: fmt.Errorf("%v; what its transaction takes with it is sent again", err)}
		}
		return err // the next session asks what is committed
	}
	if errors.Is(err, sink.ErrUndeliverable) {
		return &replication.Error{Err: fmt.Errorf("%w: %w", ErrPoison, err), Hint: poisonHint}
	}
	return err
}

// abandon ends the sink with what is in flight in it.
func (s *session) abandon() {
	s.tracker.Fail()
	s.p.closeSink()
	if s.p.exactly == nil {
		s.finalCommit(context.Background())
	}
}

// settleLimit is how long Kafka may take to acknowledge what was sent before the
// stream ended. The slot is free meanwhile, and another process may take over: what
// arrives later may arrive behind newer events of its keys.
const settleLimit = 10 * time.Second

// settle follows on a fault of PostgreSQL: everything sent is waited for, so
// that the next session can go on behind it. What Kafka does not acknowledge in
// time is given up, and sent again by who has the slot next.
func (s *session) settle(ctx, hurry context.Context) error {
	s.stream.Close() // the slot is free for the next session, or another process
	drained := s.tracker.Drained()
	late := time.After(settleLimit)
	var giveUp <-chan time.Time
	for {
		select {
		case <-drained:
			if err := s.finalCommit(s.giveUp); err != nil && s.p.exactly != nil {
				return s.uncommitted(err)
			}
			return nil
		case <-late:
			n := s.sink.InFlight()
			s.abandon()
			return fmt.Errorf("the stream has ended and Kafka has not acknowledged %d events for %s: they are given up, and published again after the last confirmed position", n, settleLimit)
		case <-s.sink.Failed():
			return s.sinkFailed()
		case <-ctx.Done():
			ctx, giveUp = context.WithoutCancel(ctx), time.After(s.p.o.DrainTimeout)
			continue
		case <-giveUp:
		case <-hurry.Done():
		}
		if s.p.exactly == nil {
			s.finalCommit(s.giveUp)
		}
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

// undelivered is the error of a stop that could not wait for Kafka.
func (s *session) undelivered() error {
	return fmt.Errorf("%w: %d events were sent and not acknowledged by Kafka; they are published again at the next start", ErrUnclean, s.sink.InFlight())
}

// drain ends a run: nothing more is read, what was sent is waited for, the
// position is stored, told, and read back.
func (s *session) drain(hurry context.Context) error {
	if s.drainBy.IsZero() {
		s.drainBy = time.Now().Add(s.p.o.DrainTimeout)
	}
	ctx, cancel := context.WithDeadline(hurry, s.drainBy)
	defer cancel()
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
	served := s.stream.Serve(ctx, done)
	<-done
	if s.p.exactly == nil || s.sink.InFlight() == 0 {
		if err := s.finalCommit(ctx); err != nil && s.p.exactly != nil {
			return fmt.Errorf("%w: the last transaction could not be committed, its events are published again at the next start: %w", ErrUnclean, err)
		}
	}
	if n := s.sink.InFlight(); n > 0 || s.sink.Err() != nil {
		return s.undelivered()
	}
	if served == nil {
		served = s.stream.Finish(ctx, s.p.o.Source)
	}
	if served != nil {
		return fmt.Errorf("%w: the position %s could not be confirmed to PostgreSQL, events after the slot's own position are published again at the next start: %w",
			ErrUnclean, s.p.known.LSN, served)
	}
	s.p.log.Info().Stringer("lsn", s.p.known.LSN).Msg("drained and confirmed")
	return nil
}

// finalCommit passes on what is confirmed now. It runs after the confirming
// goroutine has ended.
func (s *session) finalCommit(ctx context.Context) error {
	var at offsets.Position
	var err error
	if s.p.exactly != nil {
		at, err = s.commitTransaction(ctx)
		s.stream.Confirm(s.committed)
	} else {
		// The position is worth some waiting also when nothing else is.
		saving, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		at, err = s.committer.Commit(saving)
	}
	if err != nil {
		s.p.log.Warn().Err(err).Msg("the last position was not stored; events after the stored one are published again")
		s.p.shared = true // see what is stored before the next session
	}
	*s.p.known = at
	return err
}
