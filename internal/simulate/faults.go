package simulate

import (
	"bytes"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fault makes a step that is a fault. One that lasts is ended by itself.
func (m *maker) fault() step {
	which, d, back := m.r.Uint64(), m.lasts(), m.lasts()
	to := pick(m.r, postgresSide, kafkaSide)
	yes := m.r.IntN(2) == 0
	// on lets a process have a fault.
	on := func(what string, do func(*world, *process)) step {
		return step{what: what, do: func(w *world) {
			w.fault()
			if p := w.some(which); p != nil {
				w.note("  %s", p.name)
				do(w, p)
			}
		}}
	}
	switch m.r.IntN(23) {
	case 0, 1, 2:
		return on(fmt.Sprintf("kill -9, started again after %s", back), func(w *world, p *process) {
			w.kill(p, yes)
			w.restarts = append(w.restarts, restart{time.Now().Add(back), false})
		})
	case 3, 4:
		hurry := m.r.IntN(6) == 0
		return step{what: fmt.Sprintf("a stop (twice %t), started again after %s", hurry, back), do: func(w *world) {
			if p := w.some(which); p != nil && !p.stopping {
				if hurry {
					w.fault()
				}
				p.askStop(hurry, back)
			}
		}}
	case 5, 6:
		return on(fmt.Sprintf("connections to %s are cut", to), func(_ *world, p *process) { p.each(to, (*link).cut) })
	case 7:
		return on(fmt.Sprintf("the network to %s swallows everything for %s", to, d), func(w *world, p *process) {
			p.silence(to, true)
			w.after(d, "the network works again", func() { p.silence(to, false) })
		})
	case 8:
		slow := [2]time.Duration{time.Duration(m.r.IntN(300)) * time.Millisecond, time.Duration(m.r.IntN(300)) * time.Millisecond}
		return on(fmt.Sprintf("the network to %s is slow %v for %s", to, slow, d), func(w *world, p *process) {
			p.slow(to, slow)
			w.after(d, "the network is fast again", func() { p.slow(to, w.o.latency[to]) })
		})
	case 9, 10:
		return on("Kafka's next answers are lost", func(_ *world, p *process) { p.each(kafkaSide, (*link).loseAnswer) })
	case 11:
		return step{what: fmt.Sprintf("all brokers are down for %s", d), do: func(w *world) {
			w.fault()
			w.kafka.shut(true)
			w.after(d, "the brokers are up", func() { w.kafka.shut(false) })
		}}
	case 12, 13:
		return m.refusal()
	case 14:
		return m.storeFault(d)
	case 15:
		return step{what: fmt.Sprintf("the server stops (crash %t) and is up after %s", yes, d), do: func(w *world) {
			w.fault()
			w.server.stop(yes)
			w.lostPositions()
			w.after(d, "the server starts", w.server.start)
		}}
	case 16:
		return step{what: "a checkpoint", do: func(w *world) { w.server.checkpoint() }}
	case 17:
		with := m.r.IntN(3) > 0
		return step{what: fmt.Sprintf("the standby is promoted (slot %t)", with), do: func(w *world) {
			w.fault()
			if w.o.standby {
				w.server.promoteStreaming(with)
				return
			}
			w.server.promote(with)
			w.lostPositions()
		}}
	case 18:
		return step{what: fmt.Sprintf("the standby lags for %s", d), do: func(w *world) {
			w.server.update(func() { w.server.lagging = true })
			w.after(d, "the standby catches up", func() { w.server.update(func() { w.server.lagging = false }) })
		}}
	case 19:
		return on(fmt.Sprintf("the process is paused for %s", d), func(w *world, p *process) {
			w.blurred = true
			p.pause(true)
			w.after(d, p.name+" goes on", func() { p.pause(false) })
		})
	}
	if m.r.IntN(2) == 0 {
		return m.handover()
	}
	if yes {
		return step{what: "a second process starts", do: func(w *world) {
			w.fault()
			if len(w.processes) < 2 {
				w.startProcess(false)
			}
		}}
	}
	return step{what: fmt.Sprintf("the walsender decodes a large transaction of others for %s", d), do: func(w *world) {
		w.disturb(d + effects)
		w.server.busy(d)
	}}
}

// handover is a process that is replaced while what it has sent last is still on its
// way: killed, or cut off from PostgreSQL with a second one beside it.
func (m *maker) handover() step {
	which, killed, back, calm := m.r.Uint64(), m.r.IntN(2) == 0, time.Duration(m.r.IntN(400))*time.Millisecond, time.Duration(m.r.IntN(800))*time.Millisecond
	return step{what: fmt.Sprintf("a process is replaced after %s (killed %t), what it has sent comes after %s", back, killed, calm), do: func(w *world) {
		w.fault()
		p := w.some(which)
		if p == nil {
			return
		}
		w.note("  %s", p.name)
		p.silence(kafkaSide, true)
		w.after(calm, "what was sent comes", func() { p.silence(kafkaSide, false) })
		if killed {
			w.kill(p, true)
			w.restarts = append(w.restarts, restart{time.Now().Add(back), false})
			return
		}
		p.each(postgresSide, (*link).cut)
		if len(w.processes) < 2 {
			w.restarts = append(w.restarts, restart{time.Now().Add(back), false})
		}
	}}
}

// refusal is an answer of the brokers that is no success. With REQUEST_TIMED_OUT the
// request was carried out, with the others it was not.
func (m *maker) refusal() step {
	type answer struct {
		key kmsg.Key
		err *kerr.Error
	}
	answers := []answer{
		{kmsg.Produce, kerr.NotLeaderForPartition}, {kmsg.Produce, kerr.RequestTimedOut}, {kmsg.Produce, kerr.NotEnoughReplicas},
		{kmsg.Produce, kerr.NotEnoughReplicasAfterAppend}, {kmsg.Produce, kerr.UnknownTopicOrPartition},
		{kmsg.Metadata, kerr.LeaderNotAvailable}, {kmsg.InitProducerID, kerr.CoordinatorLoadInProgress},
	}
	if m.o.exactly {
		answers = append(answers, answer{kmsg.InitProducerID, kerr.CoordinatorNotAvailable}, answer{kmsg.InitProducerID, kerr.ConcurrentTransactions},
			answer{kmsg.AddPartitionsToTxn, kerr.ConcurrentTransactions}, answer{kmsg.AddPartitionsToTxn, kerr.NotCoordinator},
			answer{kmsg.EndTxn, kerr.NotCoordinator}, answer{kmsg.EndTxn, kerr.CoordinatorLoadInProgress}, answer{kmsg.EndTxn, kerr.ConcurrentTransactions},
			answer{kmsg.FindCoordinator, kerr.CoordinatorNotAvailable})
	}
	a, n := pick(m.r, answers...), 1+m.r.IntN(4)
	return step{what: fmt.Sprintf("%d requests %s are answered with %s", n, a.key.Name(), a.err.Message), do: func(w *world) {
		w.fault()
		h := w.kafka.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{a.key}, Err: a.err, Count: n})
		w.after(20*time.Second, "requests are answered again", h.Remove)
	}}
}

