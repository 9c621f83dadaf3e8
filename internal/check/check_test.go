package check

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outboxd/internal/finding"
	"outboxd/internal/positions"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/sink"
)

func fake(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, Options) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, Options{Kafka: sink.Options{Brokers: c.ListenAddrs()}, PositionsTopic: "positions", Limit: 5 * time.Second}
}

// kafka returns what is said of Kafka, and holds the check to have made no topic.
func kafka(t *testing.T, o Options) []finding.Finding {
	t.Helper()
	before := topics(t, o)
	c := &cluster{o: o}
	defer c.close()
	g := &group{name: "Kafka", limit: o.Limit}
	c.check(t.Context(), g)
	if after := topics(t, o); !slices.Equal(before, after) {
		t.Errorf("topics before the check %v, after it %v", before, after)
	}
	return g.found
}

func topics(t *testing.T, o Options) []string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(o.Kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	there, err := kadm.NewClient(client).ListTopicsWithInternal(ctx)
	if err != nil {
		return nil
	}
	return there.Names()
}

func line(t *testing.T, found []finding.Finding, subject string) finding.Finding {
	t.Helper()
	at := slices.IndexFunc(found, func(f finding.Finding) bool { return f.Subject == subject })
	if at < 0 {
		t.Fatalf("no line %q in %+v", subject, found)
	}
	return found[at]
}

func expect(t *testing.T, f finding.Finding, level finding.Level, says ...string) {
	t.Helper()
	if f.Level != level {
		t.Errorf("%q is %s, want %s: %+v", f.Subject, f.Level, level, f)
	}
	for _, part := range says {
		if !strings.Contains(strings.Join([]string{f.Text, f.Fix, f.Command}, "\n"), part) {
			t.Errorf("%q does not say %q: %+v", f.Subject, part, f)
		}
	}
}

func TestTopics(t *testing.T) {
	t.Parallel()
	_, o := fake(t, kfake.SeedTopics(3, "orders"), kfake.BrokerConfigs(map[string]string{"auto.create.topics.enable": "false"}))
	o.Topics, o.Templates = []string{"orders", "missing"}, []string{"event.{type}"}
	found := kafka(t, o)
	expect(t, line(t, found, `topic "orders"`), finding.OK, "3 partitions", "max.message.bytes")
	expect(t, line(t, found, `topic "missing"`), finding.Fail, "does not exist", "kafka-topics.sh", "--topic missing", "route.create_topics.enabled")
	expect(t, line(t, found, `topics "event.{type}"`), finding.Warn, "depend on the row", "create each topic")

	o.Kafka.CreateTopics = sink.CreateTopics{Enabled: true, Partitions: 6, ReplicationFactor: -1}
	found = kafka(t, o)
	expect(t, line(t, found, `topic "missing"`), finding.OK, "outboxd makes it")
	expect(t, line(t, found, `topics "event.{type}"`), finding.OK, "outboxd makes it")

	o.Kafka.CreateTopics.ReplicationFactor = 3 // of one broker
	expect(t, line(t, kafka(t, o), `topic "missing"`), finding.Fail, "REPLICATION_FACTOR")
}

