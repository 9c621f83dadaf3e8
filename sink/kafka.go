// Package sink delivers records to Kafka, whatever their format. It answers once
// for each: acknowledged, or the whole sink has failed.
//
// Every record is sent with acks=all by an idempotent producer that retries
// without end, so within a partition records arrive in the order of Send. The
// first record that cannot be delivered fails the sink for good: nothing after
// it may be confirmed, and a new sink has to start again before it.
package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/record"
	"outboxd/internal/uptime"
)

// Kafka delivers to one cluster. Next, Send and Drained belong to one goroutine.
type Kafka struct {
	client *kgo.Client
	admin  *kadm.Client
	create CreateTopics
	log    zerolog.Logger
	onAck  func(topic string, committed, acked time.Time)
	trace  func(*record.Record) func(time.Time)
	finish func(*kgo.Record, error) // k.finished, bound once

	spares  spares
	backlog backlog
	learned *Learned
	codec   kgo.Compressor // nil: none
	// waitWith is how the sending goroutine waits, see WaitWith; nil: it blocks.
	waitWith func(done <-chan struct{}) error
	// partitionsAfter is when the brokers may be asked for a topic's partitions again.
	partitionsAfter time.Time
	// askAfter is when they may be asked for topics' limits again, as of uptime.Of.
	askAfter atomic.Int64
	// held counts records that wait for their topic.
	held atomic.Int64
	// singles counts topics some of whose records go one by one.
	singles   atomic.Int32
	throttles throttles
	answers   *answers

	// ctx ends with the first failure, which is its cause.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// sending is the context of every record. It ends with ctx, and already
	// when the client reads that a batch was refused: see refusals.
	sending context.Context
	pauses  pauses

	inFlight atomic.Int64
	txn      *transaction // nil: the sink is not transactional

	// progress is when Kafka last acknowledged something, or when the first
	// event was sent after a time with nothing in flight; as of uptime.Of.
	progress atomic.Int64

	mu sync.Mutex
	// topics are those that were sent to. Only the sending goroutine adds to them.
	topics map[string]*topic
	toAsk  []*topic // the brokers are to be asked about them
	asking bool     // a goroutine is at it
	// running are the goroutines that the sending one has started. Close waits for them.
	running sync.WaitGroup
}

// New makes the client. It does not connect: a broker that is down is found by
// the first record, and waited for.
func New(o Options) (*Kafka, error) {
	k := &Kafka{
		create: o.CreateTopics,
		log:    o.Log,
		onAck:  o.OnAck,
		trace:  o.Trace,
		topics: make(map[string]*topic),

		learned: o.Learned,
		answers: newAnswers(),
	}
	if k.learned == nil {
		k.learned = NewLearned()
	}
	k.finish = k.finished
	if k.spares.budget = o.Budget; o.Budget == nil {
		k.spares.budget = noBudget{}
	}
	k.spares.inFlight = &k.inFlight
	k.backlog.init(k.produce, o.Backlog)
	k.backlog.delays = o.SendDelays
	k.pauses.clock = o.Clock
	k.pauses.begin()
	compression, codec, err := compression(o.Compression)
	if err != nil {
		return nil, err
	}
	k.codec = codec
	k.throttles.log, k.throttles.said = o.Log, &k.learned.throttleSaid
	k.ctx, k.cancel = context.WithCancelCause(context.Background())
	var stopSending context.CancelFunc
	k.sending, stopSending = context.WithCancel(k.ctx)
	k.backlog.byPartition(k.sending, &k.spares, o.ManyPartitions)
	o.Learned = k.learned
	opts := append(o.Connection(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		compression,
		kgo.ProducerLinger(o.Linger),
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil), k.backlog.learn, stopSending}),
		// The bound is on memory and lies before the sink (the frames' memory);
		// a second one here could only block the reader of the replication
		// connection, which must keep answering keepalives.
		kgo.MaxBufferedRecords(1<<30),
		// A topic just made, or a broker just restarted, is unknown for a
		// while. Giving up would fail everything that is buffered.
		kgo.UnknownTopicRetries(-1),
		// A broker that lost acknowledged records must not be written to as if
		// nothing had happened.
		kgo.StopProducerOnDataLossDetected(),
		kgo.ProducerBatchMaxBytesFn(k.batchLimit),
		kgo.WithLogger(refusals{clientLog{o.Log}, stopSending}),
		kgo.Dialer(k.answers.over(o.dial(func(conn net.Conn) net.Conn { return &guarded{conn, k} }))),
		kgo.WithHooks(&k.throttles, k.answers),
	)
	opts = append(opts, retries(&k.progress)...)
	if !o.CreateTopics.Enabled {
		// The broker's own setting decides, as for any producer.
		opts = append(opts, kgo.AllowAutoTopicCreation())
	}
	if o.TransactionalID != "" {
		opts = append(opts, k.transactional(o)...)
	}
	k.client, err = kgo.NewClient(append(opts, o.Client...)...)
	if err != nil {
		return nil, fmt.Errorf("configure Kafka client: %w", err)
	}
	k.admin = kadm.NewClient(k.client)
	if k.pauses.limit = o.PauseLimit; k.pauses.limit > 0 {
		k.running.Go(k.alive) // until Close, at the latest
	}
	return k, nil
}

// Next returns an empty delivery to fill and Send.
func (k *Kafka) Next() *Delivery { return k.spares.get(k.sending) }

// Return takes back the delivery that Next returned last, which is not sent.
func (k *Kafka) Return() { k.spares.unget() }

