package sink

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	// ErrFenced is wrapped by the failure of a sink whose transactional id
	// another producer has taken.
	ErrFenced = errors.New("another producer has taken the transactional id")
	// ErrForgotten is wrapped by the failure of a sink whose producer id the brokers
	// have forgotten, as they do with one that sent nothing for long. The next sink gets
	// another.
	ErrForgotten = errors.New("the brokers have forgotten the producer, which sent nothing for longer than producer.id.expiration.ms or transactional.id.expiration.ms; a new one starts")
	// ErrExpired is wrapped by the failure of a sink that lost its transactional
	// id and may have lost it to the coordinator, which ends a transaction that
	// takes too long in the same way as another producer does.
	ErrExpired = errors.New("the transaction took too long, or another producer has taken the transactional id")
)

var errProducerChanged = errors.New("the client has got itself another producer id inside the transaction")

// holds checks that an acknowledged record is in this transaction.
func (t *transaction) holds(r *kgo.Record) error {
	if r.ProducerID != t.id || r.ProducerEpoch != t.epoch {
		return fmt.Errorf("%w: producer %d epoch %d instead of %d epoch %d", errProducerChanged, r.ProducerID, r.ProducerEpoch, t.id, t.epoch)
	}
	return nil
}

// explain says so when err means that the producer is no longer known to the brokers,
// or that the transactional id is no longer ours. Kafka answers a produce request with
// INVALID_PRODUCER_EPOCH and the end of a transaction with PRODUCER_FENCED or
// INVALID_PRODUCER_EPOCH, whether another producer has come or the coordinator has
// ended a transaction that took too long. Only its age makes a difference here: a young
// one has not timed out.
func (k *Kafka) explain(err error) error {
	switch {
	case errors.Is(err, kerr.UnknownProducerID), errors.Is(err, kerr.InvalidProducerIDMapping):
		return fmt.Errorf("%w: %w", ErrForgotten, err)
	case errors.Is(err, kerr.UnknownTopicID):
		return fmt.Errorf("the topic was deleted and recreated: %w", err)
	case k.txn == nil:
	case errors.Is(err, kerr.InvalidTxnState) && k.txn.age() > k.txn.timeout/2:
		// The coordinator has ended the transaction, and the producer may go on.
		return fmt.Errorf("%w: %w", ErrExpired, err)
	case !errors.Is(err, kerr.InvalidProducerEpoch) && !errors.Is(err, kerr.ProducerFenced):
	case k.txn.age() > k.txn.timeout/2:
		return fmt.Errorf("%w: %w", ErrExpired, err)
	default:
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}
