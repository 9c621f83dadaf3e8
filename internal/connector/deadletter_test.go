package connector

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/decoder"
	"outboxd/internal/deadletter"
	"outboxd/internal/flow"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/poison"
	"outboxd/internal/record"
	"outboxd/offsets"
	"outboxd/router"
	"outboxd/sink"
)

const letterTopic = "letters"

// setsAside makes the harness set events aside that are of type bad.
func (h *harness) setsAside(change func(*deadletter.Options)) {
	h.t.Helper()
	h.o.Rules.Overrides = []router.Override{{Type: "bad", Topic: "__no"}}
	topic, err := deadletter.Open(deadletter.TopicOptions{Topic: letterTopic, Slot: "outboxd", Log: h.o.Log,
		Client: []kgo.Opt{kgo.SeedBrokers(h.kafka.ListenAddrs()...), kgo.MetadataMinAge(10 * time.Millisecond)}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(topic.Close)
	o := deadletter.Options{Topic: letterTopic, Always: true, Count: 100, Within: time.Minute, Log: h.o.Log, Prepare: topic.Prepare,
		OnLetter: func(kind poison.Kind) { h.o.Status.DeadLettered(string(kind)) }}
	if change != nil {
		change(&o)
	}
	h.o.DeadLetters = deadletter.NewWriter(o)
}

// letters are the unresolved dead letters, as kind and id, in their order.
func (h *harness) letters() (found []string) {
	h.t.Helper()
	topic, err := deadletter.Open(deadletter.TopicOptions{Topic: letterTopic, Slot: "outboxd", Log: h.o.Log,
		Client: []kgo.Opt{kgo.SeedBrokers(h.kafka.ListenAddrs()...), kgo.MetadataMinAge(10 * time.Millisecond)}})
	if err != nil {
		h.t.Fatal(err)
	}
	defer topic.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := topic.Each(ctx, deadletter.Selection{}, nil, func(f deadletter.Found) error {
		found = append(found, fmt.Sprintf("%s %s", f.Kind, f.Values[0]))
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return found
}

// admin changes the broker's topics.
func (h *harness) admin() *kadm.Client {
	h.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(h.kafka.ListenAddrs()...))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// bad makes rows with these ids poison.
func bad(ids ...string) func(id string) []string {
	return func(id string) []string {
		if slices.Contains(ids, id) {
			return []string{id, "bad", "a", "k", "{}"}
		}
		return []string{id, "t", "a", "k", "{}"}
	}
}

func eachGuarantee(t *testing.T, f func(t *testing.T, h *harness)) {
	for name, exactly := range map[string]bool{"at least once": false, "exactly once": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			if exactly {
				h.exactlyOnce()
			}
			f(t, h)
		})
	}
}

// Events that can never be delivered go to their topic, their neighbours to theirs, and
// the position passes them; a restart repeats none.
func TestDeadLetters(t *testing.T) {
	eachGuarantee(t, func(t *testing.T, h *harness) {
		h.setsAside(nil)
		tx := h.server.commitRows(bad("2", "4"), "1", "2", "3", "4", "5")
		h.run()
		h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
		h.stop()
		if err := h.end(); err != nil {
			t.Fatal(err)
		}
		if got := h.letters(); !slices.Equal(got, []string{"forbidden_topic 2", "forbidden_topic 4"}) {
			t.Errorf("dead letters %q", got)
		}
		if ids := h.committed(); !slices.Equal(ids, []string{"1", "3", "5"}) {
			t.Errorf("published %q", ids)
		}
		if h.log.count("events set aside as dead letters") != 2 { // the first, and the rest at the end
			t.Errorf("said %d times", h.log.count("events set aside"))
		}
	})
}

// No position passes an event before Kafka has its dead letter: a process that ends in
// between sets it aside again, and nothing is lost.
func TestDeadLetterBeforePosition(t *testing.T) {
	eachGuarantee(t, func(t *testing.T, h *harness) {
		h.setsAside(nil)
		first := h.server.commit("1")
		h.run()
		h.until("confirmed", func() bool { return h.server.slotLSN() == first.end })
		var stuck atomic.Bool
		stuck.Store(true)
		var refused atomic.Int32
		h.kafka.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
			h.kafka.KeepControl()
			letter := func(topic kmsg.ProduceRequestTopic) bool { // which may come with an event of another topic
				return topic.Topic == letterTopic || topic.TopicID == h.kafka.TopicInfo(letterTopic).TopicID
			}
			if stuck.Load() && slices.ContainsFunc(r.(*kmsg.ProduceRequest).Topics, letter) {
				refused.Add(1)
				return nil, errors.New("gone"), true
			}
			return nil, nil, false
		})
		tx := h.server.commitRows(bad("2"), "2", "3")
		h.until("the dead letter is sent", func() bool { return refused.Load() > 0 })
		time.Sleep(100 * time.Millisecond)
		if got := h.server.slotLSN(); got >= tx.commit {
			t.Fatalf("confirmed %s, and Kafka does not have the dead letter", got)
		}
		h.hurry()
		h.stop()
		_ = h.end()
		if got := h.server.slotLSN(); got >= tx.commit {
			t.Fatalf("confirmed %s at the end, and Kafka does not have the dead letter", got)
		}
		stuck.Store(false)
		again := newHarness(t)
		again.kafka, again.server, again.o.Sink.Brokers = h.kafka, h.server, h.o.Sink.Brokers
		if h.o.Positions != nil {
			again.exactlyOnce()
		}
		again.setsAside(nil)
		again.run()
		again.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
		if got := again.letters(); !slices.Equal(got, []string{"forbidden_topic 2"}) {
			t.Errorf("dead letters %q", got)
		}
		ids := again.committed()
		if h.o.Positions == nil {
			ids = slices.Compact(ids) // what was in flight may repeat
		}
		if !slices.Equal(ids, []string{"1", "3"}) {
			t.Errorf("published %q", ids)
		}
	})
}

