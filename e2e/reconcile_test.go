package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// comparison is what `outboxd reconcile --json` prints.
type comparison struct {
	Verdict       string
	Rows, Records int64
	Matched       int64
	Mismatches    map[string]int64
	NotComparable map[string]int64 `json:"not_comparable"`
	Examples      []struct {
		Kind, ID, Topic, Position, Detail string
		Partition                         *int32
		Offset                            *int64
	}
	Notes    []string
	Repaired int64
	Seconds  float64
}

// counts are the mismatches that there are, as text.
func (c *comparison) counts() string {
	there := make(map[string]int64)
	for kind, n := range c.Mismatches {
		if n != 0 {
			there[kind] = n
		}
	}
	return fmt.Sprint(there)
}

// reconcile runs the command, which must agree with what it prints.
func (s *scenario) reconcile(args ...string) *comparison {
	s.t.Helper()
	code, stdout, stderr := invoke(s.t, append([]string{"reconcile", "--json", "--config", s.configFile()}, args...)...)
	c := new(comparison)
	if err := json.Unmarshal([]byte(stdout), c); err != nil {
		s.t.Fatalf("exit %d: %v\n%s\n%s", code, err, stdout, stderr)
	}
	if want := map[string]int{"agree": 0, "differ": 1}[c.Verdict]; code != want {
		s.t.Errorf("exit %d with %q:\n%s", code, c.Verdict, stderr)
	}
	return c
}

// agree demands that nothing differs.
func (s *scenario) agree(args ...string) *comparison {
	s.t.Helper()
	c := s.reconcile(args...)
	if c.Verdict != "agree" {
		s.t.Errorf("a false alarm: %+v", *c)
	}
	return c
}

// produce writes records past the connector.
func (s *scenario) produce(records ...*kgo.Record) {
	s.t.Helper()
	client := s.client(kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	defer client.Close()
	for _, r := range records {
		if err := client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Each kind of mismatch is found beside a connector that runs, with an example that
// says where; what is missing can be repaired, and what is not is said.
func TestReconcileFindsEachKind(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.extra = "value: {format: json}"
	topic := s.topic + ".t0"
	s.createTopic(topic, 3, nil)
	// Rows from before the slot are never published: eight are missing, but for what
	// somebody else has written of them.
	s.events(1, 8)
	envelope := func(id int, key string, n int, late time.Duration) *kgo.Record {
		at := time.Now().UTC().Add(-time.Hour)
		position := fmt.Sprintf("%016X-00000001", 0x1000+8*id)
		value := fmt.Sprintf(`{"id":"%d","type":"t0","aggregate_type":"order","aggregate_id":"%s","committed_at":"%s","position":"%s","payload":{"n": %d}}`,
			id, key, at.Format("2006-01-02T15:04:05.000000Z"), position, n)
		return &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value), Timestamp: at.Add(late),
			Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(strconv.Itoa(id))}, {Key: "position", Value: []byte(position)}}}
	}
	s.produce(
		envelope(7, "k2", 7, 0), envelope(2, "k2", 2, 0), // out of order within a key
		envelope(3, "k3", 33, 0), // another payload
		envelope(4, "k4", 4, 2*time.Minute),
	)
	c := s.startStreaming()
	s.events(11, 200)
	s.waitArrived(194)
	s.waitConfirmed(30 * time.Second) // what is not confirmed may still be repeated
	records := s.read()
	again := records[slices.IndexFunc(records, func(r record) bool { return r.id == "60" })]
	stranger := &kgo.Record{Topic: topic, Key: []byte("x"), Value: []byte("{}"), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("4711")}}}
	s.produce(&kgo.Record{Topic: topic, Key: []byte(again.key), Value: again.value, Headers: again.headers, Timestamp: again.timestamp}, stranger)

	found := s.reconcile()
	if want := "map[different:1 duplicate:1 late:1 missing:4 out_of_order:1 unexpected:1]"; found.counts() != want {
		t.Errorf("found %s, want %s: %+v", found.counts(), want, *found)
	}
	kinds := make(map[string][]string)
	for _, e := range found.Examples {
		kinds[e.Kind] = append(kinds[e.Kind], e.ID)
		if e.Detail == "" || e.Kind != "missing" && (e.Partition == nil || e.Offset == nil || e.Topic != topic) {
			t.Errorf("an example that does not say where: %+v", e)
		}
	}
	for kind, ids := range kinds {
		slices.Sort(ids)
		kinds[kind] = ids
	}
	if want := "map[different:[3] duplicate:[60] late:[4] missing:[1 5 6 8] out_of_order:[2] unexpected:[4711]]"; fmt.Sprint(kinds) != want {
		t.Errorf("examples %v, want %s", kinds, want)
	}
	// For people.
	file := s.configFile()
	code, stdout, stderr := invoke(t, "reconcile", "--config", file)
	for _, part := range []string{"missing", "4  rows without a record", "out of order", "id 4711", "partition"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("the table does not say %q:\n%s", part, stdout)
		}
	}
	if code != 1 || !strings.HasSuffix(strings.TrimSpace(stderr), "outboxd: outbox and Kafka differ; `outboxd reconcile --repair --config "+file+"` publishes what is missing") {
		t.Errorf("exit %d, %s", code, stderr)
	}

	before := s.confirmed()
	repaired := s.reconcile("--repair")
	if repaired.Repaired != 4 || !strings.Contains(strings.Join(repaired.Notes, "\n"), "duplicates cannot be repaired") {
		t.Errorf("repaired %d, %q", repaired.Repaired, repaired.Notes)
	}
	var order []string
	for _, r := range s.read() {
		if r.header("replayed") == "true" {
			if r.position != "" {
				t.Errorf("%v has a position that no table keeps", r)
			}
			order = append(order, r.id)
		}
	}
	if slices.Sort(order); fmt.Sprint(order) != "[1 5 6 8]" {
		t.Errorf("published %v", order)
	}
	if found = s.reconcile(); found.Mismatches["missing"] != 0 || found.NotComparable["replayed"] != 4 {
		t.Errorf("after the repair: %+v", *found)
	}
	if s.confirmed() < before || c.count(`"message":"streaming"`) != 1 {
		t.Errorf("the connector noticed: %s", c.tail(10))
	}
}

