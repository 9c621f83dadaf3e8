package sink

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"outboxd/internal/memory"
	"outboxd/internal/record"
)

// alwaysHeavy makes a backlog believe that there is heavy traffic, however slowly a test
// sends.
func alwaysHeavy(b *backlog) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heavy, b.since = true, time.Now().Add(time.Hour)
}

// piling is a backlog of piles whose client is the test.
type piling struct {
	*testing.T
	b     backlog
	topic *topic
	from  *spares
	mu    sync.Mutex
	got   []*Delivery
	sent  int
}

func newPiling(t *testing.T, limit int64, partitions int32) *piling {
	p := &piling{T: t, topic: &topic{name: testTopic}, from: &spares{budget: noBudget{}, inFlight: new(atomic.Int64)}}
	p.topic.open.Store(true)
	p.b.init(func(d *Delivery) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.got = append(p.got, d)
	}, limit)
	p.b.delays = new(atomic.Int64)
	p.b.byPartition(t.Context(), p.from, 1)
	p.b.learn(p.topic, int(partitions))
	alwaysHeavy(&p.b)
	return p
}

// send sends an event that names its partition.
func (p *piling) send(partition int32, lateness time.Duration) {
	p.sendValue(partition, lateness, []byte("value"))
}

func (p *piling) sendValue(partition int32, lateness time.Duration, value []byte) {
	p.from.inFlight.Add(1)
	p.sent++
	d := p.from.get(p.Context())
	d.fill(p.sent, value)
	d.CommittedAt = time.Now().Add(-lateness)
	d.Topic, d.topic, d.Partition, d.Key = testTopic, p.topic, partition, []byte("k")
	w := new(witness)
	d.Receipt, d.Memory = w, w
	d.size = wireSize(&d.Record.Record)
	p.b.send(d)
}

// took returns the numbers of what the client has got since, by partition.
func (p *piling) took() (numbers map[int32][]uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	numbers = make(map[int32][]uint32)
	for _, d := range p.got {
		numbers[d.Partition] = append(numbers[d.Partition], d.Position.Number)
		d.Memory.Release(0)
		put(d)
	}
	p.got = nil
	return numbers
}

func (p *piling) want(what string, want map[int32][]uint32) {
	p.Helper()
	if got := p.took(); fmt.Sprint(got) != fmt.Sprint(want) {
		p.Errorf("%s: the client has %v, want %v", what, got, want)
	}
}

// Late events wait by partition until their time has come. One in time waits for nothing
// and overtakes nothing of its partition; those of others go on waiting.
func TestPilesKeepTheOrder(t *testing.T) {
	p := newPiling(t, 1<<20, 3)
	began := time.Now()
	p.send(0, time.Hour)
	p.send(1, time.Hour)
	p.send(0, time.Hour)
	p.send(2, 0)
	p.b.mu.Lock()
	p.b.piles.untilAt = 0 // the clock is read for the next one
	p.b.mu.Unlock()
	p.send(0, 0)
	if got := p.took(); time.Since(began) < pileWait && fmt.Sprint(got) != fmt.Sprint(map[int32][]uint32{0: {1, 3, 5}, 2: {4}}) {
		t.Errorf("the client has %v", got)
	}
	p.send(1, time.Hour)
	until(t, "the others have waited long enough", func() bool {
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		return p.b.piles.first == nil
	})
	if n := p.b.delays.Load(); n != 4 {
		t.Errorf("%d events are counted as delayed, want 4", n)
	}
	p.send(2, time.Hour)
	p.b.stop(func(d *Delivery) {
		if d.Position.Number != 7 {
			t.Errorf("number %d was given back", d.Position.Number)
		}
		d.Memory.Release(0)
	})
}