// A broker that refuses records after they were handed over: exactly these events are
// set aside, by their positions, also two of one transaction; nothing else is lost,
// reordered, or repeated with transactions.
func TestLateRefusals(t *testing.T) {
	eachGuarantee(t, func(t *testing.T, h *harness) {
		h.setsAside(nil)
		h.kafka.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
			h.kafka.KeepControl()
			return refuse(h, r.(*kmsg.ProduceRequest), "refuse me", letterTopic)
		})
		row := func(id string) []string {
			payload := "{}"
			if id == "7" || id == "13" || id == "22" {
				payload = `"refuse me"`
			}
			return []string{id, "t", "a", "k", payload}
		}
		var ids []string
		for n := range 20 {
			ids = append(ids, fmt.Sprint(n))
		}
		h.server.commitRows(row, ids...)
		tx := h.server.commitRows(row, "20", "21", "22", "23")
		h.run()
		h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
		h.stop()
		if err := h.end(); err != nil {
			t.Fatal(err)
		}
		if got := h.letters(); !slices.Equal(got, []string{"refused 7", "refused 13", "refused 22"}) {
			t.Errorf("dead letters %q", got)
		}
		// Each refusal costs a session, and no longer a wait than the one before.
		for _, m := range regexp.MustCompile(`"retry_in":"([^"]+)"`).FindAllStringSubmatch(h.log.String(), -1) {
			if wait, err := time.ParseDuration(m[1]); err != nil || wait > h.o.RetryMin {
				t.Errorf("a wait of %s after a refusal, want at most %s", m[1], h.o.RetryMin)
			}
		}
		got := h.committed()
		if h.o.Positions == nil {
			got = firsts(got)
		}
		var want []string
		for n := range 24 {
			if n != 7 && n != 13 && n != 22 {
				want = append(want, fmt.Sprint(n))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("published %q", got)
		}
	})
}

// firsts are the first occurrences, in order.
func firsts(ids []string) (first []string) {
	for _, id := range ids {
		if !slices.Contains(first, id) {
			first = append(first, id)
		}
	}
	return first
}

