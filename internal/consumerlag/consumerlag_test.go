package consumerlag

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// world is a cluster with topics, and a watcher of groups in it.
type world struct {
	t       *testing.T
	cluster *kfake.Cluster
	client  *kgo.Client
	admin   *kadm.Client
	log     bytes.Buffer
}

func newWorld(t *testing.T, topics ...string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	if w.cluster, err = kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(3, topics...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cluster.Close)
	if w.client, err = kgo.NewClient(w.options()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	w.admin = kadm.NewClient(w.client)
	return w
}

func (w *world) options() []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10 * time.Millisecond)}
}

// produce writes records to a partition.
func (w *world) produce(topic string, partition int32, n int) {
	w.t.Helper()
	for range n {
		if err := w.client.ProduceSync(w.t.Context(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte("x")}).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// commit is what a consumer does that has read up to an offset.
func (w *world) commit(group, topic string, partition int32, at int64) {
	w.t.Helper()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, partition, at, -1)
	if err := w.admin.CommitAllOffsets(w.t.Context(), group, offsets); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) watcher(o Options) *Watcher {
	w.t.Helper()
	o.Client, o.Log = w.options(), zerolog.New(&w.log)
	if o.Published == nil {
		o.Published = func() []string { return nil }
	}
	watcher := New(o)
	watcher.client, watcher.admin = w.client, w.admin
	return watcher
}

// round is what a round finds, as text.
func (w *world) round(watcher *Watcher) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	lags, err := watcher.round(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, l := range lags {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %d %s", l.Group, l.Topic, l.Records, l.Error)))
	}
	return strings.Join(all, "; ")
}

// The lag is what was written after what was committed, on the topics that events are
// published to: those that are known, were published to, or come from a template.
func TestLag(t *testing.T) {
	w := newWorld(t, "fixed", "event.paid", "event.placed", "seen", "foreign", "unread")
	for _, topic := range []string{"fixed", "event.paid", "event.placed", "seen", "foreign", "unread"} {
		w.produce(topic, 0, 5)
		w.produce(topic, 2, 2)
	}
	w.commit("billing", "fixed", 0, 4)
	w.commit("billing", "fixed", 1, 0)
	w.commit("billing", "fixed", 2, 2)
	w.commit("billing", "event.paid", 0, 5) // nothing yet of partition 2
	w.commit("billing", "foreign", 0, 0)
	w.commit("shipping", "seen", 0, 9) // of a topic that was longer once
	w.commit("shipping", "fixed", 0, 5)
	watcher := w.watcher(Options{Groups: []string{"billing", "shipping"}, Topics: []string{"fixed", "not-there"}, Templates: []string{"event.{type}", "{type}"},
		Published: func() []string { return []string{"seen", "unread"} }})
	if got, want := w.round(watcher), "billing event.paid 2; billing fixed 1; shipping fixed 2; shipping seen 2"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	w.commit("billing", "fixed", 0, 5)
	if got := w.round(watcher); !strings.Contains(got, "billing fixed 0") {
		t.Errorf("when all is read: %s", got)
	}
	if w.log.Len() > 0 {
		t.Errorf("the log: %s", w.log.String())
	}
	topics, err := w.admin.ListTopics(t.Context())
	if err != nil || topics.Has("not-there") {
		t.Errorf("a topic was made: %v, %v", topics.Names(), err)
	}
}

// A group that is not there, or may not be seen, is named once, with what to do, and
// does not hide the others.
func TestGroupsThatCannotBeSeen(t *testing.T) {
	w := newWorld(t, "orders")
	w.produce("orders", 0, 3)
	w.commit("billing", "orders", 0, 1)
	w.commit("secret", "orders", 0, 1)
	hidden := true
	w.cluster.ControlKey(int16(kmsg.OffsetFetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		r := req.(*kmsg.OffsetFetchRequest)
		if !hidden || !slices.ContainsFunc(r.Groups, func(g kmsg.OffsetFetchRequestGroup) bool { return g.Group == "secret" }) {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
		resp.Version = r.Version
		for _, g := range r.Groups {
			answer := kmsg.NewOffsetFetchResponseGroup()
			answer.Group = g.Group
			switch g.Group {
			case "secret":
				answer.ErrorCode = kerr.GroupAuthorizationFailed.Code
			case "billing":
				topic := kmsg.NewOffsetFetchResponseGroupTopic()
				topic.Topic = "orders"
				partition := kmsg.NewOffsetFetchResponseGroupTopicPartition()
				partition.Offset = 1
				topic.Partitions = append(topic.Partitions, partition)
				answer.Topics = append(answer.Topics, topic)
			}
			resp.Groups = append(resp.Groups, answer)
		}
		return resp, nil, true
	})
	watcher := w.watcher(Options{Groups: []string{"billing", "secret", "typo"}, Topics: []string{"orders"}})
	for range 3 {
		got := w.round(watcher)
		for _, want := range []string{"billing orders 2", "secret  0 no right to Describe the group", "typo  0 it does not exist or has read nothing yet"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %s", want, got)
			}
		}
	}
	hidden = false
	if got := w.round(watcher); !strings.Contains(got, "secret orders 2") {
		t.Errorf("when it may be seen: %s", got)
	}
	if n := strings.Count(w.log.String(), "\n"); n != 3 || strings.Count(w.log.String(), `"level":"warn"`) != 2 || strings.Count(w.log.String(), `"group":"secret"`) != 2 {
		t.Errorf("the log:\n%s", w.log.String())
	}
}

// However many topics there are, a round is few requests, and asks of no more than so
// many.
func TestManyTopicsAreNoStorm(t *testing.T) {
	var names []string
	for i := range maxTopics + 50 {
		names = append(names, fmt.Sprintf("event.%04d", i))
	}
	w := newWorld(t, names...)
	var offsets kadm.Offsets
	for _, name := range names {
		offsets.AddOffset(name, 0, 0, -1)
	}
	if err := w.admin.CommitAllOffsets(t.Context(), "billing", offsets); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := 0
	w.cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		asked++
		return nil, nil, false
	})
	watcher := w.watcher(Options{Groups: []string{"billing"}, Templates: []string{"event.{type}"}})
	if n := strings.Count(w.round(watcher), ";") + 1; n != maxTopics {
		t.Errorf("%d topics", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked > 20 {
		t.Errorf("%d requests", asked)
	}
	if !strings.Contains(w.log.String(), "the lag is shown of the first 1000 by name") {
		t.Errorf("the log: %s", w.log.String())
	}
}

// Only a process that streams asks, at its own pace; a cluster that does not answer
// makes the lag unknown and holds nobody up.
func TestRun(t *testing.T) {
	w := newWorld(t, "orders")
	w.produce("orders", 0, 3)
	w.commit("billing", "orders", 0, 1)
	reports := make(chan []Lag, 100)
	var mu sync.Mutex
	streaming := false
	watcher := New(Options{Groups: []string{"billing"}, Topics: []string{"orders"}, Published: func() []string { return nil }, Client: w.options(), Log: zerolog.Nop(),
		Streaming: func() bool { mu.Lock(); defer mu.Unlock(); return streaming },
		Report:    func(lags []Lag) { reports <- lags }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watcher.Run(ctx) }()
	if lags := <-reports; lags != nil {
		t.Errorf("while it stands by: %v", lags)
	}
	mu.Lock()
	streaming = true
	mu.Unlock()
	for lags := range reports {
		if len(lags) == 1 && lags[0] == (Lag{Group: "billing", Topic: "orders", Records: 2}) {
			break
		}
		if lags != nil {
			t.Fatalf("%v", lags)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A broker that never answers costs a round, and not more of them than one at a time.
func TestSilentCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		var reports [][]Lag
		watcher := New(Options{Groups: []string{"billing"}, Topics: []string{"orders"}, Published: func() []string { return nil }, Log: zerolog.Nop(),
			Client: []kgo.Opt{kgo.SeedBrokers("192.0.2.1:9092"), kgo.Dialer(silent)}, Streaming: func() bool { return true },
			Report: func(lags []Lag) { reports = append(reports, lags) }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- watcher.Run(ctx) }()
		time.Sleep(3*(every+limit) + soon)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(reports) < 3 || len(reports) > 5 {
			t.Errorf("%d rounds: %v", len(reports), reports)
		}
		for _, lags := range reports {
			if len(lags) != 1 || lags[0].Topic != "" || lags[0].Error == "" {
				t.Errorf("%v", lags)
			}
		}
	})
}
