package simulate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// brokerFault makes a step in which the brokers have different faults: one is gone, or
// slow, while the others go on, so that acknowledgements of later events come first; or its
// connections are slow, and new ones are not, when the sink fails; or partitions change their
// leader, with what was sent to the old one still on its way.
func (m *maker) brokerFault() step {
	node, d, choice, yes := m.r.IntN(m.o.brokers), m.lasts(), m.r.Uint64(), m.r.IntN(2) == 0
	soon := time.Duration(m.r.IntN(3000)) * time.Millisecond
	switch m.r.IntN(10) {
	case 0, 1, 2:
		what := "its partitions have no leader"
		if yes {
			what = fmt.Sprintf("the others lead its partitions after %s", soon)
		}
		return step{what: fmt.Sprintf("broker %d is down for %s, %s", node, d, what), do: func(w *world) {
			w.fault()
			w.kafka.stop(node, true)
			leaderless := w.kafka.withoutLeader(w.kafka.led(node))
			w.after(d, fmt.Sprintf("broker %d is up", node), func() { w.kafka.stop(node, false); leaderless.Remove() })
			if yes {
				w.after(soon, "leaders are elected", func() { w.kafka.moveLeaders(node, newRand(choice)); leaderless.Remove() })
			}
		}}
	case 3:
		return step{what: fmt.Sprintf("the network to broker %d swallows everything for %s (its partitions move %t)", node, d, yes), do: func(w *world) {
			w.fault()
			w.kafka.silence(node, true)
			w.after(d, "the network works again", func() { w.kafka.silence(node, false) })
			if yes {
				w.after(soon, "leaders are elected", func() { w.kafka.moveLeaders(node, newRand(choice)) })
			}
		}}
	case 4, 5:
		slow := [2]time.Duration{time.Duration(m.r.IntN(300)) * time.Millisecond, time.Duration(m.r.IntN(300)) * time.Millisecond}
		if yes {
			return m.lostSegment(node, slow, soon)
		}
		return step{what: fmt.Sprintf("broker %d is slow %v for %s", node, slow, d), do: func(w *world) {
			w.fault()
			w.kafka.slow(node, slow)
			w.after(d, fmt.Sprintf("broker %d is fast again", node), func() { w.kafka.slow(node, [2]time.Duration{}) })
		}}
	case 6:
		return step{what: fmt.Sprintf("the next answers of broker %d are lost (its partitions move %t)", node, yes), do: func(w *world) {
			w.fault()
			for _, l := range w.kafka.to(node, func(*broker) {}) {
				l.loseAnswer()
			}
			if yes {
				w.kafka.moveLeaders(node, newRand(choice))
			}
		}}
	case 7:
		return step{what: "coordinators move", do: func(w *world) {
			w.fault()
			w.kafka.cluster.RehashCoordinators()
		}}
	case 8:
		return step{what: fmt.Sprintf("a partition has no leader for %s", d), do: func(w *world) {
			w.fault()
			all := w.kafka.led(-1)
			if len(all) == 0 {
				return
			}
			one := w.kafka.withoutLeader([]partition{all[choice%uint64(len(all))]})
			w.after(d, "it has a leader again", one.Remove)
		}}
	}
	return step{what: "partitions change their leaders", do: func(w *world) {
		w.fault()
		w.kafka.moveLeaders(-1, newRand(choice))
	}}
}