// refuse answers a batch that holds some text with INVALID_RECORD, unless it is of one
// topic.
func refuse(h *harness, req *kmsg.ProduceRequest, text, but string) (kmsg.Response, error, bool) {
	found := false
	for _, topic := range req.Topics {
		for _, p := range topic.Partitions {
			mine := topic.Topic != but && topic.TopicID != h.kafka.TopicInfo(but).TopicID
			found = found || mine && strings.Contains(string(p.Records), text)
		}
	}
	if !found {
		return nil, nil, false
	}
	return refused(req, kerr.InvalidRecord), nil, true
}

// refused answers a request with an error of each of its partitions.
func refused(req *kmsg.ProduceRequest, err *kerr.Error) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, err.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// One event is set aside by hand; the next one ends the run, which is told how.
func TestRunDeadLetter(t *testing.T) {
	eachGuarantee(t, func(t *testing.T, h *harness) {
		tx := h.server.commitRows(bad("2", "4"), "1", "2", "3", "4", "5")
		at := decoder.Position{CommitLSN: tx.commit, Number: 2}
		h.setsAside(func(o *deadletter.Options) { o.Always, o.Only = false, at })
		h.run()
		err := h.end()
		next := decoder.Position{CommitLSN: tx.commit, Number: 4}
		if !errors.Is(err, flow.ErrPoison) || !strings.Contains(err.Error(), "`outboxd run --dead-letter "+next.String()+"`") || !strings.Contains(err.Error(), "--from-lsn") {
			t.Fatalf("ended with %v", err)
		}
		if got := h.letters(); !slices.Equal(got, []string{"forbidden_topic 2"}) {
			t.Errorf("dead letters %q", got)
		}
		if ids := h.committed(); !slices.Equal(ids, []string{"1", "3"}) {
			t.Errorf("published %q", ids)
		}
		if h.log.count("the event of --dead-letter is set aside") != 1 {
			t.Error("it is not said that the event is set aside")
		}
	})
}

// An event that can be delivered is published, whatever is asked of it, and that is said;
// so is a position at which there is none.
func TestRunDeadLetterOfAGoodEvent(t *testing.T) {
	for name, test := range map[string]struct {
		number uint32
		says   string
	}{"good": {2, "can be delivered as far as is known"}, "none": {9, "no event at the position"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			tx := h.server.commit("1", "2", "3")
			h.setsAside(func(o *deadletter.Options) {
				o.Always, o.Only = false, decoder.Position{CommitLSN: tx.commit, Number: test.number}
			})
			last := h.server.commit("4")
			h.run()
			h.until("confirmed", func() bool { return h.server.slotLSN() == last.end })
			h.logged(test.says)
			h.stop()
			if err := h.end(); err != nil {
				t.Fatal(err)
			}
			if got := h.letters(); got != nil || h.log.count("--dead-letter") != 1 {
				t.Errorf("dead letters %q, said %d times", got, h.log.count("--dead-letter"))
			}
			if ids := h.records(); !slices.Equal(ids, []string{"1", "2", "3", "4"}) {
				t.Errorf("published %q", ids)
			}
		})
	}
}

// A deployment that is broken stops, with what was set aside before kept and confirmed.
func TestTooManyDeadLetters(t *testing.T) {
	eachGuarantee(t, func(t *testing.T, h *harness) {
		h.setsAside(func(o *deadletter.Options) { o.Count = 3 })
		var last fakeTx
		for n := range 3 {
			last = h.server.commitRows(bad(fmt.Sprint(n)), fmt.Sprint(n))
		}
		h.server.commitRows(bad("3"), "3")
		h.run()
		err := h.end()
		if !errors.Is(err, deadletter.ErrTooMany) || !strings.Contains(err.Error(), "all of kind forbidden_topic") || !strings.Contains(err.Error(), `event id "0"`) || !strings.Contains(err.Error(), "dead-letters retry") {
			t.Fatalf("ended with %v", err)
		}
		if got := h.letters(); len(got) != 3 {
			t.Errorf("dead letters %q", got)
		}
		if got := h.server.slotLSN(); got != last.end {
			t.Errorf("confirmed %s, want what was set aside, up to %s", got, last.end)
		}
	})
}

