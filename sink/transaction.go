package sink

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/event"
	"outboxd/internal/uptime"
)

// TransactionTimeout is after how long the coordinator aborts a transaction by
// itself, unless the options say otherwise. Ours take half a second at most,
// so that this is about a process that has died or stands still: for as long,
// readers of committed records wait behind what it has left open, if no other
// process takes its place.
const TransactionTimeout = 10 * time.Second

// transaction is what a transactional sink has beside another. Its fields belong to the goroutine that may call Send: see Kafka.Seal.
//
// A record's receipt is told when it is acknowledged as part of the transaction.
// That everything is acknowledged is the condition of the commit; that it counts
// is decided by the commit alone, together with the position that it carries.
type transaction struct {
	name    string // the transactional id
	timeout time.Duration
	id      int64 // of the producer
	epoch   int16
	events  int
	last    event.Position // of the newest event in this transaction or before
	sealed  bool
	queue   []*Delivery // sent since the transaction was sealed
	begun   chan struct{}

	// roundTrip is the shortest time in which the coordinator has ended a transaction,
	// 0 at first.
	roundTrip time.Duration

	// since is the time of its first event as of uptime.Of, 0 while there is
	// none; the client's goroutine reads it too.
	since atomic.Int64
	// acked belongs to the client's goroutine, and after Flush to its caller.
	acked []ackedEvent
	// joinAt is the length of acked at which equal entries are joined, if it is more
	// than the constant.
	joinAt int
	// spans are to be ended by the commit; like acked.
	spans []func(acked time.Time)
}

// ackedEvent stands for acknowledged events of one topic and one time of commit.
type ackedEvent struct {
	topic     string
	committed time.Time
	events    int
}

// What a transaction remembers of its events is bounded, however many a backfill puts
// into it: the rows of a backfill have one time of commit, so that few entries are left
// when equal ones are joined, and spans above the limit end with the acknowledgement.
const (
	joinAt    = 100_000 // twice what a keeper puts into a transaction
	mostSpans = 100_000
)

// note keeps an acknowledged event for the commit.
func (t *transaction) note(topic string, committed time.Time) {
	if last := len(t.acked) - 1; last >= 0 && t.acked[last].topic == topic && t.acked[last].committed == committed {
		t.acked[last].events++
		return
	}
	if len(t.acked) >= max(joinAt, t.joinAt) {
		t.join()
	}
	t.acked = append(t.acked, ackedEvent{topic, committed, 1})
}

// join makes one entry of equal ones.
func (t *transaction) join() {
	type kind struct {
		topic     string
		committed time.Time
	}
	at := make(map[kind]int)
	joined := t.acked[:0]
	for _, e := range t.acked {
		i, ok := at[kind{e.topic, e.committed}]
		if !ok {
			at[kind{e.topic, e.committed}] = len(joined)
			joined = append(joined, e)
			continue
		}
		joined[i].events += e.events
	}
	t.acked, t.joinAt = joined, 2*len(joined)
}

// transactional makes k transactional, and returns its client's options.
func (k *Kafka) transactional(o Options) []kgo.Opt {
	k.txn = &transaction{name: o.TransactionalID, begun: make(chan struct{}, 1), timeout: o.TransactionTimeout}
	if k.txn.timeout == 0 {
		k.txn.timeout = TransactionTimeout
	}
	// Copies that wait by partition take a multiple of their memory once they are with the
	// client, where all of them have to be before a transaction ends.
	k.backlog.many = 0
	return []kgo.Opt{kgo.TransactionalID(o.TransactionalID), kgo.TransactionTimeout(k.txn.timeout)}
}

// Fence takes the transactional id: what an older producer has left open is
// aborted, what it was committing is committed, and nothing that it sends from
// here on counts. Only after Fence is it certain what is committed. It is called
// before the first Send.
func (k *Kafka) Fence(ctx context.Context) error {
	if _, _, err := k.client.ProducerID(ctx); err != nil {
		return fmt.Errorf("take the transactional id: %w", err)
	}
	return k.begin(ctx)
}

// begin opens the next transaction. That is no request: the coordinator hears of
// it with the first record.
func (k *Kafka) begin(ctx context.Context) error {
	if err := k.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	id, epoch, err := k.client.ProducerID(ctx)
	if err == nil && id < 0 {
		err = errors.New("the brokers know no transactions")
	}
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	t := k.txn
	t.id, t.epoch = id, epoch
	t.events = 0
	t.since.Store(0)
	return nil
}

// Begun returns a channel that tells when a transaction has its first event.
func (k *Kafka) Begun() <-chan struct{} { return k.txn.begun }

// Age returns for how long the transaction has had an event, 0 if it has none,
// and how many there are. Like Seal, it must not be called beside Send.
func (k *Kafka) Age() (time.Duration, int) {
	return k.txn.age(), k.txn.events
}

// Lateness returns by how much events in heavy traffic are late, 0 if they are not.
func (k *Kafka) Lateness() time.Duration {
	k.backlog.mu.Lock()
	defer k.backlog.mu.Unlock()
	return k.backlog.lateBy
}

func (t *transaction) age() time.Duration {
	since := t.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(uptime.At(time.Duration(since)))
}

// send puts an event into the transaction, or keeps it for the next.
func (t *transaction) send(k *Kafka, d *Delivery) {
	if t.sealed {
		d.charge()
		t.queue = append(t.queue, d)
		return
	}
	if t.events++; t.events == 1 {
		t.since.Store(int64(uptime.Of(time.Now())))
		select {
		case t.begun <- struct{}{}:
		default:
		}
	}
	t.last = d.Position
	k.backlog.send(d)
}

// Seal closes the transaction for further events: what is sent from here on is
// kept for the next. Seal, Unseal and Age are called by the goroutine that sends,
// or while that one is kept from it.
func (k *Kafka) Seal() { k.txn.sealed = true }

