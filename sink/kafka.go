// Package sink encodes values and delivers messages to Kafka. It answers once
// for each message: acknowledged, or the whole sink has failed.
//
// Every record is sent with acks=all by an idempotent producer that retries
// without end, so within a partition records arrive in the order of Send. The
// first record that cannot be delivered fails the sink for good: nothing after
// it may be confirmed, and a new sink has to start again before it.
package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"outboxd/decoder"
	"outboxd/router"
)

// Options configure a Kafka sink. See kafka.* and value.* in the configuration.
type Options struct {
	Brokers     []string
	ClientID    string
	Compression string // none, gzip, snappy, lz4, zstd
	Linger      time.Duration
	TLS         *tls.Config    // nil: plaintext
	SASL        sasl.Mechanism // nil: none
	Value       Value
	// CreateTopics makes topics that are missing.
	CreateTopics CreateTopics
	// Backlog is how many bytes of late events are kept together to make larger
	// batches; 0: none. Transactions do without.
	Backlog int64
	// Budget accounts for the memory of deliveries; nil: there is no limit.
	Budget Budget
	// PauseLimit is how long the process may be stopped before the sink gives up
	// what is buffered, because another process may have taken over. 0: for ever.
	PauseLimit time.Duration
	// TransactionalID makes the sink transactional: see Fence. "": it is not.
	TransactionalID string
	// TransactionTimeout is the transactions' time-out, 0 for the default.
	TransactionTimeout time.Duration
	Log                zerolog.Logger
	// OnAck, if set, is called for each acknowledged event from the client's
	// goroutine, before its receipt is told. With transactions it is called by
	// Commit.
	OnAck func(topic string, committed, acked time.Time)
	// Client adds options of the Kafka client; tests use it.
	Client []kgo.Opt
}

// Kafka delivers to one cluster. Next, Send and Drained belong to one goroutine.
type Kafka struct {
	client *kgo.Client
	admin  *kadm.Client
	value  Value
	create CreateTopics
	log    zerolog.Logger
	onAck  func(topic string, committed, acked time.Time)
	finish func(*kgo.Record, error) // k.finished, bound once

	spares  spares
	backlog backlog
	limits  map[string]limit // by topic
	// partitions is how many partitions topics have, of those that were asked.
	partitions map[string]int32
	// askAfter and partitionsAfter are when the brokers may be asked for a limit,
	// or a topic's partitions, again.
	askAfter, partitionsAfter time.Time

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
	// event was sent after a time with nothing in flight; Unix nanoseconds.
	progress atomic.Int64

	mu     sync.Mutex
	topics map[string]limit // the limits again, for other goroutines
}

// New makes the client. It does not connect: a broker that is down is found by
// the first record, and waited for.
func New(o Options) (*Kafka, error) {
	k := &Kafka{
		value:  o.Value,
		create: o.CreateTopics,
		log:    o.Log,
		onAck:  o.OnAck,
		limits: make(map[string]limit),

		partitions: make(map[string]int32),
		topics:     make(map[string]limit),
	}
	k.finish = k.finished
	if k.spares.budget = o.Budget; o.Budget == nil {
		k.spares.budget = noBudget{}
	}
	k.backlog.init(k.produce, o.Backlog)
	now := time.Now()
	k.pauses.beat.Store(&now)
	compression, err := compression(o.Compression)
	if err != nil {
		return nil, err
	}
	k.ctx, k.cancel = context.WithCancelCause(context.Background())
	var stopSending context.CancelFunc
	k.sending, stopSending = context.WithCancel(k.ctx)
	plaintext := o
	plaintext.TLS = nil // the dialer below does it
	opts := append(plaintext.Connection(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		compression,
		kgo.ProducerLinger(o.Linger),
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil), stopSending}),
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
		kgo.Dialer(k.dial(o.TLS)),
	)
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
		go k.alive() // until Close, at the latest
	}
	return k, nil
}

// Connection returns the options of a client of the same cluster.
func (o *Options) Connection() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...),
		kgo.ClientID(o.ClientID),
		kgo.RetryBackoffFn(retryBackoff),
		kgo.WithLogger(clientLog{o.Log}),
	}
	if o.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(o.TLS))
	}
	if o.SASL != nil {
		opts = append(opts, kgo.SASL(o.SASL))
	}
	return opts
}

// retryBackoff waits 50 ms after the first failure and at most 2 s: a broker
// that comes back is used at once, one that stays away is not hammered.
func retryBackoff(tries int) time.Duration {
	return min(50*time.Millisecond<<min(tries-1, 10), 2*time.Second)
}

// Next returns an empty delivery to fill and Send.
func (k *Kafka) Next() *Delivery { return k.spares.get(k.sending) }

// Return takes back the delivery that Next returned last, which is not sent.
func (k *Kafka) Return() { k.spares.unget() }

// Shed gives up deliveries that are kept to be used again, of so many bytes if there
// are. It returns of how many. Any goroutine may call it.
func (k *Kafka) Shed(bytes int) (shed int) { return k.spares.shed(bytes) }

