package replication

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A walsender that decodes a large transaction of other tables sends nothing and reads
// nothing: not even our request for a reply, for up to wal_sender_timeout/2 at a time,
// and without wal_sender_timeout until it is through. To end the stream then would
// help nobody, since the next would meet the same transaction at its beginning.
//
// So a stream that is silent asks over a second connection what the server process
// does. The process is given up if it has ended; if it waits for WAL or for the
// client, since then it would have answered, and the answer has been lost on the way;
// and if the server cannot be asked in time. Else it is at work and stays, however
// long: the server itself does not end it either, since the process would do that
// itself, between two records. What it decodes cannot be seen from outside, so whether
// it gets on is not judged.
//
// A connection that the network has forgotten on the way, while the process is at
// work, is found by the kernel, which ends it when our status updates are not
// acknowledged (TCP_USER_TIMEOUT); without that, when the process has done its work
// and waits.

// sender is what a stream knows of the server process that serves it. Its fields
// belong to the reading goroutine, but for busy.
type sender struct {
	// look returns what the process does, or an error if it cannot be at work; nil:
	// nobody can be asked.
	look func(context.Context) (work string, err error)

	asked   time.Time       // when the last question was put
	answer  chan workAnswer // nil: none is awaited
	cancel  context.CancelFunc
	running sync.WaitGroup
	verdict error // of the last answer

	silentFrom time.Time // when something was heard last before it was seen at work
	busy       atomic.Pointer[string]
}

type workAnswer struct {
	work string
	err  error
}

// Busy says what a server that sends nothing is at work with, in words for an
// operator; "" when it sends. Any goroutine may call it.
func (s *Stream) Busy() string {
	if what := s.sender.busy.Load(); what != nil {
		return *what
	}
	return ""
}

// askAfter is how long the server may be silent before somebody asks what its process
// does. It leaves time for the answer, and for the answer to our own request.
func (s *Stream) askAfter() time.Duration { return (s.probeAfter + s.silentAfter) / 2 }

// judge decides whether the server has been silent for too long.
func (s *Stream) judge(now time.Time) error {
	w := &s.sender
	select {
	case a := <-w.answer:
		w.forget()
		if w.verdict = a.err; a.err == nil {
			s.atWork(a.work)
		}
	default:
	}
	silent := now.Sub(s.quietSince)
	switch {
	case silent >= s.silentAfter:
		return s.silence(now)
	case silent >= s.askAfter() && w.look != nil && w.answer == nil && !w.asked.After(s.quietSince):
		s.ask(now, (s.silentAfter-silent)*9/10) // so that its failure can still be told
	}
	return nil
}

// ask puts the question, on a goroutine of its own: status updates go on meanwhile.
func (s *Stream) ask(now time.Time, within time.Duration) {
	w := &s.sender
	w.asked = now
	answer := make(chan workAnswer, 1)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	w.answer, w.cancel = answer, cancel
	w.running.Go(func() {
		work, err := w.look(ctx)
		answer <- workAnswer{work, err}
		// The flag makes sure that the answer is seen: see status.
		s.statusDue.Store(true)
		s.wake()
	})
}

// atWork notes that the process was at work when it was asked for. From then on it has
// as long again.
func (s *Stream) atWork(work string) {
	w := &s.sender
	if w.busy.Load() == nil {
		what := "PostgreSQL decodes a transaction, probably a large one, and sends nothing before it is through: " + work
		w.silentFrom = s.quietSince
		w.busy.Store(&what)
		s.log.Warn().Str("sender", work).Stringer("silent_for", w.asked.Sub(w.silentFrom).Round(time.Second)).
			Msg("PostgreSQL decodes a transaction, probably a large one, and sends nothing before it is through; waiting")
	}
	if w.asked.After(s.quietSince) {
		s.quietSince = w.asked
	}
}

// heard notes that something was received.
func (s *Stream) heard(now time.Time) {
	s.quietSince, s.probed = now, false
	w := &s.sender
	if w.answer != nil {
		w.forget()
	}
	w.verdict = nil
	if w.busy.Load() != nil {
		w.busy.Store(nil)
		s.log.Info().Stringer("silent_for", now.Sub(w.silentFrom).Round(time.Second)).Msg("PostgreSQL sends again")
	}
}

// silence is the error of a stream that is given up.
func (s *Stream) silence(now time.Time) error {
	w := &s.sender
	from := s.quietSince
	if w.busy.Load() != nil {
		from = w.silentFrom
	}
	err := fmt.Errorf("%w: nothing was received for %s, not even an answer", ErrSilent, now.Sub(from).Round(time.Second))
	switch {
	case w.verdict != nil:
		err = fmt.Errorf("%w; %v", err, w.verdict)
	case w.answer != nil:
		err = fmt.Errorf("%w; nor over a second connection", err)
	}
	return &Error{Err: err, Hint: "outboxd reconnects"}
}

// forget ends the question that is out.
func (w *sender) forget() {
	w.cancel()
	w.answer, w.cancel = nil, nil
}

// stop ends the question that is out, and waits for its end.
func (w *sender) stop() {
	if w.answer != nil {
		w.forget()
	}
	w.running.Wait()
}

// lookAt returns a question for what a server process does, over a connection of its
// own to the server at addr.
func lookAt(addr net.Addr, o Options, b Backend) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		pg, err := connectBeside(ctx, addr, o)
		if err != nil {
			return "", fmt.Errorf("the server cannot be asked over a second connection: %w", err)
		}
		defer closeSoon(pg)
		rows, err := query(ctx, pg, fmt.Sprintf(`SELECT coalesce(wait_event_type, ''), coalesce(wait_event, '')
			FROM pg_stat_activity WHERE pid = %d AND backend_start = %s`, b.PID, quote(b.Started)))
		if err != nil {
			return "", fmt.Errorf("the server cannot be asked over a second connection: %w", err)
		}
		if len(rows) == 0 {
			return "", fmt.Errorf("its process (pid %d) has ended", b.PID)
		}
		return work(b.PID, rows[0][0], rows[0][1])
	}
}

// work reads a wait event (see "Wait Event Types" in PostgreSQL's documentation). A
// walsender that waits for WAL, for the client, or for a standby's confirmation, waits
// for its socket too, and answers.
func work(pid uint32, eventType, event string) (string, error) {
	switch eventType {
	case "Activity", "Client":
		return "", fmt.Errorf("its process (pid %d) waits (%s) and would have answered, so the connection to it is broken", pid, event)
	case "":
		return fmt.Sprintf("its process (pid %d) is running", pid), nil
	}
	return fmt.Sprintf("its process (pid %d) is in %s: %s", pid, eventType, event), nil
}