// compared returns how many rounds of comparisons there are, and how long a writer pauses
// between two transactions: each round compares all that was written until then, and a
// hundred of them are to end.
func compared(rounds int) (int, time.Duration) {
	if *soak {
		return 100, 100 * time.Millisecond
	}
	return rounds, 5 * time.Millisecond
}

// No false alarm: beside traffic, rollbacks and a connector that is killed again and
// again, nothing is missing, nothing too much, and nothing out of order.
func TestReconcileBesideKills(t *testing.T) {
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			const seed = 20261128
			rounds, pause := compared(2)
			s := newScenario(t, nil, nil)
			s.extra = "delivery: {confirm_interval: 500ms, guarantee: " + guarantee + "}"
			if guarantee == "at_least_once" {
				s.extra += "\nvalue: {format: json}"
			}
			random := rand.New(rand.NewPCG(seed, 0))
			s.startStreaming().kill()
			l := s.startLoad(2, 20, pause, seed)
			var repeated, inFlight int64
			for range rounds {
				var both sync.WaitGroup
				both.Go(func() {
					r := s.agree()
					repeated += r.NotComparable["repeated"]
					inFlight += r.NotComparable["in_flight"]
				})
				for range 2 {
					before := s.arrived()
					c := s.start()
					// So that there is something to repeat.
					waitFor(t, 60*time.Second, func() (string, bool) { return "nothing arrives: " + c.tail(3), s.arrived() > before })
					time.Sleep(time.Duration(random.IntN(800)) * time.Millisecond)
					if !c.running() {
						t.Fatalf("the connector ended by itself:\n%s", c.tail(20))
					}
					c.kill()
				}
				both.Wait()
			}
			l.stop()
			s.agree() // while no connector runs
			c := s.startStreaming()
			s.waitConfirmed(60 * time.Second)
			r := s.agree()
			c.stop()
			t.Logf("%d events, %d repeated and %d in flight in all comparisons", l.committed.Load(), repeated, inFlight)
			if r.Rows != l.committed.Load() || r.Matched != r.Rows || guarantee == "at_least_once" && repeated == 0 {
				t.Errorf("%d events, %+v", l.committed.Load(), *r)
			}
			// The connector is seen to be looked at: what it did not do is found.
			s.exec("INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 'nowhere', '{}')")
			s.dropSlot()
			if r := s.reconcile(); r.counts() != "map[missing:1]" {
				t.Errorf("after the slot was lost: %+v", *r)
			}
		})
	}
}

