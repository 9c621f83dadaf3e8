package sink

import (
	"fmt"
	"strconv"
	"testing"
	"time"
)

// What a transaction that was aborted has sent is seen by nobody, at once: readers need not
// wait for its time-out. The sink is of no further use, and the next one goes on.
func TestAbort(t *testing.T) {
	c := transactionBroker(t)
	s := &sender{t: t, k: transactionalSink(t, c, func(o *Options) { o.TransactionTimeout = 15 * time.Minute })}
	s.send(testTopic, "k", "aborted")
	if err := s.k.Flush(limited(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.k.Abort(limited(t)); err != nil {
		t.Fatal(err)
	}
	if s.k.Err() == nil {
		t.Error("the sink takes more events")
	}
	s.k.Close()
	if got := seen(t, c, testTopic); len(got) != 0 {
		t.Errorf("committed: %q", got)
	}
	s = &sender{t: t, k: transactionalSink(t, c)}
	s.send(testTopic, "k", "next")
	if err := commitWith(t, s.k, "up to next"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(seen(t, c, testTopic)); got != "[next]" {
		t.Errorf("committed: %s", got)
	}
}

// What a transaction remembers is bounded when its events are of few topics and one time,
// as those of a backfill are, and nothing is forgotten.
func TestLongTransactionRemembersLittle(t *testing.T) {
	var txn transaction
	at, topics := time.Now(), 7
	const events = 10 * joinAt
	most := 0
	for i := range events {
		txn.note(strconv.Itoa(i%topics), at)
		most = max(most, len(txn.acked))
	}
	if most > joinAt {
		t.Errorf("%d entries", most)
	}
	n := make(map[string]int)
	for _, e := range txn.acked {
		if e.committed != at {
			t.Fatalf("%+v", e)
		}
		n[e.topic] += e.events
	}
	for i := range topics {
		if got := n[strconv.Itoa(i)]; got < events/topics || got > events/topics+1 {
			t.Errorf("topic %d has %d events", i, got)
		}
	}
	// Different times cannot be joined, and are not looked at again and again.
	txn = transaction{}
	for i := range 4 * joinAt {
		txn.note("t", at.Add(time.Duration(i)))
	}
	if len(txn.acked) != 4*joinAt || txn.joinAt < 4*joinAt {
		t.Errorf("%d entries, joined next at %d", len(txn.acked), txn.joinAt)
	}
}

// A commit counts each event of a joined entry.
func TestCommitCountsJoinedEvents(t *testing.T) {
	acked := 0
	s := &sender{t: t, k: transactionalSink(t, transactionBroker(t), func(o *Options) {
		o.OnAck = func(string, time.Time, time.Time) { acked++ }
	})}
	for range 5 {
		s.send(testTopic, "k", "v")
	}
	if err := s.k.Flush(limited(t)); err != nil {
		t.Fatal(err)
	}
	s.k.txn.join()
	if err := commitWith(t, s.k, "up to v"); err != nil {
		t.Fatal(err)
	}
	if acked != 5 {
		t.Errorf("%d events were counted", acked)
	}
}