// A dead letter that its topic does not take is cut until it fits, whether the broker
// tells its limit or only refuses.
func TestDeadLetterTooLarge(t *testing.T) {
	for name, told := range map[string]bool{"told": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.setsAside(func(o *deadletter.Options) { o.Prepare = nil })
			limit := "60000"
			if _, err := h.admin().CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &limit}, letterTopic); err != nil {
				t.Fatal(err)
			}
			if !told {
				h.kafka.ControlKey(int16(kmsg.DescribeConfigs), func(r kmsg.Request) (kmsg.Response, error, bool) {
					h.kafka.KeepControl()
					resp := r.ResponseKind().(*kmsg.DescribeConfigsResponse)
					for _, resource := range r.(*kmsg.DescribeConfigsRequest).Resources {
						rr := kmsg.NewDescribeConfigsResponseResource()
						rr.ResourceType, rr.ResourceName, rr.ErrorCode = resource.ResourceType, resource.ResourceName, kerr.TopicAuthorizationFailed.Code
						resp.Resources = append(resp.Resources, rr)
					}
					return resp, nil, true
				})
			}
			tx := h.server.commitRows(func(id string) []string {
				if id == "2" {
					return []string{id, "bad", "a", "k", strings.Repeat("x", 300_000)}
				}
				return []string{id, "t", "a", "k", "{}"}
			}, "1", "2", "3")
			h.run()
			h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
			if got := h.letters(); !slices.Equal(got, []string{"forbidden_topic 2"}) {
				t.Errorf("dead letters %q", got)
			}
			if ids := firsts(h.records()); !slices.Equal(ids, []string{"1", "3"}) {
				t.Errorf("published %q", ids)
			}
		})
	}
}

// Nothing is touched before the dead-letter topic can be written to, which is said; a
// topic that would lose dead letters ends the run.
func TestDeadLetterTopicFirst(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.setsAside(nil)
	h.kafka.ControlKey(int16(kmsg.CreateTopics), func(r kmsg.Request) (kmsg.Response, error, bool) {
		h.kafka.KeepControl()
		resp := r.ResponseKind().(*kmsg.CreateTopicsResponse)
		ct := kmsg.NewCreateTopicsResponseTopic()
		ct.Topic, ct.ErrorCode = letterTopic, kerr.TopicAuthorizationFailed.Code
		resp.Topics = append(resp.Topics, ct)
		return resp, nil, true
	})
	touched := false
	h.server.onNext = func(*fakeStream) { touched = true }
	h.run()
	h.logged("errors.dead_letter_topic")
	if touched || !strings.Contains(fmt.Sprint(h.o.Status.NotReady()), "cannot be created") {
		t.Errorf("streaming %t, readiness: %v", touched, h.o.Status.NotReady())
	}
}

// A topic that would lose dead letters ends the run before anything is touched.
func TestDeadLetterTopicIsCompacted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.setsAside(nil)
	compact := "compact"
	if _, err := h.admin().CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": &compact}, letterTopic); err != nil {
		t.Fatal(err)
	}
	h.run()
	if err := h.end(); !errors.Is(err, deadletter.ErrUnusable) || !strings.Contains(err.Error(), "cleanup.policy=delete") {
		t.Errorf("ended with %v", err)
	}
}