// storeFault keeps positions from being stored, perhaps beyond the end of a process
// that is asked to stop.
func (m *maker) storeFault(d time.Duration) step {
	hangs, stops, which := m.r.IntN(2) == 0, m.r.IntN(3) == 0, m.r.Uint64()
	if stops {
		d += 30 * time.Second
	}
	return step{what: fmt.Sprintf("the store of positions fails (hangs %t) for %s, a stop %t", hangs, d, stops), do: func(w *world) {
		w.fault()
		if p := w.some(which); stops && p != nil && !p.stopping {
			w.commit(1+int(which%3), which)                 // which is published, and not stored
			soon := time.Duration(which) % w.o.confirmEvery // mostly before the session has tried to store it
			w.after(max(soon, -soon), p.name+" is to stop", func() {
				if !p.stopping {
					p.askStop(false, time.Second)
				}
			})
		}
		if w.o.store == "file" && !w.o.exactly {
			w.disk.fail(hangs)
			w.after(d, "the store works again", w.disk.heal)
			return
		}
		h := w.kafka.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: positionsTopic, Err: kerr.NotEnoughReplicas, Count: -1})
		w.after(d, "the store works again", h.Remove)
	}}
}

// lostPositions notes that the slot may be where it was before.
func (w *world) lostPositions() {
	v := w.verifier
	v.mu.Lock()
	defer v.mu.Unlock()
	w.falls++
	if w.slotOnly() {
		v.clean = 0
	}
}

// slotOnly reports whether nothing but the slot knows how far the outbox is published: also
// where a store has nothing yet. The caller holds verifier.mu.
func (w *world) slotOnly() bool {
	return w.o.store == "slot" && !w.o.exactly || !w.verifier.remembered
}

// createTopics makes the topics that are missing.
func (w *world) createTopics() {
	for _, topic := range w.topics {
		if w.kafka.cluster.TopicInfo(topic) == nil {
			_ = w.kafka.cluster.CreateTopic(topic, int32(w.o.partitions), nil)
		}
	}
}

// refusedMark is in the payload of a row that the brokers refuse. In a dead letter it
// reads otherwise: the payload is text there.
const refusedMark = `,"refused":true`

// refuseMarked refuses for ever what holds a row with the mark, as a broker does: its
// batch as a whole. The other partitions of the request are to be tried again.
func (k *kafka) refuseMarked() {
	k.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.KeepControl()
		produce := request.(*kmsg.ProduceRequest)
		response := produce.ResponseKind().(*kmsg.ProduceResponse)
		refused := false
		for _, t := range produce.Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.NotEnoughReplicas.Code
				if bytes.Contains(p.Records, []byte(refusedMark)) {
					partition.ErrorCode, refused = kerr.InvalidRecord.Code, true
				}
				answer.Partitions = append(answer.Partitions, partition)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, refused
	})
}

// shut closes the brokers' doors, or opens them.
func (k *kafka) shut(on bool) {
	k.mu.Lock()
	k.down = on
	links := append([]*link(nil), k.links...)
	k.mu.Unlock()
	if !on {
		return
	}
	for _, l := range links {
		l.cut()
	}
}

// busy keeps the walsender from sending and reading.
func (s *postgres) busy(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slot == nil || s.slot.sender == nil {
		return
	}
	w := s.slot.sender
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busyUntil = time.Now().Add(d)
}

func (d *disk) fail(hangs bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hangs && d.hangs == nil {
		d.hangs = make(chan struct{})
	}
	d.failing = d.failing || !hangs
}

func (d *disk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hangs != nil {
		close(d.hangs)
		d.hangs = nil
	}
	d.failing = false
}
