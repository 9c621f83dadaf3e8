package simulate

import "time"

// Limits of what follows on the last fault. A session that is given up by its silence,
// one that waits for the server to give up another, a back-off and Kafka's own time-outs
// come one after the other.
const (
	deliverLimit = 10 * time.Minute
	idleLimit    = 5 * time.Minute
	stopLimit    = 2 * time.Minute
)

// finish holds that everything arrives, that an idle outbox holds no WAL and no
// memory, and that a stop is clean and nothing is repeated after it.
func (w *world) finish() {
	if !w.until(deliverLimit, w.verifier.delivered) {
		if w.verifier.err() == nil && !w.gaveUp {
			w.verifier.breaks("not everything was delivered within %s after the last fault: %s", deliverLimit, w.verifier.missing())
		}
		return
	}
	if !w.until(replayLimit, w.verifier.replayed) {
		if w.verifier.err() == nil {
			w.verifier.breaks("a replay that has ended well, or should have, has not published its window within %s", replayLimit)
		}
		return
	}
	end := w.server.foreign(1<<20, true)
	if !w.until(idleLimit, func() bool {
		if w.o.rewind.Bytes > 0 {
			w.server.foreign(int(w.o.rewind.Bytes), true) // or the last of it is kept for ever
		}
		return w.server.confirmedFlush() >= end
	}) {
		if w.verifier.err() == nil {
			w.verifier.breaks("an idle outbox holds WAL: the slot is at %s, the WAL of others ended at %s for %s", w.server.confirmedFlush(), end, idleLimit)
		}
		return
	}
	w.stopped, w.restarts = true, nil
	for _, p := range w.processes {
		if w.o.again && len(w.processes) == 1 && !p.stopping { // not always: to gather metrics takes long
			if events, bytes := p.inFlight(); events != 0 || bytes != 0 {
				w.verifier.breaks("%s: %v events and %v bytes are in flight, and everything has arrived", p.name, events, bytes)
			}
		}
		p.askStop(false, 0)
	}
	if !w.until(stopLimit, func() bool { return len(w.processes) == 0 }) && w.verifier.err() == nil {
		w.verifier.breaks("a stop takes longer than %s", stopLimit)
	}
	if w.verifier.err() != nil || !w.o.again {
		return
	}
	w.startProcess(false)
	w.wait(3 * time.Second)
}

// until lets time pass until something is so. It keeps a process running.
func (w *world) until(limit time.Duration, is func() bool) bool {
	for step, waited := 50*time.Millisecond, time.Duration(0); ; step = min(2*step, 5*time.Second) {
		if is() {
			return true
		}
		if waited >= limit || w.gaveUp || w.verifier.err() != nil {
			return false
		}
		w.wait(step)
		waited += step
		if len(w.processes) == 0 && len(w.restarts) == 0 && !w.stopped {
			w.startProcess(false)
		}
	}
}
