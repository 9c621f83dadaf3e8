package simulate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"outboxd/offsets"
)

// wide makes the options and the steps of a seed. To those of choose it adds what came
// to the simulator later, by a generator of its own: the seeds of choose that were found
// to fail once (TestFoundBefore) mean the same still.
func wide(seed uint64) (options, []step) {
	o, steps := choose(seed)
	r := rand.New(rand.NewPCG(seed, 0x77696465))
	o.brokers = 1 + r.IntN(maxBrokers)
	o.byPartition = seed%4 < 2
	if r.IntN(6) == 0 {
		o.backfill, o.madeBefore, o.messages = 1+r.IntN(30), false, false
	}
	if (o.exactly || o.store != "slot") && r.IntN(4) == 0 {
		if o.rewind.Age = time.Duration(1+r.IntN(4000)) * time.Millisecond; r.IntN(3) == 0 {
			o.rewind = offsets.Rewind{Bytes: 100 << r.IntN(14)}
		}
	}
	o.standby = r.IntN(6) == 0
	m := &maker{r: r, o: o}
	calm := r.IntN(8) == 0
	add := func(s step) {
		s.then = m.pause()
		steps = slices.Insert(steps, r.IntN(len(steps)+1), s)
	}
	if o.brokers > 1 && !calm {
		for range r.IntN(4) {
			add(m.brokerFault())
		}
	}
	if o.standby && !calm {
		for range r.IntN(3) {
			add(m.standbyFault())
		}
	}
	if o.standby && seed%3 > 0 {
		o.hosts = 1 + int(seed%2)
		hosts := &maker{r: rand.New(rand.NewPCG(seed, 0x686f737473)), o: o}
		for range 1 + hosts.r.IntN(4) {
			s := hosts.hostFault()
			if hosts.r.IntN(4) == 0 {
				s = hosts.failover()
			}
			s.then = hosts.pause()
			steps = slices.Insert(steps, hosts.r.IntN(len(steps)+1), s)
		}
	}
	if r.IntN(5) == 0 {
		for range 1 + r.IntN(2) {
			add(m.clockFault())
		}
	}
	often := 16
	if o.rewind != (offsets.Rewind{}) {
		often = 2 // there is something to replay
	}
	if !o.deadLetters && o.backfill == 0 && r.IntN(often) == 0 {
		add(m.replayStep())
	}
	// Of a slow server, they take longer than the time-out of a backfill's transaction: the
	// program ends with what to do.
	if r.IntN(5000) == 0 && !(o.exactly && o.backfill > 0) {
		add(step{what: "a transaction of 100000 rows", do: func(w *world) {
			w.commit(100_000, seed)
		}})
	}
	if stops := (&maker{r: rand.New(rand.NewPCG(seed, 0x73746f70)), o: o}); stops.r.IntN(8) == 0 {
		if o.pace == 0 {
			o.chunk, o.pace = 1600, 5*time.Millisecond // a transaction has a middle
		}
		s := stops.stopAfterCut()
		s.then = stops.pause()
		steps = slices.Insert(steps, stops.r.IntN(1+min(3, len(steps))), s) // mostly before any fault
	}
	return o, steps
}

// stopAfterCut makes a step of a process that loses its stream within a transaction, and is
// told to stop soon after: as soon as it has a stream again, or before or after that.
func (m *maker) stopAfterCut() step {
	rows, choice := 1+m.r.IntN(600), m.r.Uint64()
	cut, stop, again := time.Duration(m.r.IntN(100))*time.Millisecond, time.Duration(m.r.IntN(400))*time.Millisecond, m.r.IntN(2) == 0
	return step{what: fmt.Sprintf("a transaction of %d rows, connections to PostgreSQL are cut after %s, and a stop follows when it streams again (%t) or after %s", rows, cut, again, stop), do: func(w *world) {
		p, calm := w.some(0), w.calm()
		w.commit(rows, choice)
		if p == nil || p.stopping {
			return
		}
		w.wait(cut)
		w.fault()
		p.each(postgresSide, (*link).cut)
		if calm {
			w.calmFrom = time.Now()
		}
		if again {
			stop = 0
			w.untilSending(400, time.Millisecond)
		}
		w.wait(stop)
		if !p.stopping {
			p.askStop(false, time.Second)
		}
	}}
}

// standbyFault makes a step of a server that is a standby.
func (m *maker) standbyFault() step {
	d, promoted := m.lasts(), m.r.IntN(2) == 0
	if m.r.IntN(2) == 0 {
		return step{what: fmt.Sprintf("the WAL comes no further for %s", d), do: func(w *world) {
			w.server.update(func() { w.server.lagging = true })
			w.after(d, "the WAL comes again", func() { w.server.update(func() { w.server.lagging = false }) })
		}}
	}
	return step{what: fmt.Sprintf("the timeline changes while the standby streams (promoted %t)", promoted), do: func(w *world) {
		w.fault()
		w.server.promoteStreaming(promoted)
	}}
}

// hostFault makes a step of several standbys: the one that processes reach goes away, or
// the next one falls behind.
func (m *maker) hostFault() step {
	d, crash := m.lasts(), m.r.IntN(2) == 0
	if m.r.IntN(3) > 0 {
		return step{what: fmt.Sprintf("the standby goes away (crash %t), and another is reached", crash), do: func(w *world) {
			w.fault()
			w.server.anotherHost(crash)
			w.lostPositions()
		}}
	}
	return step{what: fmt.Sprintf("the next standby comes no further for %s", d), do: func(w *world) {
		if len(w.server.others) == 0 {
			return
		}
		behind := w.server.others[0]
		w.server.update(func() { behind.lagging = true })
		w.after(d, "that standby catches up", func() { w.server.update(func() { behind.lagging = false }) })
	}}
}

// failover makes a step by which the standby that processes reach dies, and one that is a
// little behind is reached, and promoted while it is streamed from: it has not what they were
// sent last, and other transactions take its place.
func (m *maker) failover() step {
	rows, choice := 1+m.r.IntN(5), m.r.Uint64()
	before, after := time.Duration(m.r.IntN(60))*time.Millisecond, time.Duration(m.r.IntN(60))*time.Millisecond
	return step{what: fmt.Sprintf("the standby dies %s after a transaction that the next one has not, which is promoted %s after it is streamed from", before, after), do: func(w *world) {
		if len(w.server.others) == 0 {
			return
		}
		w.server.update(func() { w.server.others[0].lagging = true })
		w.commit(rows, choice)
		w.wait(before)
		w.fault()
		w.server.anotherHost(true)
		w.lostPositions()
		w.untilSending(200, 5*time.Millisecond)
		w.wait(after)
		w.server.promoteStreaming(true)
		w.commit(rows, choice+1)
	}}
}

// fill commits transactions before anything else happens.
func (w *world) fill(n int) {
	m := &maker{r: newRand(uint64(n)), o: w.o}
	for range n {
		w.commit(m.size(), m.r.Uint64())
	}
}

// commit commits a transaction of n rows.
func (w *world) commit(n int, choice uint64) {
	tx := w.server.begin()
	w.insert(tx, n, false, choice)
	w.server.finish(tx, true)
}

// untilSending waits until a walsender streams, so many times at most.
func (w *world) untilSending(times int, each time.Duration) {
	for range times {
		if w.wait(each); w.server.sending() {
			return
		}
	}
}