// When no event comes any more, and Kafka has answered what it got, there is nothing to
// wait for.
func TestPilesWaitForNothing(t *testing.T) {
	p := newPiling(t, 1<<20, 3)
	p.b.piles.wait = time.Hour
	p.send(0, 100*time.Hour)
	p.send(1, 100*time.Hour)
	until(t, "all are sent", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.got) == 2
	})
	p.send(2, 100*time.Hour)
	time.Sleep(3 * lookEvery)
	p.mu.Lock()
	if n := len(p.got); n != 2 {
		t.Errorf("%d events are sent, and two are not answered", n)
	}
	p.mu.Unlock()
	p.took()
	until(t, "the last one is sent", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.got) == 1
	})
	p.took()
}

// When no more may wait, the fullest piles are sent, and no more than may be with the
// client; the next ones when half of them are answered.
func TestPilesSendTheFullest(t *testing.T) {
	p := newPiling(t, 1<<20, 100)
	s := &p.b.piles
	s.most, s.chunks.enough, s.wait, s.look = 40, 20, time.Hour, time.Hour
	random := rand.New(rand.NewPCG(1, 1))
	counts := make([]int, 100)
	for s.bytes+chunkBytes+chunkOverhead < s.limit {
		partition := int32(random.IntN(50))
		if random.IntN(3) == 0 {
			partition = int32(random.IntN(100))
		}
		p.send(partition, time.Hour)
		counts[partition]++
		if len(p.got) > 0 {
			t.Fatal("something was sent before the limit")
		}
	}
	for len(p.got) == 0 {
		partition := int32(random.IntN(50))
		p.send(partition, time.Hour)
		counts[partition]++
	}
	p.mu.Lock()
	first := len(p.got)
	p.mu.Unlock()
	if first < 20 || first >= 40+chunkEvents {
		t.Errorf("%d events were sent, want half of 40 and not more than 40", first)
	}
	slices.Sort(counts)
	for partition, numbers := range p.took() {
		if n := len(numbers); n < counts[90] && n%chunkEvents != 0 {
			t.Errorf("partition %d had %d events; there are ten with %d or more", partition, n, counts[90])
		}
		if !slices.IsSorted(numbers) {
			t.Errorf("out of order: %v", numbers)
		}
	}
	for s.bytes < s.limit+10*(chunkBytes+chunkOverhead) { // as many as may be are with the client
		p.send(int32(random.IntN(50)), time.Hour)
	}
	p.mu.Lock()
	if n := len(p.got); n <= 20 || n >= 40+chunkEvents {
		t.Errorf("%d events are with the client, want more than half of 40 and not more than 40", n)
	}
	p.mu.Unlock()
	p.took()
	until(t, "the next ones are sent", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.got) > 0
	})
	p.took()
	p.b.stop(func(d *Delivery) { d.Memory.Release(0) })
}

// A topic that gets more partitions has its keys elsewhere from then on: what waits goes
// first.
func TestPilesOfATopicThatGrows(t *testing.T) {
	p := newPiling(t, 1<<20, 3)
	p.send(0, time.Hour)
	p.send(2, time.Hour)
	p.b.learn(p.topic, 4)
	p.send(3, time.Hour)
	p.want("the topic has grown", map[int32][]uint32{0: {1}, 2: {2}})
	p.b.stop(func(d *Delivery) { d.Memory.Release(0) })
}

// Through a broker: each event once, in the order of its key, whatever is late; and memory
// stays within its limit while Kafka does not answer.
func TestPilesEndToEnd(t *testing.T) {
	t.Run("small", func(t *testing.T) { pilesEndToEnd(t, 40_000, 400) })
	t.Run("large", func(t *testing.T) { pilesEndToEnd(t, 2_000, 30_000) })
}

