package simulate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/connector"
	"outboxd/internal/replication"
	"outboxd/offsets"
)

// replay is an `outboxd replay` beside the processes, one a seed at most.
type replay struct {
	p    *process
	done connector.Replayed // once p has ended
	on   int32              // the timeline that it has read last
	// seen are the rows that have come again, by id; at is the last one of each key.
	seen map[string]bool
	at   map[string]int
}

// replayStep publishes a past window again: as far back as the slot goes, or from the
// commit of a transaction on, and to the end of the WAL or to another one.
func (m *maker) replayStep() step {
	from, to := m.r.IntN(4), m.r.IntN(4)
	return step{what: "a past window is replayed", do: func(w *world) {
		if w.replay != nil {
			return
		}
		v := w.verifier
		v.mu.Lock()
		var r connector.Replay
		if n := len(v.txs); n > 0 {
			first := n - 1 - min(n-1, from*2)
			if from > 0 {
				r.From = v.txs[first].commit
			}
			if to > 0 {
				r.To = v.txs[first+(n-1-first)*(to-1)/3].commit
			}
		}
		v.mu.Unlock()
		p := w.newProcess("replay", false)
		v.mu.Lock()
		w.replay = &replay{p: p, seen: make(map[string]bool), at: make(map[string]int)}
		v.mu.Unlock()
		ctx, stop := context.WithCancel(context.Background())
		p.stop, p.hurry = stop, func() {}
		w.note("replay: from %s to %s", r.From, r.To)
		w.all.Go(func() { w.replay.run(ctx, r) })
	}}
}

func (r *replay) run(ctx context.Context, what connector.Replay) {
	defer r.p.over()
	o, store, err := r.p.options()
	if err != nil {
		r.p.err = err
		return
	}
	if store != nil {
		defer store.Close()
	}
	r.done, r.p.err = connector.New(o).Replay(ctx, what)
	r.p.w.note("replay: %d events of %d transactions from %s to %s: %v", r.done.Events, r.done.Transactions, r.done.From, r.done.To, r.p.err)
}

// ended reports whether the replay has ended, also when there was none.
func (r *replay) ended() bool {
	if r == nil {
		return true
	}
	select {
	case <-r.p.ended:
		return true
	default:
		return false
	}
}

// again takes a record that says that it was replayed. The caller holds mu.
func (v *verifier) again(r *kgo.Record, s *seenRow, position string, where place) {
	p := v.w.replay
	switch {
	case p == nil:
		v.broken("%s says that it was replayed, and nothing was", where)
		return
	case r.Topic != s.topic || string(r.Key) != s.key || string(r.Value) != s.payload || position != s.tx.position(s.row):
		v.broken("%s is not replayed as it was: topic %q, key %q, value %q, position %s", where, r.Topic, r.Key, r.Value, position)
	case p.seen[s.id]:
		v.broken("%s is replayed twice", where)
	}
	key := s.order()
	if last, some := p.at[key]; some && s.index < last {
		v.broken("%s is replayed behind a later event of its key", where)
	}
	p.seen[s.id], p.at[key] = true, s.index
}

// replayed holds that a replay that says so has published its window, and nothing else.
func (v *verifier) replayed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.w.replay
	if !p.ended() {
		return false
	}
	v.sync()
	if p == nil || p.p.err != nil {
		return true
	}
	missing, events := "", 0
	inside := func(tx *transaction) bool { return tx.commit >= p.done.From && tx.commit < p.done.To }
	for _, tx := range v.txs {
		if left, past := v.left[p.on]; past && tx.commit >= left {
			break // at the same place in the WAL the replay has seen another
		}
		for _, r := range tx.rows {
			if !inside(tx) {
				break
			}
			if events++; !p.seen[r.id] {
				missing = r.id
			}
		}
	}
	for id := range p.seen {
		if s := v.rows[id]; !inside(s.tx) {
			v.broken("event %q was replayed, and is not from %s to %s", id, p.done.From, p.done.To)
		}
	}
	if events < p.done.Events && v.timeline == 1 {
		v.broken("the replay says that it has published %d events, of %d", p.done.Events, events)
	}
	return missing == "" // it may wait for a transaction of others
}

// Inspect is Prepare for who changes nothing.
func (c *connection) Inspect(ctx context.Context) (server offsets.Server, err error) {
	server = c.system
	err = c.ask(ctx, func() { server.Slot = c.readSlot() })
	return server, err
}

// StartCopy streams from a copy of the slot, which nobody confirms anything of.
func (c *connection) StartCopy(ctx context.Context, start pglogrepl.LSN, memory *replication.Memory) (connector.Stream, error) {
	var sender *walsender
	if err := c.ask(ctx, func() {
		if c.s.slot != nil {
			sender = c.s.copyFrom(c.link, c.pid, start)
		}
	}); err != nil {
		c.Close()
		return nil, err
	}
	if sender == nil {
		c.Close()
		return nil, fmt.Errorf("copy replication slot: %w", errors.New("it does not exist"))
	}
	v := c.s.w.verifier
	v.mu.Lock()
	c.s.w.replay.on = v.timeline
	v.mu.Unlock()
	return replication.Over(c.link.client, memory, c.s.timeout, start, start, c.system.FlushLSN, sender.look(c), c.readBack), nil
}

// replayLimit is how long a replay may take after the last fault.
const replayLimit = 5 * time.Minute
