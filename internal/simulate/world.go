package simulate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"outboxd/internal/connector"
	"outboxd/internal/guarantee"
	"outboxd/offsets"
	"outboxd/sink"
)

const (
	positionsTopic  = "outboxd.positions"
	deadLetterTopic = "outbox.dead-letter"
)

// world is everything of one seed.
type world struct {
	history
	o        options
	topics   []string
	server   *postgres
	kafka    *kafka
	verifier *verifier
	disk     disk

	// Of the goroutine that runs the steps.
	processes []*process // that have not ended
	started   int
	ids       int
	refused   int // rows that the brokers refuse
	open      []*transaction
	stopped   bool // no process is started again
	blurred   bool // a process was paused
	clock     hostClock
	replay    *replay   // nil: none was begun; guarded by verifier.mu
	falls     int       // how often the slot may have fallen back
	mixed     bool      // a process has ended since the last look
	toAccept  bool      // the next process, since the one that was to has ended before it did
	gaveUp    bool      // a backfill takes longer than its transaction may
	faults    int       // how many have begun or ended
	calmFrom  time.Time // when the effects of those that have begun are over
	restarts  []restart
	later     []timed
	all       sync.WaitGroup // of processes
	servers   sync.WaitGroup // of walsenders
}

// restart is a process that the supervisor starts again.
type restart struct {
	at      time.Time
	accepts bool
}

// timed is what ends a fault.
type timed struct {
	at   time.Time
	what string
	do   func()
}

func newWorld(o options) (*world, error) {
	w := &world{o: o, history: history{began: time.Now()}}
	for i := range o.topics {
		w.topics = append(w.topics, fmt.Sprintf("t%d", i))
	}
	if o.deadLetters {
		w.topics = append(w.topics, deadLetterTopic)
	}
	w.verifier = newVerifier(w, o.exactly)
	w.server = newPostgres(w)
	w.server.timeout, w.server.empties, w.server.synchronized = o.timeout, o.empties, o.synchronized
	w.server.standby = o.standby
	for i := range o.hosts {
		w.server.others = append(w.server.others, newHost(i+2))
	}
	if o.madeBefore {
		w.server.mu.Lock()
		w.server.makeSlot()
		for _, h := range w.server.others {
			h.slot = &slot{confirmed: walStart, saved: walStart}
		}
		w.server.mu.Unlock()
	}
	var err error
	var seed []kfake.Opt
	if !o.missing {
		seed = append(seed, kfake.SeedTopics(int32(o.partitions), w.topics...))
	}
	if w.kafka, err = newKafka(w, seed...); err != nil {
		return nil, err
	}
	if o.refused {
		w.kafka.refuseMarked()
	}
	w.verifier.reader = newReader(w.kafka, o.exactly)
	return w, nil
}

// endLimit is how long a process may take that was killed: nothing answers it.
const endLimit = 10 * time.Minute

// close ends everything. It returns whether every process has ended.
func (w *world) close() bool {
	for _, p := range slices.Clone(w.processes) {
		w.kill(p, false)
	}
	if w.replay != nil {
		w.replay.p.kill(false)
		w.replay.p.stop()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.all.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(endLimit):
		return false
	}
	w.server.stop(true)
	w.servers.Wait()
	w.verifier.reader.close()
	w.kafka.cluster.Close()
	return true
}

// run runs the steps of a seed, and returns the first promise that was broken.
func (w *world) run(steps []step) error {
	w.note("%s", w.o)
	w.fill(w.o.backfill)
	w.startProcess(false)
	for _, s := range steps {
		w.note("> %s", s.what)
		s.do(w)
		w.wait(s.then)
		if err := w.verifier.err(); err != nil || w.gaveUp {
			return err
		}
	}
	w.heal()
	w.finish()
	return w.verifier.err()
}

// wait lets simulated time pass. What is due meanwhile is done in time.
func (w *world) wait(d time.Duration) {
	end := time.Now().Add(d)
	for {
		next := end
		for _, l := range w.later {
			if l.at.Before(next) {
				next = l.at
			}
		}
		for _, r := range w.restarts {
			if r.at.Before(next) {
				next = r.at
			}
		}
		if until := time.Until(next); until > 0 {
			time.Sleep(until)
		}
		synctest.Wait()
		w.verifier.check()
		w.unmix()
		w.due(false)
		w.supervise()
		if w.verifier.err() != nil || !time.Now().Before(end) && !w.dueNow() {
			return
		}
	}
}

// unmix takes note, when a process has ended beside others, that what has arrived by
// now may be its work and not theirs.
func (w *world) unmix() {
	if !w.mixed {
		return
	}
	w.mixed = false
	v := w.verifier
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range w.processes {
		p.from = v.arrivals
	}
}

func (w *world) dueNow() bool {
	now := time.Now()
	return slices.ContainsFunc(w.later, func(l timed) bool { return !l.at.After(now) }) ||
		slices.ContainsFunc(w.restarts, func(r restart) bool { return !r.at.After(now) })
}

// due ends the faults whose time has come, or all of them.
func (w *world) due(all bool) {
	now := time.Now()
	var rest []timed
	for _, l := range w.later {
		if all || !l.at.After(now) {
			w.note("> %s", l.what)
			w.faults++
			l.do()
		} else {
			rest = append(rest, l)
		}
	}
	w.later = rest
	var waiting []restart
	for _, r := range w.restarts {
		if all || !r.at.After(now) {
			w.startProcess(r.accepts)
		} else {
			waiting = append(waiting, r)
		}
	}
	w.restarts = waiting
}

func (w *world) after(d time.Duration, what string, do func()) {
	w.later = append(w.later, timed{time.Now().Add(d), what, do})
}