// lostSegment makes a step in which the connections to one broker become slow while another
// one refuses a record: what the sink that fails has sent arrives late, over connections that
// it has closed, and the next sink has fast ones.
func (m *maker) lostSegment(node int, slow [2]time.Duration, soon time.Duration) step {
	rows, choice := 20+m.r.IntN(100), m.r.Uint64()
	slow[0] += time.Duration(m.r.IntN(500)) * time.Millisecond
	return step{what: fmt.Sprintf("the connections to broker %d are slow %v, others refuse a record of the next %d rows, and %d more come after %s", node, slow, rows, rows, soon/5), do: func(w *world) {
		w.fault()
		for _, l := range w.kafka.to(node, func(*broker) {}) {
			l.slow(slow[0], slow[1])
		}
		var others []int32
		for n := range w.kafka.brokers {
			if n != node {
				others = append(others, int32(n))
			}
		}
		h := w.kafka.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Nodes: others, Err: kerr.TopicAuthorizationFailed})
		w.commit(rows, choice)
		w.wait(soon / 5)
		w.commit(rows, choice+1)
		w.after(time.Second, "no record is refused", h.Remove)
	}}
}

// broker is the network before one broker, the same for every process.
type broker struct {
	down    bool // no connection is taken
	silent  bool
	latency [2]time.Duration // if not zero, instead of the process's
}

// brokerAddress is where a broker listens.
func brokerAddress(node int) address { return address(fmt.Sprintf("localhost:%d", firstPort+node)) }

// addresses are what kafka.brokers has.
func (k *kafka) addresses() (all []string) {
	for node := range k.brokers {
		all = append(all, string(brokerAddress(node)))
	}
	return all
}

// to changes a broker's network, and returns the connections of all processes to it.
func (k *kafka) to(node int, change func(*broker)) []*link {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.brokers[node])
	var links []*link
	for _, l := range k.links {
		if l.to == brokerAddress(node) && !l.done() {
			links = append(links, l)
		}
	}
	return links
}

// stop ends one broker, or starts it.
func (k *kafka) stop(node int, on bool) {
	for _, l := range k.to(node, func(b *broker) { b.down = on }) {
		if on {
			l.cut()
		}
	}
}

// silence makes the network to one broker swallow everything, or lets it go again.
func (k *kafka) silence(node int, on bool) {
	for _, l := range k.to(node, func(b *broker) { b.silent = on }) {
		l.silence(on)
	}
}

// slow sets how long what is sent to one broker, and answered, is on its way; zero is as
// long as to the others.
func (k *kafka) slow(node int, d [2]time.Duration) {
	links := k.to(node, func(b *broker) { b.latency = d })
	if d == [2]time.Duration{} {
		d = k.w.o.latency[kafkaSide]
	}
	for _, l := range links {
		l.slow(d[0], d[1])
	}
}

// led returns the partitions that a broker leads; of any, if node is negative.
func (k *kafka) led(node int) (all []partition) {
	for _, topic := range append([]string{positionsTopic}, k.w.topics...) {
		for _, p := range k.cluster.PartitionInfos(topic) {
			if node < 0 || int(p.Leader) == node {
				all = append(all, partition{topic, p.Partition})
			}
		}
	}
	return all
}

// moveLeaders gives the partitions that a broker leads to others; those of all brokers
// to any, if node is negative.
func (k *kafka) moveLeaders(node int, r *rand.Rand) {
	for _, p := range k.led(node) {
		to := r.IntN(len(k.brokers))
		if to == node {
			to = (to + 1) % len(k.brokers)
		}
		_ = k.cluster.MoveTopicPartition(p.topic, p.n, int32(to))
	}
}

// withoutLeader lets partitions have no leader until the fault is removed.
func (k *kafka) withoutLeader(all []partition) *kfake.FaultHandle {
	var faults []kfake.Fault
	for topic, of := range byTopic(all) {
		faults = append(faults,
			kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: topic, Partitions: of, Err: kerr.LeaderNotAvailable, Count: -1},
			kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: of, Err: kerr.NotLeaderForPartition, Count: -1})
	}
	return k.cluster.Fault(faults...)
}

func byTopic(all []partition) map[string][]int32 {
	topics := make(map[string][]int32)
	for _, p := range all {
		if !slices.Contains(topics[p.topic], p.n) {
			topics[p.topic] = append(topics[p.topic], p.n)
		}
	}
	return topics
}