// No false alarm beside retention: rows go while they are compared, and a connector that
// is killed repeats records whose rows are gone by then. A duplicate of such a row is
// still found.
func TestReconcileBesideRetention(t *testing.T) {
	const seed = 20261129
	for _, guarantee := range []string{"at_least_once", "exactly_once"} {
		t.Run(guarantee, func(t *testing.T) {
			t.Parallel()
			rounds, pause := compared(3)
			s := newScenario(t, nil, nil)
			s.exec("ALTER TABLE outbox ADD COLUMN at timestamptz DEFAULT now()")
			s.extra = "outbox: {columns: {timestamp: at}}\nretention: {mode: delete, keep: 1s, interval: 1s}\ndelivery: {confirm_interval: 500ms, guarantee: " + guarantee + "}"
			random := rand.New(rand.NewPCG(seed, 0))
			s.startStreaming().kill()
			l := s.startLoad(2, 20, pause, seed)
			var repeated, removed int64
			for range rounds {
				var both sync.WaitGroup
				both.Go(func() {
					for range 2 {
						r := s.agree()
						repeated += r.NotComparable["repeated"]
						removed += r.NotComparable["removed"]
					}
				})
				before := s.arrived()
				c := s.start()
				waitFor(t, 60*time.Second, func() (string, bool) { return "nothing arrives: " + c.tail(3), s.arrived() > before })
				time.Sleep(time.Duration(1500+random.IntN(1500)) * time.Millisecond) // retention has run
				if !c.running() {
					t.Fatalf("the connector ended by itself:\n%s", c.tail(20))
				}
				c.kill()
				both.Wait()
			}
			l.stop()
			c := s.startStreaming()
			s.waitConfirmed(60 * time.Second)
			records := s.readCommitted // s.read would wait for the markers of transactions
			if guarantee == "at_least_once" {
				records = s.read
			}
			gone := records()[0]
			waitFor(t, 60*time.Second, func() (string, bool) {
				n := s.value("SELECT count(*)::text FROM outbox")
				return n + " rows", n == "0"
			})
			s.exec("INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{}'), ('k', 't1', '{}')")
			s.waitConfirmed(60 * time.Second)
			for _, topic := range []string{s.topic + ".t0", s.topic + ".t1"} {
				r := s.agree("--topic", topic)
				repeated += r.NotComparable["repeated"]
				removed += r.NotComparable["removed"]
			}
			t.Logf("%d events, %d repeated and %d removed in all comparisons", l.committed.Load(), repeated, removed)
			if removed == 0 || guarantee == "at_least_once" && repeated == 0 {
				t.Error("the scenario was too tame to mean anything")
			}
			s.produce(&kgo.Record{Topic: gone.topic, Key: []byte(gone.key), Value: gone.value, Headers: gone.headers, Timestamp: gone.timestamp})
			s.exec("INSERT INTO outbox (aggregateid, type, payload) VALUES ($1, $2, '{}')", gone.key, strings.TrimPrefix(gone.topic, s.topic+"."))
			s.waitConfirmed(60 * time.Second)
			if r := s.reconcile("--topic", gone.topic); r.counts() != "map[duplicate:1]" || r.Examples[0].ID != gone.id {
				t.Errorf("a duplicate of a row that is gone: %+v", *r)
			}
			c.stop()
		})
	}
}