// Send encodes the event's value and hands the delivery to the client. It does
// not wait for Kafka, but for the question how large a record a topic takes that
// was not sent to before. After an error the delivery was not taken: neither
// receipt nor memory is told. ErrUndeliverable concerns this event alone, another
// error may pass.
func (k *Kafka) Send(ev *decoder.Event, d *Delivery) error {
	value, err := k.value.encode(ev, d)
	if err != nil {
		return err
	}
	timestamp, err := k.value.timestamp(ev)
	if err != nil {
		return err
	}
	d.id, d.position, d.committed = ev.Values[decoder.ID], ev.Position, ev.CommittedAt
	d.record = kgo.Record{
		Topic:     d.Topic,
		Key:       d.Key,
		Value:     value,
		Headers:   d.Headers,
		Timestamp: timestamp,
		Context:   d,
	}
	if err := k.admit(&d.record); err != nil {
		return err
	}
	if err := k.checkPartition(d); err != nil {
		return err
	}
	d.charge()
	k.spares.most = max(k.spares.most, min(len(d.Headers), router.MaxHeaders))
	if k.inFlight.Add(1) == 1 {
		k.progress.Store(time.Now().UnixNano())
	}
	if k.txn != nil {
		k.txn.produce(k, d)
		return nil
	}
	k.backlog.send(d)
	return nil
}

func (k *Kafka) produce(d *Delivery) { k.client.Produce(k.sending, &d.record, k.finish) }

// finished runs on the client's goroutine, once for each record.
func (k *Kafka) finished(r *kgo.Record, err error) {
	d := r.Context.(*Delivery)
	if err == nil && k.txn != nil {
		err = k.txn.holds(r)
	}
	if err != nil {
		k.fail(d, err)
		d.Memory.Release(d.charged)
		k.inFlight.Add(-1)
		return
	}
	now := time.Now()
	k.progress.Store(now.UnixNano())
	switch {
	case k.txn != nil:
		k.txn.acked = append(k.txn.acked, ackedEvent{d.Topic, d.committed})
	case k.onAck != nil:
		k.onAck(d.Topic, d.committed, now)
	}
	receipt, memory, charged := d.Receipt, d.Memory, d.charged
	k.spares.put(d)
	memory.Release(charged)
	k.inFlight.Add(-1)
	receipt.Acknowledge()
}

// fail ends the sink with the first error. What comes after it is its
// consequence, and is not reported.
func (k *Kafka) fail(d *Delivery, err error) {
	if k.ctx.Err() != nil {
		return
	}
	if k.sending.Err() != nil && errors.Is(err, context.Canceled) {
		// Not the refused record, but one that was kept back because of it.
		// The refused one's own answer is on its way here.
		return
	}
	err = fmt.Errorf("deliver event id %q at position %s to topic %q: %w", d.id[:min(len(d.id), maxIDShown)], d.position, d.Topic, k.lost(err))
	if errors.Is(err, kerr.InvalidTimestamp) && k.value.Timestamp != BusinessTime {
		err = fmt.Errorf("%w; the record's time is %s: set the clocks of PostgreSQL, this host and the brokers right, or raise message.timestamp.after.max.ms of the topic",
			err, d.record.Timestamp.UTC().Format(time.RFC3339))
	}
	if k.permanent(d.Topic, err) {
		err = fmt.Errorf("%w: %w (the broker refuses a batch as a whole: it may be another event of the same one)", ErrUndeliverable, err)
	}
	k.cancel(&FailedError{err, d.position})
}

const maxIDShown = 200

// FailedError is the failure of a sink.
type FailedError struct {
	Err error
	// Position is that of the event that could not be delivered, zero when it
	// was not about one.
	Position decoder.Position
}

func (e *FailedError) Error() string { return e.Err.Error() }
func (e *FailedError) Unwrap() error { return e.Err }

// permanent tells the broker's answers that trying again cannot change: they are
// about the record itself. A batch too large is not among them, nor a time that is
// refused: the limit is another than we know, and the next sink asks again. Only
// where it may not ask there is nothing to learn.
func (k *Kafka) permanent(topic string, err error) bool {
	if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) {
		return k.limit(topic).source == forbidden
	}
	if errors.Is(err, kerr.InvalidTimestamp) {
		// The clocks of PostgreSQL and Kafka may be set right; a column stays.
		return k.value.Timestamp == BusinessTime && k.limit(topic).source == forbidden
	}
	return errors.Is(err, kerr.InvalidRecord) || errors.Is(err, kerr.InvalidTopicException)
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
	return time.Since(time.Unix(0, k.progress.Load()))
}

// Close gives up what is still in flight. After it nothing more is answered.
func (k *Kafka) Close() {
	k.cancel(errors.New("sink closed"))
	k.backlog.stop(k.discard)
	k.client.Close()
	if k.txn != nil {
		for _, d := range k.txn.queue {
			k.discard(d)
		}
		k.txn.queue = nil
	}
}

// discard gives up what was never handed to the client.
func (k *Kafka) discard(d *Delivery) {
	d.Memory.Release(d.charged)
	k.inFlight.Add(-1)
}
