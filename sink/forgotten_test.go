package sink

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"outboxd/internal/uptime"
)

// An id that the brokers have forgotten was not taken by anybody.
func TestForgottenID(t *testing.T) {
	k := &Kafka{txn: &transaction{timeout: TransactionTimeout}}
	if err := k.explain(kerr.InvalidProducerIDMapping); !errors.Is(err, ErrForgotten) || errors.Is(err, ErrFenced) || errors.Is(err, ErrExpired) {
		t.Errorf("forgotten: %v", err)
	}
	if err := k.explain(kerr.ProducerFenced); !errors.Is(err, ErrFenced) || errors.Is(err, ErrForgotten) {
		t.Errorf("taken: %v", err)
	}
	if err := k.explain(kerr.InvalidTxnState); errors.Is(err, ErrExpired) {
		t.Errorf("a transaction that is young: %v", err)
	}
	k.txn.since.Store(int64(uptime.Of(time.Now().Add(-TransactionTimeout))))
	if err := k.explain(kerr.InvalidTxnState); !errors.Is(err, ErrExpired) {
		t.Errorf("the coordinator has ended it: %v", err)
	}
}