// supervise looks which processes have ended, as systemd and an operator would.
func (w *world) supervise() {
	w.processes = slices.DeleteFunc(w.processes, func(p *process) bool {
		select {
		case <-p.ended:
		default:
			return false
		}
		w.judge(p)
		w.mixed = true
		return true
	})
}

// judge decides whether a process ended as it may, and when it is started again.
func (w *world) judge(p *process) {
	v, slot := w.verifier, w.server.slotNow()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reader.expect()
	v.sync()
	w.toAccept = w.toAccept || p.accepts
	w.note("%s: ended: %v", p.name, p.err)
	var refused *offsets.RefusedError
	switch {
	case p.err == nil && p.stopping:
		// One that has only stood by says nothing of what others have sent meanwhile.
		// Another slot knows nothing of what this one was told, nor does one that fell back
		// and that it did not stream from again.
		fell := w.slotOnly() && (w.falls != p.falls || p.at != nil && p.at != slot)
		if v.clean = 0; p.streamed && len(w.processes) == 1 && !w.blurred && !fell {
			v.cleanFrom, v.clean = p.from, v.arrivals
		}
	case p.err == nil:
		v.broken("%s ended by itself", p.name)
	case errors.As(p.err, &refused):
		// Of two processes without transactions, one that was cut off cannot always tell
		// the other, which has taken over meanwhile and ended, from an operator who has
		// moved the slot: with the slot as the only store it knows nothing of it, and in
		// Kafka its own claim may arrive late, and count. It refuses then.
		// The same goes for one that comes to a standby whose slot an earlier process has
		// confirmed further, where nothing but slots knows how far that was.
		ahead := errors.Is(p.err, offsets.ErrSlotAhead)
		takenOver := ahead && !w.o.exactly && w.o.store != "file" && v.overlap
		earlier := ahead && w.slotOnly() && w.o.hosts > 0 && w.started > 1
		if v.refused = v.refused || v.refusals != p.refusals || takenOver || earlier; !v.refused {
			v.broken("%s refuses a position without a reason: %v", p.name, p.err)
		}
		if !w.stopped {
			w.restarts = append(w.restarts, restart{time.Now().Add(time.Second), true})
		}
	case errors.Is(p.err, connector.ErrUnclean) && p.stopping:
		if v.faults, v.clean = true, 0; p.calm == w.faults {
			v.broken("%s was told to stop, everybody answered it, and its end is not clean: %v", p.name, p.err)
		}
	case errors.Is(p.err, guarantee.ErrTakenOver) && w.started > 1:
		v.faults = true
	case errors.Is(p.err, errSlotMade) && w.started > 1:
		v.faults = true // where an operator had accepted a gap meanwhile
	case errors.Is(p.err, sink.ErrExpired) && w.o.backfill > 0:
		// The operator is told to raise the time-out, which kfake does not do for an id that
		// it knows.
		w.gaveUp = true
	default:
		v.broken("%s failed: %v", p.name, p.err)
	}
	if p.comesBack && refused == nil && !w.stopped {
		w.restarts = append(w.restarts, restart{time.Now().Add(p.backIn), false})
	}
}

// kill ends a process between two steps of it.
func (w *world) kill(p *process, arrives bool) {
	w.mixed = true
	p.kill(arrives)
	p.stop()
	p.hurry()
	w.processes = slices.DeleteFunc(w.processes, func(o *process) bool { return o == p })
	v := w.verifier
	v.mu.Lock()
	v.faults, v.clean = true, 0
	w.toAccept = w.toAccept || p.accepts
	v.mu.Unlock()
	w.note("%s: killed", p.name)
}

// heal ends all faults, and all transactions.
func (w *world) heal() {
	w.note("> all faults end")
	w.due(true)
	w.server.start()
	w.server.update(func() {
		w.server.lagging = false
		for _, h := range w.server.others {
			h.lagging = false
		}
	})
	running := w.processes
	if w.replay != nil {
		running = append(slices.Clone(running), w.replay.p)
	}
	for _, p := range running {
		p.pause(false)
		for _, s := range []side{postgresSide, kafkaSide} {
			p.silence(s, false)
			p.slow(s, w.o.latency[s])
		}
	}
	w.createTopics()
	for _, tx := range w.open {
		w.server.finish(tx, true)
	}
	w.open = nil
}

func (w *world) startProcess(accepts bool) {
	w.started++
	accepts, w.toAccept = accepts || w.toAccept, false
	if len(w.processes) > 0 && !w.o.exactly {
		w.verifier.mu.Lock()
		w.verifier.overlap = true
		w.verifier.mu.Unlock()
	}
	p := w.newProcess(fmt.Sprintf("p%d", w.started), accepts)
	bare := w.server.bare()
	w.verifier.mu.Lock()
	w.verifier.reader.expect()
	w.verifier.sync() // what those before it have written is not its own
	p.from, p.refusals, p.falls = w.verifier.arrivals, w.verifier.refusals, w.falls
	if w.verifier.refusable || w.verifier.refused || bare {
		p.refusals--
	}
	w.verifier.mu.Unlock()
	w.processes = append(w.processes, p)
	w.note("%s: starts (--accept-gap %t)", p.name, accepts)
	ctx, stop := context.WithCancel(context.Background())
	hurry, hurryNow := context.WithCancel(context.Background())
	p.stop, p.hurry = stop, hurryNow
	w.all.Go(func() { p.run(ctx, hurry) })
}

// some returns a process that runs, or nil.
func (w *world) some(r uint64) *process {
	if len(w.processes) == 0 {
		return nil
	}
	return w.processes[r%uint64(len(w.processes))]
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6f7574626f7864)) }