// A row of a backfill that Kafka refuses after it was sent is poison like one that was
// never sent: the run ends with its position and its id, and says what to do about a row.
// A run that sets events aside restarts the backfill, and knows the row.
func TestBackfillIsRefusedLate(t *testing.T) {
	for name, setsAside := range map[string]bool{"fails": false, "sets aside": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			if setsAside {
				h.setsAside(nil)
			}
			h.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: -1})
			p := New(h.o)
			if err := p.openSink(0); err != nil {
				t.Fatal(err)
			}
			k := p.sink
			defer k.Close()
			b := &backfillSession{p: p, sink: k, tracker: offsets.NewTracker(0)}
			at := decoder.Position{CommitLSN: 0x1507C60, Number: 7}
			d := k.Next()
			d.ID, d.Position, d.Topic, d.Key, d.Record.Value = []byte("7"), at, "t", []byte("k"), []byte("{}")
			d.Timestamp = time.Now()
			d.Receipt, d.Memory = unheard{}, unheard{}
			if err := k.Send(d); err != nil {
				t.Fatal(err)
			}
			select {
			case <-k.Failed():
			case <-time.After(20 * time.Second):
				t.Fatal("the sink did not fail")
			}
			err := b.deliveryFailed()
			poisoned, failed := (*flow.PoisonError)(nil), (*sink.FailedError)(nil)
			if setsAside {
				if errors.As(err, &poisoned) || !errors.As(err, &failed) || !errors.Is(p.refusedRows["7"].Err, sink.ErrUndeliverable) {
					t.Errorf("%v; refused: %v", err, p.refusedRows)
				}
				return
			}
			if !errors.As(err, &poisoned) || poisoned.Position != at || !errors.Is(err, sink.ErrUndeliverable) || poison.Of(err) != poison.Refused {
				t.Errorf("no poison of kind refused at %s: %v", at, err)
			}
			for _, want := range []string{`"7"`, at.String(), "INVALID_RECORD", "row of the backfill"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), "--from-lsn") || strings.Contains(err.Error(), "--dead-letter") {
				t.Errorf("the position of a backfill selects nothing in the stream: %v", err)
			}
		})
	}
}

// unheard is the receipt and the memory of an event that nobody waits for.
type unheard struct{}

func (unheard) Acknowledge() {}
func (unheard) Charge(int)   {}
func (unheard) Release(int)  {}

// An event without a field that its format needs is set aside as of that kind.
func TestDeadLetterOfAMissingField(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.setsAside(nil)
	h.o.Format.Format = cloudevents.Format{}
	tx := h.server.commitRows(func(id string) []string {
		if id == "2" {
			return []string{id, "", "a", "k", "{}"}
		}
		return []string{id, "t", "a", "k", "{}"}
	}, "1", "2", "3")
	h.run()
	h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
	if got := h.letters(); !slices.Equal(got, []string{"missing_field 2"}) {
		t.Errorf("dead letters %q", got)
	}
}

// A backfill restarts after a late refusal, with other positions: its rows are known by
// their ids, and one without an id ends the run.
func TestRefusedRowsOfABackfill(t *testing.T) {
	h := newHarness(t)
	p := New(h.o)
	id := []byte("7")
	failed := &sink.FailedError{Err: fmt.Errorf("%w: no", sink.ErrUndeliverable), Topic: "t", ID: id}
	if p.refusedRow(failed) {
		t.Error("a run that sets nothing aside goes on")
	}
	h.setsAside(nil)
	p = New(h.o)
	if p.refusedRow(&sink.FailedError{Err: failed, Topic: "t"}) {
		t.Error("a row that nobody can name is passed over")
	}
	if !p.refusedRow(failed) || !p.refusedRow(&sink.FailedError{Err: failed, Topic: letterTopic, ID: id}) {
		t.Fatal("the backfill does not go on")
	}
	if r := p.refusedRows["7"]; r.Instead != 1 || !errors.Is(r.Err, sink.ErrUndeliverable) {
		t.Errorf("%+v", r)
	}
	rt, err := router.New(h.o.Rules)
	if err != nil {
		t.Fatal(err)
	}
	refusing := rowsRefused{rt, p.refusedRows}
	ev := &decoder.Event{Values: make([][]byte, decoder.NumFields)}
	ev.Values[decoder.AggregateID] = []byte("k")
	for id, refused := range map[string]bool{"7": true, "8": false, "": false} {
		if ev.Values[decoder.ID] = []byte(id); id == "" {
			ev.Values[decoder.ID] = nil
		}
		if err := refusing.Route(ev, new(record.Record)); errors.Is(err, sink.ErrUndeliverable) != refused {
			t.Errorf("row %q: %v", id, err)
		}
	}
}