func pilesEndToEnd(t *testing.T, events, size int) {
	const partitions, keys, limit = 200, 5000, 8 << 20
	c := broker(t, partitions)
	ledger := memory.New(limit)
	k := open(t, c, func(o *Options) {
		o.Backlog, o.Budget = limit/backlogPart, ledger
	})
	ledger.OnShortage(k.Shed)
	s := &sender{t: t, k: k}
	s.send(testTopic, key(0), "0")
	s.delivered()
	release := hold(t, c)
	alwaysHeavy(&k.backlog)
	random := rand.New(rand.NewPCG(1, 2))
	buffer := memory.NewBuffer(ledger)
	most, held := int64(0), true
	for i := 1; i < events; i++ {
		wait := short
		if !held {
			wait = limited
		}
		frame, err := buffer.Make(wait(t), size)
		if err != nil { // Kafka does not answer, and the memory is used up
			if !held {
				t.Fatal(err)
			}
			held = false
			if a, s := ledger.Accounts(), &k.backlog.piles; !s.sent.used || size < largeValue && a.Deliveries < int64(s.sent.bytes+s.limit) {
				t.Errorf("%s: the memory of what is sent is not set aside, or what waits does not reach its limit", a)
			}
			release()
			if frame, err = buffer.Make(limited(t), size); err != nil {
				t.Fatal(err)
			}
		}
		most = max(most, ledger.Used())
		number := frame[:copy(frame, fmt.Sprint(i))]
		payload := frame[:copy(frame, fmt.Sprintf("%d ", i))]
		if size > largeValue {
			payload = frame[:size-1000]
		}
		w := new(witness)
		d := k.Next()
		d.fill(i+1, payload)
		if !held && random.IntN(100) == 0 { // before, it would keep its block
			d.CommittedAt = time.Now()
		}
		d.Topic, d.Key, d.ID = testTopic, fmt.Append(nil, key(random.IntN(keys))), number
		d.Headers = append(d.Headers, record.Header{Key: "id", Value: number}, record.Header{Key: "pad", Value: frame[size-300:]})
		buffer.Block().Retain()
		d.Receipt, d.Memory = w, both{w, buffer.Block()}
		if err := k.Send(d); err != nil {
			t.Fatal(err)
		}
		s.sent = append(s.sent, w)
	}
	buffer.Close()
	release()
	s.delivered()
	if held {
		t.Error("memory was not used up while Kafka did not answer")
	}
	if most > limit+limit/8 {
		t.Errorf("%d bytes were in use, the limit is %d", most, limit)
	}
	if used := ledger.Used(); used != 0 {
		t.Errorf("with nothing in flight %s", ledger.Accounts())
	}
	last := make(map[string]int)
	for _, r := range consume(t, c, events) {
		var n int
		if _, err := fmt.Sscan(string(r.Value), &n); err != nil {
			t.Fatal(err)
		}
		if at, ok := last[string(r.Key)]; ok && n <= at {
			t.Fatalf("key %s: %d after %d", r.Key, n, at)
		}
		last[string(r.Key)] = n
	}
}

// Of 600 partitions, in the memory that is there by default, batches have fifty records.
func TestPilesFillBatches(t *testing.T) {
	const partitions, events, limit = 600, 200_000, 20 << 20
	p := newPiling(t, limit/backlogPart, partitions)
	p.b.piles.wait, p.b.piles.look = time.Hour, time.Hour
	batches, last, sent := 0, int32(-1), 0
	p.b.produce = func(d *Delivery) {
		if sent++; d.Partition != last {
			batches, last = batches+1, d.Partition
		}
		d.Memory.Release(0)
		put(d)
	}
	random := rand.New(rand.NewPCG(1, 3))
	value := make([]byte, 400)
	for range events {
		p.sendValue(random.Int32N(partitions), time.Hour, value)
	}
	if batches == 0 || sent/batches < 50 {
		t.Errorf("%d events in %d batches", sent, batches)
	}
	p.b.stop(func(d *Delivery) {})
}

// both are told of the release.
type both struct {
	w *witness
	b *memory.Block
}

func (b both) Charge(n int) { b.b.Charge(n) }
func (b both) Release(n int) {
	b.w.Release(0)
	b.b.Release(n)
}