// Rows are published again from the table, beside a connector that runs.
func TestReplayFromTable(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ADD COLUMN at timestamptz DEFAULT now()")
	s.extra = "outbox: {columns: {timestamp: at}}"
	c := s.startStreaming()
	s.events(1, 20)
	middle := time.Now()
	s.events(21, 30)
	s.exec("INSERT INTO outbox (aggregateid, type, payload) VALUES ('k9', 't1', '{}')")
	s.waitArrived(31)
	first := s.read()

	says := func(want string, args ...string) {
		t.Helper()
		if code, stdout, stderr := s.replay(args...); code != 0 || !strings.HasPrefix(stdout, want+"\n") {
			t.Errorf("%v: exit %d, %q, want %q\n%s", args, code, stdout, want, stderr)
		}
	}
	says("would publish 11 events", "--dry-run", "--since", middle.Format(time.RFC3339Nano))
	says("would publish 20 events", "--dry-run", "--until", middle.Format(time.RFC3339Nano))
	says("would publish 2 events", "--dry-run", "--id", "3", "--id", "4", "--id", "nothing")
	says("would publish 1 event", "--dry-run", "--type", "t1")
	if n := len(s.read()); n != 31 {
		t.Fatalf("%d records after dry runs", n)
	}
	says("published 6 events", "--aggregate-id", "k1")
	var ids []string
	for _, r := range s.read() {
		if r.header("replayed") == "" {
			continue
		}
		ids = append(ids, r.id)
		f := first[slices.IndexFunc(first, func(f record) bool { return f.id == r.id })]
		if r.topic != f.topic || r.partition != f.partition || r.key != f.key || string(r.value) != string(f.value) || r.position != "" {
			t.Errorf("%v is not %v again: %v", r, f, r.headers)
		}
	}
	if fmt.Sprint(ids) != "[1 6 11 16 21 26]" {
		t.Errorf("published %v", ids)
	}
	if c.count(`"message":"streaming"`) != 1 {
		t.Errorf("the connector noticed:\n%s", c.tail(10))
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--id", "1", "--from-lsn", "0/1"}, "give one or the other"},
		{[]string{"--state", "x"}, "from the table"},
		{[]string{"--since", "yesterday"}, "is not a time"},
		{[]string{"--since", "1h", "--until", "2h"}, "does not lie before"},
	} {
		if code, _, stderr := s.replay(test.args...); code != 2 || !strings.Contains(stderr, test.says) {
			t.Errorf("%v: exit %d, %s", test.args, code, stderr)
		}
	}
}