// What the brokers can do is told by the requests that they know.
func TestRequests(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lacks []int16
		exact bool
		level finding.Level
		says  string
		holds bool
	}{
		"everything":                      {nil, true, finding.OK, "transactions", true},
		"no transactions, not needed":     {[]int16{addPartitionsToTxn, endTxn}, false, finding.OK, "no transactions", false},
		"no transactions, needed":         {[]int16{endTxn}, true, finding.Fail, "delivery.guarantee: at_least_once", false},
		"no idempotent producer":          {[]int16{initProducerID}, false, finding.Fail, "InitProducerId", false},
		"transactions, and not asked for": {nil, false, finding.OK, "transactions", false},
	} {
		t.Run(name, func(t *testing.T) {
			c, o := fake(t)
			c.ControlKey(18, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				resp := kreq.ResponseKind().(*kmsg.ApiVersionsResponse)
				for key := range int16(70) {
					if slices.Contains(test.lacks, key) || kmsg.RequestForKey(key) == nil {
						continue
					}
					k := kmsg.NewApiVersionsResponseApiKey()
					k.ApiKey, k.MaxVersion = key, min(kmsg.RequestForKey(key).MaxVersion(), 9)
					resp.ApiKeys = append(resp.ApiKeys, k)
				}
				return resp, nil, true
			})
			o.ExactlyOnce, o.TransactionalID = test.exact, "id"
			k := &cluster{o: o}
			defer k.close()
			g := &group{limit: o.Limit}
			g.step(t.Context(), "brokers", 0, k.seeds)
			g.step(t.Context(), "cluster", 0, k.advertised)
			g.step(t.Context(), "requests", 0, k.requests)
			expect(t, line(t, g.found, "requests"), test.level, test.says)
			if p := exactlyOnce(o, k); p.Holds != test.holds || !p.Known || !p.Holds && p.Change == "" {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestPositionsTopic(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		partitions int32
		policy     string
		level      finding.Level
		says       string
	}{
		"missing":             {0, "", finding.OK, "does not exist"},
		"right":               {1, "compact", finding.OK, "no position of this slot"},
		"several partitions":  {3, "compact", finding.Fail, "3 partitions instead of 1"},
		"deletes old records": {1, "delete", finding.Fail, "cleanup.policy=compact"},
	} {
		t.Run(name, func(t *testing.T) {
			_, o := fake(t)
			client, err := kgo.NewClient(kgo.SeedBrokers(o.Kafka.Brokers...))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if test.partitions > 0 {
				if _, err := kadm.NewClient(client).CreateTopic(t.Context(), test.partitions, 1, map[string]*string{"cleanup.policy": &test.policy}, "positions"); err != nil {
					t.Fatal(err)
				}
			}
			if o.Positions, err = positions.New(positions.Options{Topic: "positions", Slot: "s", Client: o.Kafka.Connection()}); err != nil {
				t.Fatal(err)
			}
			defer o.Positions.Close()
			expect(t, line(t, kafka(t, o), `topic "positions"`), finding.OK)
			before := topics(t, o)
			s := &store{o: o, survey: replication.NewSurvey(replication.Options{})}
			at := line(t, s.check(t.Context()), position)
			if test.level == finding.OK {
				// There is no server here: nobody knows whether it fits.
				expect(t, at, finding.Warn, "not checked", test.says)
			} else {
				expect(t, at, test.level, test.says)
			}
			if after := topics(t, o); !slices.Equal(before, after) {
				t.Errorf("topics before %v, after %v", before, after)
			}
		})
	}
}

// A right that is missing is named with the command that grants it.
func TestRights(t *testing.T) {
	t.Parallel()
	c, o := fake(t, kfake.SeedTopics(1, "orders"))
	o.Topics, o.User = []string{"orders"}, "app's"
	o.ExactlyOnce, o.TransactionalID = true, "tx"
	c.ControlKey(3, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		if len(req.Topics) != 1 || req.Topics[0].Topic == nil || *req.Topics[0].Topic != "orders" {
			return nil, nil, false
		}
		if req.AllowAutoTopicCreation {
			t.Error("the check lets the brokers make topics")
		}
		resp := kreq.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.AuthorizedOperations = req.Topics[0].Topic, 1<<kmsg.ACLOperationDescribe
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	c.ControlKey(65, func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := kreq.ResponseKind().(*kmsg.DescribeTransactionsResponse)
		state := kmsg.NewDescribeTransactionsResponseTransactionState()
		state.ErrorCode, state.TransactionalID = kerr.TransactionalIDAuthorizationFailed.Code, "tx"
		resp.TransactionStates = append(resp.TransactionStates, state)
		return resp, nil, true
	})
	for key, name := range map[int16]string{22: "InitProducerID", 10: "FindCoordinator", 24: "AddPartitionsToTxn"} {
		c.ControlKey(key, func(kmsg.Request) (kmsg.Response, error, bool) {
			t.Errorf("the check asks %s", name)
			return nil, nil, false
		})
	}
	found := kafka(t, o)
	expect(t, line(t, found, `topic "orders"`), finding.Fail, "no right to Write", `--allow-principal 'User:app'\''s' --operation Write`, "--topic orders")
	expect(t, line(t, found, "transactional id"), finding.Fail, "--transactional-id tx", "--operation Write")
}

// A host that accepts connections and says nothing costs its own line its time, and no
// other line.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, o := fake(t, kfake.SeedTopics(1, "orders"))
	o.Topics, o.Limit = []string{"orders"}, time.Second
	o.Kafka.Brokers = append([]string{silent.Addr().String()}, o.Kafka.Brokers...)
	k := &cluster{o: o}
	defer k.close()
	g := &group{limit: o.Limit}
	k.check(t.Context(), g)
	for _, f := range g.found {
		if f.Subject == "broker "+silent.Addr().String() {
			expect(t, f, finding.Warn, "no answer")
		} else {
			expect(t, f, finding.OK)
		}
	}

	o.Kafka.Brokers = o.Kafka.Brokers[:1]
	o.Source = replication.Options{DSN: "postgres://u@" + silent.Addr().String() + "/d?sslmode=disable&connect_timeout=1", Table: "t", Schema: "s", Slot: "s"}
	r := Run(t.Context(), o)
	if !r.Failed() {
		t.Error("nothing answers, and nothing failed")
	}
	for _, g := range r.Groups {
		for i, f := range g.Findings {
			if f.Level == finding.OK {
				t.Errorf("nothing answers, and %q is ok: %+v", f.Subject, f)
			}
			if i > 0 && !strings.Contains(f.Text, "not checked") {
				t.Errorf("%q should not have been checked: %+v", f.Subject, f)
			}
		}
	}
	for _, p := range r.Promises[:2] {
		if p.Known || p.Holds {
			t.Errorf("promised without a look: %+v", p)
		}
	}
}

// A panic is that line's failure, and a look that never returns ends with its limit.
func TestStepHolds(t *testing.T) {
	t.Parallel()
	g := &group{limit: 20 * time.Millisecond}
	g.step(t.Context(), "panics", 0, func(context.Context) []finding.Finding { panic("oh") })
	g.step(t.Context(), "hangs", 0, func(context.Context) []finding.Finding { <-t.Context().Done(); return nil }) // ends with the test
	g.step(t.Context(), "nothing", 0, func(context.Context) []finding.Finding { return nil })
	g.step(t.Context(), "works", 0, func(context.Context) []finding.Finding { return []finding.Finding{finding.Ok("works")} })
	expect(t, line(t, g.found, "panics"), finding.Fail, "oh")
	expect(t, line(t, g.found, "hangs"), finding.Fail, "no answer within 20ms")
	expect(t, line(t, g.found, "nothing"), finding.Warn, "not checked")
	expect(t, line(t, g.found, "works"), finding.OK)
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	expect(t, file(filepath.Join(dir, "p")), finding.OK, "can be written")
	expect(t, file(filepath.Join(dir, "no such", "p")), finding.Fail, "does not exist", "mkdir -p '")
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("the check has left %v", entries)
	}
	if err := os.WriteFile(filepath.Join(dir, "p"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &store{o: Options{File: filepath.Join(dir, "p")}, survey: replication.NewSurvey(replication.Options{})}
	expect(t, line(t, s.check(t.Context()), position), finding.Fail, "put the file back")
}

func TestRefused(t *testing.T) {
	_, err := offsets.Resume(&offsets.Position{SystemID: "1", Slot: "s", LSN: 5}, offsets.Server{SystemID: "2", SlotName: "s"})
	expect(t, refused(position, err.(*offsets.RefusedError)), finding.Fail, "another database system", "--accept-gap")
}

func TestText(t *testing.T) {
	r := Report{
		Groups: []Group{{"PostgreSQL", []finding.Finding{
			finding.Ok("server", "answers"),
			{Level: finding.Warn, Subject: "a", Text: "is\x1b[31m odd", Fix: "leave it"},
			{Level: finding.Fail, Subject: "publication", Text: "lacks\nthe table", Fix: "add it", SQL: []string{"ALTER PUBLICATION p ADD TABLE t"}},
		}}},
		Promises: []Promise{{Name: "failover", Known: true, Text: "lost", Change: "postgres.failover: on"}, {Name: "exactly once"}},
		Result:   finding.Fail,
	}
	var plain, terminal bytes.Buffer
	if err := r.Text(&plain, false); err != nil {
		t.Fatal(err)
	}
	if err := r.Text(&terminal, true); err != nil {
		t.Fatal(err)
	}
	const want = `PostgreSQL
  ok    server       answers
  warn  a            is [31m odd
                     -> leave it
  FAIL  publication  lacks the table
                     -> add it
                        ALTER PUBLICATION p ADD TABLE t;

This set-up can promise
  no   failover     lost
                    -> postgres.failover: on
  ?    exactly once  
                    
`
	if got, _, _ := strings.Cut(plain.String(), "\n1 FAIL"); !strings.HasPrefix(want, got[:strings.Index(got, "  ?")]) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(plain.String(), "1 FAIL, 1 warn") || strings.Contains(plain.String(), "\x1b") {
		t.Errorf("%s", plain.String())
	}
	for _, symbol := range []string{"✓", "!", "✗"} {
		if !strings.Contains(terminal.String(), symbol) || strings.Contains(plain.String(), symbol) && symbol != "!" {
			t.Errorf("symbol %s:\n%s", symbol, terminal.String())
		}
	}
	encoded, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(encoded), `"level":"FAIL"`) || !strings.Contains(string(encoded), `"result":"FAIL"`) {
		t.Errorf("%s, %v", encoded, err)
	}
}

// A consumer group that is not there is a warning, and no more.
func TestGroups(t *testing.T) {
	c, o := fake(t, kfake.SeedTopics(1, "orders"))
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var offsets kadm.Offsets
	offsets.AddOffset("orders", 0, 0, -1)
	if err := kadm.NewClient(client).CommitAllOffsets(t.Context(), "billing", offsets); err != nil {
		t.Fatal(err)
	}
	o.Groups = []string{"billing", "typo"}
	got := make(map[string]finding.Finding)
	for _, f := range kafka(t, o) {
		got[f.Subject] = f
	}
	if f := got[GroupSubject+"billing"]; f.Level != finding.OK {
		t.Errorf("%+v", f)
	}
	if f := got[GroupSubject+"typo"]; f.Level != finding.Warn || !strings.Contains(f.Text, "does not exist") {
		t.Errorf("%+v", f)
	}
}