// OneByOne reports whether records of some topic go one by one, because one of them was
// refused: what is kept while a transaction is ended would make the next one long.
func (k *Kafka) OneByOne() bool { return k.singles.Load() > 0 }

// Unseal lets go of what was kept.
func (k *Kafka) Unseal() {
	t := k.txn
	t.sealed = false
	for i, d := range t.queue {
		t.send(k, d)
		t.queue[i] = nil
	}
	t.queue = t.queue[:0]
}

// Newest returns the position of the newest event in the sealed transaction, or
// in one before.
func (k *Kafka) Newest() event.Position { return k.txn.last }

// Flush waits until everything in the transaction is acknowledged. An error of
// the context is returned, and any other makes the sink fail.
func (k *Kafka) Flush(ctx context.Context) error {
	k.backlog.release()
	for {
		waiting := k.held.Load() > 0 // for their topics
		if err := k.client.Flush(ctx); err != nil {
			return fmt.Errorf("wait for acknowledgements: %w", err)
		}
		if !waiting || k.ctx.Err() != nil {
			return k.whole()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for acknowledgements: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// whole checks that nothing in the transaction has failed.
func (k *Kafka) whole() error {
	switch {
	case k.ctx.Err() != nil:
		return k.Err()
	case k.sending.Err() != nil:
		return k.broken(errors.New("a record was refused"))
	}
	return nil
}

// Commit puts one more record, if any, into the sealed and flushed transaction and ends
// it; after that another is open, and the coordinator can take it. An error makes the
// sink fail, since only the next one can learn whether the transaction is committed; but
// that of the context, whose end is the sink's too.
func (k *Kafka) Commit(ctx context.Context, r *kgo.Record) error {
	if err := k.whole(); err != nil {
		return err
	}
	var err error
	if r != nil {
		done := make(chan error, 1)
		k.client.Produce(k.ctx, r, func(r *kgo.Record, err error) {
			if err == nil {
				err = k.txn.holds(r)
			}
			done <- err
		})
		select {
		case err = <-done:
		case <-ctx.Done(): // the client itself waits for the brokers, whatever the context
			return ctx.Err()
		}
	}
	if err != nil {
		return k.broken(fmt.Errorf("write the transaction's last record to topic %q: %w", r.Topic, err))
	}
	if err := k.partitionsStored(ctx); err != nil {
		return err
	}
	// The client gets itself a new producer id in some faults, and goes on. Then
	// the transaction holds only the records since.
	id, epoch, err := k.client.ProducerID(ctx)
	if err == nil && (id != k.txn.id || epoch != k.txn.epoch) {
		err = errProducerChanged
	}
	asked := time.Now()
	if err == nil {
		err = k.client.EndTransaction(ctx, kgo.TryCommit)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return k.broken(fmt.Errorf("commit transaction: %w", err))
	}
	now := time.Now()
	if took := now.Sub(asked); r != nil && (k.txn.roundTrip == 0 || took < k.txn.roundTrip) {
		k.txn.roundTrip = took // otherwise the client may have had nothing to ask for
	}
	k.progress.Store(int64(uptime.Of(now)))
	for _, e := range k.txn.acked {
		for range e.events {
			if k.onAck != nil {
				k.onAck(e.topic, e.committed, now)
			}
		}
	}
	k.txn.acked, k.txn.joinAt = k.txn.acked[:0], 0
	for _, end := range k.txn.spans {
		end(now)
	}
	clear(k.txn.spans)
	k.txn.spans = k.txn.spans[:0]
	if err := k.begin(ctx); err != nil {
		k.cancel(&FailedError{Err: err}) // the one before is committed
	}
	k.completed(ctx)
	return nil
}

// Abort ends the transaction so that nothing of it counts, and that readers of committed
// records need not wait for its time-out. What is in flight is abandoned, and the sink
// fails. An error means that the coordinator or the next producer has to do it.
func (k *Kafka) Abort(ctx context.Context) error {
	k.cancel(&FailedError{Err: errors.New("the transaction was aborted")})
	if err := k.client.AbortBufferedRecords(ctx); err != nil {
		return fmt.Errorf("abort transaction: %w", err)
	}
	if err := k.client.EndTransaction(ctx, kgo.TryAbort); err != nil {
		return fmt.Errorf("abort transaction: %w", err)
	}
	return nil
}

// partitionsStored waits until the client's EndTransaction sees every partition that has
// an acknowledged record. It is called when nothing is buffered.
//
// franz-go v1.22.3 (storePartitionsUpdate) stores the partitions of a topic that it did
// not know only after it has partitioned the records that waited for them:
//
//   - the metadata of a new topic arrives, and its records are partitioned;
//   - another goroutine sends them, and they are acknowledged;
//   - EndTransaction looks at the partitions of all topics, and there are none of this
//     one: it does not restart their sequence numbers with the new epoch, so that the
//     next transaction gets OUT_OF_ORDER_SEQUENCE_NUMBER. Where the transaction has no
//     other topic, it takes it for empty, aborts it, and returns nil;
//   - the metadata's goroutine stores the partitions.
//
// The client holds a lock from the first step to the last, which AbortBufferedRecords
// acquires. This can go when the client stores before it partitions.
func (k *Kafka) partitionsStored(ctx context.Context) error {
	return k.client.AbortBufferedRecords(ctx)
}

// broken fails the sink for what happened to the transaction, and returns the
// first failure.
func (k *Kafka) broken(err error) error {
	k.cancel(&FailedError{Err: k.explain(err)})
	return k.Err()
}

// Fail ends the sink for a reason of its caller's.
func (k *Kafka) Fail(err error) { k.cancel(&FailedError{Err: err}) }
