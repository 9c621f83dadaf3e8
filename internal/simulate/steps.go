package simulate

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// step is one thing that happens, and how long nothing else does after it. It does
// what it can: a step before it may be missing.
type step struct {
	what string
	do   func(*world)
	then time.Duration
}

// choose makes the options and the steps of a seed.
func choose(seed uint64) (options, []step) {
	r := newRand(seed)
	o := options{
		store:        pick(r, "slot", "file", "kafka"),
		exactly:      r.IntN(3) == 0,
		brokers:      1,
		partitions:   1 + r.IntN(3),
		topics:       1 + r.IntN(2),
		keys:         1 + r.IntN(4),
		messages:     r.IntN(4) == 0,
		empties:      r.IntN(3) == 0,
		confirmEvery: pick(r, 20*time.Millisecond, 200*time.Millisecond, time.Second),
		timeout:      pick(r, 5*time.Second, 60*time.Second),
		memory:       pick[int64](r, 1<<20, 4<<20, 16<<20),
		synchronized: r.IntN(2) == 0,
		madeBefore:   r.IntN(3) > 0,
		missing:      r.IntN(12) == 0,
		again:        r.IntN(3) == 0,
		chunk:        8 << 10,
		latency:      make(map[side][2]time.Duration),
	}
	if r.IntN(5) == 0 {
		o.chunk, o.pace = 400<<r.IntN(4), time.Duration(r.IntN(20))*time.Millisecond
	}
	for _, s := range []side{postgresSide, kafkaSide} {
		if r.IntN(2) == 0 {
			o.latency[s] = [2]time.Duration{time.Duration(r.IntN(30)) * time.Millisecond, time.Duration(r.IntN(30)) * time.Millisecond}
		}
	}
	m := &maker{r: r, o: o}
	calm := r.IntN(8) == 0
	for range 4 + r.IntN(16) {
		var s step
		if calm || r.IntN(100) < 65 {
			s = m.work()
		} else {
			s = m.fault()
		}
		s.then = m.pause()
		m.steps = append(m.steps, s)
	}
	o.deadLetters = r.IntN(4) == 0
	o.refused = o.deadLetters && r.IntN(2) == 0
	return o, m.steps
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// maker makes steps.
type maker struct {
	r     *rand.Rand
	o     options
	steps []step
}

// pause is how long nothing else happens: mostly short, so that steps meet each other.
func (m *maker) pause() time.Duration {
	switch n := m.r.IntN(100); {
	case n < 25:
		return 0
	case n < 45:
		return time.Duration(m.r.IntN(3000)) * time.Microsecond
	case n < 75:
		return time.Duration(m.r.IntN(100)) * time.Millisecond
	case n < 92:
		return time.Duration(m.r.IntN(2000)) * time.Millisecond
	case n < 98:
		return time.Duration(m.r.IntN(12)) * time.Second
	}
	return time.Duration(m.r.IntN(60)) * time.Second
}

// lasts is how long a fault lasts.
func (m *maker) lasts() time.Duration {
	if m.r.IntN(4) == 0 {
		return time.Duration(1+m.r.IntN(90)) * time.Second
	}
	return time.Duration(1+m.r.IntN(3000)) * time.Millisecond
}

// size is how many rows a transaction has.
func (m *maker) size() int {
	switch n := m.r.IntN(10_000); {
	case n < 5000:
		return 1
	case n < 8800:
		return 1 + m.r.IntN(6)
	case n < 9800:
		return 10 + m.r.IntN(60)
	case n < 9998:
		return 250 + m.r.IntN(500)
	}
	return 5_000
}

func (m *maker) work() step {
	n, copied, which, choice := m.size(), m.r.IntN(10) == 0, m.r.Uint64(), m.r.Uint64()
	switch k := m.r.IntN(100); {
	case k < 45:
		commits := m.r.IntN(8) > 0
		return step{what: fmt.Sprintf("a transaction of %d rows (COPY %t, commit %t)", n, copied, commits), do: func(w *world) {
			tx := w.server.begin()
			w.insert(tx, n, copied, choice)
			w.server.finish(tx, commits)
		}}
	case k < 62:
		return step{what: fmt.Sprintf("a transaction begins with %d rows", n), do: func(w *world) {
			if len(w.open) < 3 {
				tx := w.server.begin()
				w.insert(tx, n, copied, choice)
				w.open = append(w.open, tx)
			}
		}}
	case k < 70:
		return step{what: fmt.Sprintf("%d more rows in an open transaction", n), do: func(w *world) {
			if tx := w.openOne(which, false); tx != nil {
				w.insert(tx, n, copied, choice)
			}
		}}
	case k < 86:
		commits := m.r.IntN(5) > 0
		return step{what: fmt.Sprintf("an open transaction ends (commit %t)", commits), do: func(w *world) {
			if tx := w.openOne(which, true); tx != nil {
				w.server.finish(tx, commits)
			}
		}}
	case k < 97:
		size, commits := 50<<m.r.IntN(14), m.r.IntN(2) == 0
		return step{what: fmt.Sprintf("%d bytes of WAL of others (commit %t)", size, commits), do: func(w *world) { w.server.foreign(size, commits) }}
	}
	return step{what: "a message outside transactions", do: func(w *world) { w.server.stray(`{"id":"stray"}`) }}
}

// insert writes rows of a transaction.
func (w *world) insert(tx *transaction, n int, copied bool, choice uint64) {
	r := rand.New(rand.NewPCG(choice, 1))
	rows := make([]*row, n)
	poison := w.o.deadLetters && r.IntN(2) == 0
	for i := range rows {
		w.ids++
		rows[i] = &row{
			id:      "e" + strconv.Itoa(w.ids),
			topic:   "t" + strconv.Itoa(r.IntN(w.o.topics)),
			key:     "k" + strconv.Itoa(r.IntN(w.o.keys)),
			payload: `{"n":` + strconv.Itoa(w.ids) + "}",
			message: w.o.messages && !copied && r.IntN(3) == 0,
		}
		rows[i].kind = rows[i].topic
		if poison && r.IntN(4) == 0 {
			rows[i].topic = deadLetterTopic
			if rows[i].refused = w.o.refused && i < 100 && r.IntN(3) == 0 && w.mayRefuse(); rows[i].refused {
				w.refused++
				w.fault()
				rows[i].payload = fmt.Sprintf(`{"n":%d%s}`, w.ids, refusedMark)
			} else {
				rows[i].kind = "no topic's name"
			}
		}
	}
	w.verifier.written(tx, rows)
	w.server.insert(tx, rows, copied)
}

// mayRefuse bounds the rows that the brokers refuse where there is a backfill: each makes it
// begin again.
func (w *world) mayRefuse() bool { return w.o.backfill == 0 || w.refused < 3 }

// openOne returns an open transaction, or nil. Those that the server has rolled back
// are forgotten.
func (w *world) openOne(which uint64, ends bool) *transaction {
	var open []*transaction
	for _, tx := range w.open {
		if !tx.aborted {
			open = append(open, tx)
		}
	}
	if w.open = open; len(open) == 0 {
		return nil
	}
	i := int(which % uint64(len(open)))
	tx := open[i]
	if ends {
		w.open = append(open[:i:i], open[i+1:]...)
	}
	return tx
}
