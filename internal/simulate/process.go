package simulate

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"outboxd/internal/status"
)

// process is one outboxd: what it reaches the world by stops when it is killed or
// paused.
type process struct {
	w    *world
	name string

	stop, hurry func() // SIGTERM, and a second one
	ended       chan struct{}
	err         error // of Run, once it has ended
	status      atomic.Pointer[status.Status]
	accepts     bool   // --accept-gap; cleared by the verifier when it has taken effect
	owner       string // as it names itself in positions; "": it keeps none in Kafka
	streamed    bool   // ever; of the verifier
	falls       int    // world.falls when it began to stream last, or was started; of the verifier
	at          *slot  // that it has streamed from last, or made of a snapshot; of the verifier

	// Of the goroutine that runs the steps.
	from      int // the verifier's arrivals at the start
	refusals  int // how many reasons to refuse a position there were before it
	stopping  bool
	calm      int           // world.faults if its stop has to be clean, as long as there is no other fault; -1: it has not
	comesBack bool          // it is started again after its end
	backIn    time.Duration // and when

	mu       sync.Mutex
	killed   bool
	paused   chan struct{} // closed when the pause is over; nil: it runs
	pausedAt time.Time
	links    []*link
	// silent and latency are of the network between the process and either side.
	silent  map[side]bool
	latency map[side][2]time.Duration
}

// side is a server's.
type side string

const (
	postgresSide side = "PostgreSQL"
	kafkaSide    side = "Kafka"
)

// postgresAddress begins the address of each server.
const postgresAddress = "postgres"

func (l *link) side() side {
	if strings.HasPrefix(string(l.to), postgresAddress) {
		return postgresSide
	}
	return kafkaSide
}

// gate waits while the process is paused. It returns an error if it was killed.
func (p *process) gate() error {
	for {
		p.mu.Lock()
		killed, paused := p.killed, p.paused
		p.mu.Unlock()
		if killed {
			return errReset
		}
		if paused == nil {
			return nil
		}
		<-paused
	}
}

// add makes a connection the process's.
func (p *process) add(l *link) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		l.abandon(false)
		return errRefused
	}
	p.links = append(slices.DeleteFunc(p.links, (*link).gone), l)
	if p.silent[l.side()] {
		l.silence(true)
	}
	if d := p.latency[l.side()]; d != [2]time.Duration{} {
		l.slow(d[0], d[1])
	}
	return nil
}

// each calls f for the process's connections to one side, also for those on which
// something is still on its way.
func (p *process) each(s side, f func(*link)) {
	p.mu.Lock()
	links := slices.Clone(p.links)
	p.mu.Unlock()
	for _, l := range links {
		if l.side() == s && !l.done() {
			f(l)
		}
	}
}

// silence makes the network to one side swallow everything, or lets it go again.
func (p *process) silence(s side, on bool) {
	p.mu.Lock()
	p.silent[s] = on
	p.mu.Unlock()
	p.each(s, func(l *link) { l.silence(on) })
}

// slow sets how long what is sent to one side, and answered, is on its way.
func (p *process) slow(s side, d [2]time.Duration) {
	p.mu.Lock()
	p.latency[s] = d
	p.mu.Unlock()
	p.each(s, func(l *link) { l.slow(d[0], d[1]) })
}

// kill ends the process between two steps of it. arrives says that what it has sent
// arrives still.
func (p *process) kill(arrives bool) {
	p.mu.Lock()
	p.killed = true
	if p.paused != nil {
		close(p.paused)
		p.paused = nil
	}
	p.mu.Unlock()
	p.abandon(arrives)
}

// over is the end of the process's main.
func (p *process) over() {
	p.abandon(true)
	close(p.ended)
}

// abandon is the end of what the process has to do with its connections.
func (p *process) abandon(arrives bool) {
	p.mu.Lock()
	links := slices.Clone(p.links)
	p.mu.Unlock()
	for _, l := range links {
		l.abandon(arrives)
	}
}

// pause stops the process, or lets it go on.
func (p *process) pause(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.killed:
	case on && p.paused == nil:
		p.paused, p.pausedAt = make(chan struct{}), time.Now()
	case !on && p.paused != nil:
		close(p.paused)
		p.paused = nil
	}
}
