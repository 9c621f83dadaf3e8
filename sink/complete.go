package sink

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// A coordinator asked whether a transaction is complete is asked again after
	// completeEvery, for completeWait at most: a broker that is down may keep it from
	// completing, and then the next transaction's first request is what waits.
	completeEvery = time.Millisecond
	completeWait  = 100 * time.Millisecond
	// farAway is from which round trip on nobody asks: what is sent then arrives so late
	// that the transaction is complete.
	farAway = 5 * time.Millisecond
)

// completed waits until the coordinator has completed the transaction that it was told to
// commit: it answers as soon as the decision is written, and then writes a marker into each
// partition. A request that begins the next transaction before that is not refused outright:
// Kafka 4 keeps it and tries again after add.partitions.to.txn.retry.backoff.ms (20 ms), an older
// one has the client try again, which does so after as long. Completing takes a tenth of
// that, so that asking until it is done is much the shorter way. What cannot be asked is
// not waited for: the transaction is committed in any case.
//
// The right to write with a transactional id contains the one to describe it.
func (k *Kafka) completed(ctx context.Context) {
	if k.txn.roundTrip >= farAway {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, completeWait)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(completeEvery):
		}
		r := kmsg.NewPtrDescribeTransactionsRequest()
		r.TransactionalIDs = []string{k.txn.name}
		answer, err := r.RequestWith(ctx, k.client)
		if err != nil || len(answer.TransactionStates) != 1 || answer.TransactionStates[0].State != "PrepareCommit" {
			return // also with a broker that does not know the request
		}
	}
}