// Shed gives up memory that is kept to be used again, so many bytes if there are. It
// returns how many. Any goroutine may call it.
func (k *Kafka) Shed(bytes int) (shed int) {
	piles := &k.backlog.piles
	for _, give := range []func(int) int{k.spares.shed, piles.chunks.shed, piles.sent.shed} {
		if shed < bytes {
			shed += give(bytes - shed)
		}
	}
	return shed
}

// ErrUndeliverable is wrapped by the errors of an event that can never be
// delivered as it is.
var ErrUndeliverable = record.ErrUndeliverable

// Send hands a finished record to the client. It does not wait for Kafka, but where
// the record cannot be judged without an answer: a large one of a topic that is new, or
// larger than the topic takes as far as is known. It waits as WaitWith says. After an
// error the delivery was not taken: neither receipt nor memory is told.
// ErrUndeliverable concerns this event alone, another error may pass.
func (k *Kafka) Send(d *Delivery) error {
	if err := k.prepare(d); err != nil {
		k.spares.unget()
		return err
	}
	k.spares.most = max(k.spares.most, min(len(d.Headers), record.MaxHeaders))
	if k.inFlight.Add(1) == 1 {
		k.progress.Store(int64(uptime.Of(time.Now())))
		k.spares.busy()
		k.backlog.piles.sent.busy()
	}
	d.topic.unacked.Add(1)
	if k.txn != nil {
		k.txn.send(k, d)
	} else {
		k.backlog.send(d)
	}
	return nil
}

// prepare makes the delivery's record, if it can be sent.
func (k *Kafka) prepare(d *Delivery) (err error) {
	if d.topic, err = k.topicOf(d.Topic); err != nil {
		return err
	}
	d.size = wireSize(&d.Record.Record)
	if err := k.admit(d.topic, d); err != nil {
		return err
	}
	return k.checkPartition(d)
}

// finished runs on the client's goroutine, once for each record.
func (k *Kafka) finished(r *kgo.Record, err error) {
	d := r.Context.(*Delivery)
	if err == nil && k.txn != nil {
		err = k.txn.holds(r)
	}
	t, size := d.topic, d.size
	at := d.Position
	if err != nil {
		k.fail(d, err)
		k.discard(d)
		if !t.open.Load() {
			k.room(t, at, size, false)
		}
		return
	}
	now := time.Now()
	k.progress.Store(int64(uptime.Of(now)))
	switch {
	case k.txn != nil:
		k.txn.note(d.Topic, d.CommittedAt)
	case k.onAck != nil:
		k.onAck(d.Topic, d.CommittedAt, now)
	}
	if k.trace != nil {
		k.traced(d, now)
	}
	receipt, memory, charged := d.Receipt, d.Memory, d.charged
	put(d)
	memory.Release(charged)
	t.unacked.Add(-1)
	if k.inFlight.Add(-1) == 0 {
		k.rest()
	}
	if !t.open.Load() {
		k.room(t, at, size, true)
	}
	receipt.Acknowledge()
}

// traced ends the span of an acknowledged event, or keeps it for the commit.
func (k *Kafka) traced(d *Delivery, now time.Time) {
	end := k.trace(&d.Record)
	switch {
	case end == nil:
	case k.txn != nil && len(k.txn.spans) < mostSpans:
		k.txn.spans = append(k.txn.spans, end)
	default:
		end(now)
	}
}

// discard gives up an event that is not delivered.
func (k *Kafka) discard(d *Delivery) {
	memory, charged, t := d.Memory, d.charged, d.topic
	put(d)
	memory.Release(charged)
	t.unacked.Add(-1)
	if k.inFlight.Add(-1) == 0 {
		k.rest()
	}
}

// rest is called when nothing is in flight any more.
func (k *Kafka) rest() {
	k.spares.rest()
	k.backlog.piles.sent.rest()
}

// Failed returns a channel that is closed at the first failed delivery; Err then
// says why.
func (k *Kafka) Failed() <-chan struct{} { return k.ctx.Done() }

// Err returns the first failure, or nil.
func (k *Kafka) Err() error {
	if k.ctx.Err() == nil {
		return nil
	}
	return context.Cause(k.ctx)
}

// InFlight returns how many events were sent and not yet answered.
func (k *Kafka) InFlight() int64 { return k.inFlight.Load() }

// Waiting returns how long Kafka has acknowledged nothing although something is
// in flight.
func (k *Kafka) Waiting() time.Duration {
	if k.inFlight.Load() == 0 {
		return 0
	}
	return time.Since(uptime.At(time.Duration(k.progress.Load())))
}

// UnackedTopics returns the topics of what is in flight, by name. It looks at every topic
// that was sent to.
func (k *Kafka) UnackedTopics() (names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, t := range k.topics {
		if t.unacked.Load() > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Close gives up what is still in flight. After it nothing more is answered, and nothing
// that the sink has started runs.
func (k *Kafka) Close() {
	k.cancel(errors.New("sink closed"))
	k.backlog.stop(k.discard)
	k.answers.end()
	k.answers.close()
	k.client.Close()
	k.mu.Lock()
	topics := slices.Collect(maps.Values(k.topics))
	k.mu.Unlock()
	for _, t := range topics {
		k.release(t) // which gives up what waits
	}
	k.running.Wait()
	defer k.closeSpares()
	if k.txn != nil {
		for _, d := range k.txn.queue {
			k.discard(d)
		}
		k.txn.queue = nil
	}
}

func (k *Kafka) closeSpares() {
	k.spares.close()
	piles := &k.backlog.piles
	piles.spares.close()
	piles.sent.close()
	piles.chunks.close()
}