// A replay from the table that is killed goes on where it was, and repeats what it sent
// in its last second at most.
func TestReplayFromTableResumes(t *testing.T) {
	s := newScenario(t, nil, nil)
	s.startStreaming().stop()
	s.exec("INSERT INTO outbox (aggregateid, type, payload) SELECT 'k' || i % 5, 't0', jsonb_build_object('n', i) FROM generate_series(1, 3000) i")
	state := filepath.Join(t.TempDir(), "replay.state")
	config := s.configFile()
	args := []string{"replay", "--config", config, "--type", "t0", "--state", state, "--max-rate", "1000"}
	cmd := exec.Command(binary, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2200 * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	code, stdout, stderr := invoke(t, args[:len(args)-2]...)
	if code != 0 || !strings.Contains(stdout, "before it was interrupted") {
		t.Fatalf("exit %d, %q\n%s", code, stdout, stderr)
	}
	seen := make(map[string]int)
	for _, r := range s.read() {
		seen[r.id]++
	}
	twice := 0
	for _, n := range seen {
		twice += n - 1
	}
	if len(seen) != 3000 || twice > 1500 {
		t.Errorf("%d events, %d of them again", len(seen), twice)
	}
	if code, stdout, _ := invoke(t, args...); code != 0 || !strings.HasPrefix(stdout, "published 3000 events\n") {
		t.Errorf("after it was done: exit %d, %q", code, stdout)
	}
}

// Memory is bounded, whatever there is to compare. Its long form is what
// docs/reconcile.md states.
func TestReconcileMemory(t *testing.T) {
	rows := 100_000
	if *soak {
		rows = 5_000_000
	}
	s := newScenario(t, nil, nil)
	s.extra = "delivery: {confirm_interval: 300ms}"
	s.createTopic(s.topic+".t0", 6, nil)
	c := s.startStreaming()
	for n := 1; n <= rows; n += 100_000 {
		s.exec(`INSERT INTO outbox (aggregateid, type, payload)
			SELECT 'k' || i % 1000, 't0', jsonb_build_object('n', i, 'text', repeat('x', 200)) FROM generate_series($1::int, $2::int) i`, n, min(n+99_999, rows))
	}
	s.waitConfirmed(20 * time.Minute)
	c.stop()
	// One that is missing has a part of the comparison looked into.
	s.dropSlot()
	s.exec("INSERT INTO outbox (aggregateid, type, payload) VALUES ('k', 't0', '{}')")
	cmd := exec.Command(binary, "reconcile", "--json", "--config", s.configFile())
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var peak int64
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	for running := true; running; {
		select {
		case err = <-ended:
			running = false
		case <-time.After(5 * time.Millisecond):
			if rss, err := peakRSS(cmd.Process.Pid); err == nil {
				peak = max(peak, rss)
			}
		}
	}
	out := stdout.Bytes()
	var found comparison
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err == nil || found.counts() != "map[missing:1]" || found.Rows != int64(rows)+1 {
		t.Errorf("%v, %s", err, out)
	}
	t.Logf("%d events in %.1f s, %.1f s of CPU, %d MiB", rows, found.Seconds,
		(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), peak>>20)
	if peak == 0 || peak>>20 > 256 && !raceEnabled {
		t.Errorf("%d MiB in memory, want at most 256", peak>>20)
	}

	// The same inside run, within the limit of a container that the manual gives.
	address := freeAddress(t)
	s.extra += "\nreconcile: {every: 1s}"
	s.env = []string{"OUTBOXD_HTTP_LISTEN=" + address}
	c = s.startStreaming()
	waitFor(t, 20*time.Minute, func() (string, bool) {
		body := httpBody(t, "http://"+address+"/metrics")
		return c.tail(3), strings.Contains(body, `outboxd_reconcile_mismatches{kind="missing"} 1`)
	})
	inside, err := peakRSS(c.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c.stop()
	t.Logf("inside run %d MiB", inside>>20)
	if limit := int64(2*64 + 64); inside>>20 > limit && !raceEnabled {
		t.Errorf("%d MiB in memory inside run, want at most %d", inside>>20, limit)
	}
}

// With reconcile.every the connector compares by itself, and says what it found.
func TestReconcileInsideRun(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.events(1, 3) // before the slot
	address := freeAddress(t)
	s.extra = "reconcile: {every: 1s}"
	s.env = []string{"OUTBOXD_HTTP_LISTEN=" + address}
	c := s.startStreaming()
	s.events(4, 30)
	s.waitArrived(27)
	waitFor(t, 60*time.Second, func() (string, bool) {
		body := httpBody(t, "http://"+address+"/metrics")
		return body, strings.Contains(body, `outboxd_reconcile_mismatches{kind="missing"} 3`)
	})
	if body := httpBody(t, "http://"+address+"/status"); !strings.Contains(body, `"verdict": "differ"`) {
		t.Errorf("the status does not say it: %s", body)
	}
	c.waitLog("outbox and Kafka differ", 10*time.Second)
	if code, _, stderr := invoke(t, "reconcile", "--repair", "--config", s.configFile()); code != 1 {
		t.Errorf("exit %d, %s", code, stderr)
	}
	waitFor(t, 60*time.Second, func() (string, bool) {
		body := httpBody(t, "http://"+address+"/status")
		return body, strings.Contains(body, `"verdict": "agree"`)
	})
	c.stop()
}

// httpBody is what a page says, "" while nobody answers.
func httpBody(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// What an older publisher wrote is compared with the outbox, beside a connector that
// publishes elsewhere.
func TestReconcileShadowTopic(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.exec("ALTER TABLE outbox ADD COLUMN at timestamptz DEFAULT now()")
	s.extra = "outbox: {columns: {timestamp: at}}\nreconcile: {late: 1s}"
	c := s.startStreaming()
	defer c.stop()
	s.events(1, 20)
	old := s.topic + ".old"
	s.createTopic(old, 2, nil)
	written, err := strconv.ParseInt(s.value("SELECT (extract(epoch FROM max(at)) * 1000)::bigint::text FROM outbox"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 20; n++ {
		value := fmt.Sprintf(`{"meta": {"id": "%d", "sent": true}, "n": %d.0}`, n, n)
		switch n {
		case 7:
			continue // lost
		case 8:
			value = `{"meta": {"id": "8"}, "n": 0}`
		case 9:
			value = `{"meta": {"id": "rolled back"}, "n": 9}`
		}
		s.produce(&kgo.Record{Topic: old, Key: fmt.Appendf(nil, "k%d", n%5), Value: []byte(value), Timestamp: time.UnixMilli(written)})
	}
	time.Sleep(1500 * time.Millisecond)
	args := []string{"--shadow-topic", old, "--shadow-id", "$.meta.id", "--ignore", "$.meta"}
	if found := s.reconcile(args...); found.counts() != "map[different:1 missing:2 unexpected:1]" {
		t.Errorf("%+v", *found)
	}
	if code, _, stderr := invoke(t, "reconcile", "--config", s.configFile(), "--ignore", "$.meta"); code != 2 || !strings.Contains(stderr, "--shadow-topic") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
