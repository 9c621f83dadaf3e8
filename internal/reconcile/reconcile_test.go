package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/decoder"
	"outboxd/internal/format"
	"outboxd/internal/format/cloudevents"
	"outboxd/internal/format/debezium"
	"outboxd/internal/format/json"
	"outboxd/internal/record"
	"outboxd/internal/replication"
	"outboxd/internal/table"
	"outboxd/router"
)

const topicName = "orders"

// fakeRow is a row of the outbox.
type fakeRow struct {
	id, aggregate, payload string
	at, committed          time.Time
	archived               bool
}

// fakeTable is the outbox as a source. byID is what the table has by the time it is
// asked for single rows; nil: the same.
type fakeTable struct {
	rows, byID []fakeRow
	removed    int64
}

func (f *fakeTable) visit(rows []fakeRow, visit func(*table.Row) error) error {
	for i, r := range rows {
		row := table.Row{Event: f.event(r), Archived: r.archived, Committed: r.committed, Key: table.Key{Serial: int64(i)}}
		if err := visit(&row); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeTable) event(r fakeRow) *decoder.Event {
	ev := &decoder.Event{Values: make([][]byte, decoder.NumFields), Types: make([]uint32, decoder.NumFields), CommittedAt: r.committed}
	if r.id != "" {
		ev.Values[decoder.ID] = []byte(r.id)
	}
	ev.Values[decoder.Type], ev.Values[decoder.AggregateID] = []byte("Paid"), []byte(r.aggregate)
	ev.Values[decoder.Payload], ev.Types[decoder.Payload] = []byte(r.payload), decoder.JSONOID
	if !r.at.IsZero() {
		ev.Values[decoder.Timestamp], ev.Types[decoder.Timestamp], ev.Time = []byte("…"), decoder.TimestampTZOID, r.at
	}
	return ev
}

func (f *fakeTable) Scan(_ context.Context, filter table.Filter, visit func(*table.Row) error) error {
	rows := slices.DeleteFunc(slices.Clone(f.rows), func(r fakeRow) bool {
		return !filter.Since.IsZero() && r.at.Before(filter.Since) || !filter.Until.IsZero() && !r.at.Before(filter.Until)
	})
	return f.visit(rows, visit)
}

func (f *fakeTable) ByID(_ context.Context, ids []string, visit func(*table.Row) error) error {
	rows := f.byID
	if rows == nil {
		rows = f.rows
	}
	return f.visit(slices.DeleteFunc(slices.Clone(rows), func(r fakeRow) bool { return !slices.Contains(ids, r.id) }), visit)
}

func (f *fakeTable) HasTime() bool                                { return true }
func (f *fakeTable) Blocks(context.Context) (int64, error)        { return 1, nil }
func (f *fakeTable) Done() int64                                  { return 0 }
func (f *fakeTable) Removed(context.Context) (int64, bool, error) { return f.removed, false, nil }
func (f *fakeTable) Catalog() (c replication.Catalog)             { return replication.Catalog{Database: "shop"} }

// world is an outbox and a cluster.
type world struct {
	t       *testing.T
	table   fakeTable
	cluster *kfake.Cluster
	client  *kgo.Client
	options Options
	// confirmed and end are the WAL's; events are committed at 16 bytes each.
	confirmed, end pglogrepl.LSN
	inFlight       []string
}

func newWorld(t *testing.T, partitions int32) *world {
	t.Helper()
	statisticsAfter, statisticsEvery = 0, time.Millisecond
	w := &world{t: t, confirmed: 1 << 40, end: 1 << 40}
	var err error
	if w.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topicName)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.cluster.Close)
	if w.client, err = kgo.NewClient(kgo.SeedBrokers(w.cluster.ListenAddrs()...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	columns := make([]decoder.Column, decoder.NumFields)
	for _, f := range []decoder.Field{decoder.ID, decoder.Type, decoder.AggregateID, decoder.Payload, decoder.Timestamp} {
		columns[f].Name = f.String()
	}
	w.options = Options{
		Table:  decoder.Table{Schema: "public", Name: "outbox", Columns: columns},
		Rules:  router.Rules{Topic: topicName, Key: decoder.AggregateID, Partition: decoder.NoField},
		Format: format.Options{Object: decoder.NoField},
		Form:   Form{Headers: "plain", Format: "raw"},
		Kafka:  []kgo.Opt{kgo.SeedBrokers(w.cluster.ListenAddrs()...)},
		Late:   time.Minute,
	}
	return w
}

// begin is when the first event was committed.
var begin = time.Now().Add(-time.Hour).Truncate(time.Millisecond)

// row returns the nth row.
func row(n int) fakeRow {
	return fakeRow{id: "e" + strconv.Itoa(n), aggregate: "a" + strconv.Itoa(n%7), payload: fmt.Sprintf(`{"n": %d}`, n), at: begin.Add(time.Duration(n) * time.Second)}
}

func lsn(n int) pglogrepl.LSN { return pglogrepl.LSN(1000 + 16*n) }

// record is the record of the nth row, as outboxd would publish it.
func (w *world) record(n int, change ...func(*decoder.Event, *kgo.Record)) *kgo.Record {
	w.t.Helper()
	r, err := router.New(w.options.Rules)
	if err != nil {
		w.t.Fatal(err)
	}
	ev := w.table.event(row(n))
	ev.Position, ev.CommittedAt = decoder.Position{CommitLSN: lsn(n), Number: 1}, begin.Add(time.Duration(n)*time.Second)
	d := new(record.Record)
	if err := r.Route(ev, d); err != nil {
		w.t.Fatal(err)
	}
	encoder := format.New(w.options.Format)
	if err := encoder.Open(format.Outbox{Source: []byte("/shop/public.outbox")}); err != nil {
		w.t.Fatal(err)
	}
	if err := encoder.Encode(ev, d); err != nil {
		w.t.Fatal(err)
	}
	made := &kgo.Record{Topic: d.Topic, Key: d.Key, Value: slices.Clone(d.Value), Timestamp: ev.CommittedAt}
	for _, h := range d.Headers {
		made.Headers = append(made.Headers, kgo.RecordHeader{Key: h.Key, Value: slices.Clone(h.Value)})
	}
	for _, f := range change {
		f(ev, made)
	}
	return made
}

func (w *world) produce(records ...*kgo.Record) {
	w.t.Helper()
	for _, r := range records {
		if err := w.client.ProduceSync(w.t.Context(), r).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// publish publishes the rows from one number to another.
func (w *world) publish(from, to int) {
	w.t.Helper()
	for n := from; n <= to; n++ {
		w.produce(w.record(n))
	}
}

// insert inserts the rows from one number to another.
func (w *world) insert(from, to int) {
	for n := from; n <= to; n++ {
		w.table.rows = append(w.table.rows, row(n))
	}
}

func (w *world) compare() *Result {
	w.t.Helper()
	c, err := newComparison(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.close()
	if err := c.prepare(w.table.Catalog()); err != nil {
		w.t.Fatal(err)
	}
	if err := c.readRows(w.t.Context(), &w.table); err != nil {
		w.t.Fatal(err)
	}
	c.end, c.confirmed = w.end, w.confirmed
	for _, id := range w.inFlight {
		if err := c.spill.add(&entry{kind: inFlightEntry, id: id}, true); err != nil {
			w.t.Fatal(err)
		}
	}
	r, err := c.finish(w.t.Context(), &w.table)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// expect compares, and wants exactly these counts.
func (w *world) expect(want map[string]int64) *Result {
	w.t.Helper()
	r := w.compare()
	got := make(map[string]int64)
	for _, counts := range []map[string]int64{r.Mismatches, r.NotComparable} {
		for kind, n := range counts {
			if n != 0 {
				got[kind] = n
			}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("found %v, want %v; %+v", got, want, r.Examples)
	}
	if r.Differ() != (r.Verdict == "differ") {
		w.t.Errorf("verdict %s: %v", r.Verdict, r.Mismatches)
	}
	return r
}

func none() map[string]int64 { return map[string]int64{} }

// One row without a record among many, and one of each other kind: each is found, and
// nothing else.
func TestEachKindIsFound(t *testing.T) {
	another := func(_ *decoder.Event, r *kgo.Record) { r.Value = []byte(`{"n": 0}`) }
	for _, test := range []struct {
		name  string
		plant func(*world)
		want  map[string]int64
	}{
		{"nothing", func(w *world) { w.publish(1, 500) }, none()},
		{"missing", func(w *world) { w.publish(1, 300); w.publish(302, 500) }, map[string]int64{Missing: 1}},
		{"duplicate behind others", func(w *world) { w.publish(1, 500); w.produce(w.record(17)) }, map[string]int64{Duplicate: 1}},
		{"duplicate in the middle", func(w *world) { w.publish(1, 300); w.produce(w.record(17)); w.publish(301, 500) }, map[string]int64{Duplicate: 1}},
		{"two duplicates, the last one of the newest", func(w *world) {
			w.publish(1, 500)
			w.produce(w.record(400), w.record(500))
		}, map[string]int64{Duplicate: 2}},
		{"unexpected", func(w *world) {
			w.publish(1, 500)
			w.produce(w.record(400, func(_ *decoder.Event, r *kgo.Record) { r.Headers[0].Value = []byte("stranger") }))
		}, map[string]int64{Unexpected: 1}},
		{"unexpected without an id", func(w *world) {
			w.publish(1, 500)
			w.produce(&kgo.Record{Topic: topicName, Value: []byte("x")})
		}, map[string]int64{Unexpected: 1}},
		{"another value", func(w *world) { w.publish(1, 300); w.produce(w.record(301, another)); w.publish(302, 500) }, map[string]int64{Different: 1}},
		{"another key", func(w *world) {
			w.publish(1, 300)
			w.produce(w.record(301, func(_ *decoder.Event, r *kgo.Record) { r.Key = []byte("b") }))
			w.publish(302, 500)
		}, map[string]int64{Different: 1}},
		{"out of order within a key", func(w *world) {
			w.publish(1, 300)
			w.produce(w.record(308), w.record(301), w.record(302))
			w.publish(303, 307)
			w.publish(309, 500)
		}, map[string]int64{OutOfOrder: 1}},
		{"late", func(w *world) {
			w.publish(1, 300)
			w.table.rows[300].committed = begin.Add(301 * time.Second)
			w.produce(w.record(301, func(_ *decoder.Event, r *kgo.Record) { r.Timestamp = r.Timestamp.Add(61 * time.Second) }))
			w.publish(302, 500)
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.insert(1, 500)
			test.plant(w)
			if test.want != nil {
				w.expect(test.want)
				return
			}
			// What is late shows in no sum: only where the record carries another time.
			w.options.Format.Clock = record.SendTime
			w.expect(map[string]int64{Late: 1})
		})
	}
}

// What cannot be compared is told apart, and is no mismatch.
func TestWhatIsNoMismatch(t *testing.T) {
	mark := func(name string) func(*decoder.Event, *kgo.Record) {
		return func(_ *decoder.Event, r *kgo.Record) {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte("true")})
		}
	}
	for _, test := range []struct {
		name  string
		plant func(*world)
		want  map[string]int64
	}{
		{"in flight", func(w *world) { w.publish(1, 499); w.inFlight = []string{"e500"} }, map[string]int64{"in_flight": 1}},
		{"inserted since its page was read", func(w *world) {
			w.publish(1, 500)
			w.table.byID = w.table.rows
			w.table.rows = w.table.rows[:499]
		}, none()},
		{"removed since its page was read", func(w *world) {
			w.publish(1, 499)
			w.table.byID = w.table.rows[:499]
		}, map[string]int64{"removed": 1}},
		{"newer than the rows", func(w *world) { w.publish(1, 510); w.end = lsn(500) }, none()},
		{"its row was removed", func(w *world) {
			w.publish(1, 500)
			w.table.rows = w.table.rows[10:]
		}, map[string]int64{"removed": 10}},
		{"rows are deleted by somebody", func(w *world) {
			w.publish(1, 500)
			w.table.rows, w.table.removed = slices.Delete(w.table.rows, 100, 110), 10
		}, map[string]int64{"removed": 10}},
		{"published again", func(w *world) { w.publish(1, 500); w.produce(w.record(17, mark("replayed"))) }, map[string]int64{"replayed": 1}},
		{"published again, and before nowhere", func(w *world) {
			w.publish(1, 16)
			w.publish(18, 500)
			w.produce(w.record(17, mark("replayed")))
		}, map[string]int64{"replayed": 1}},
		{"a dead letter that was retried", func(w *world) {
			w.publish(1, 16)
			w.publish(18, 500)
			w.produce(w.record(17, mark("dead_letter_retry")))
		}, map[string]int64{"replayed": 1}},
		{"no id", func(w *world) {
			w.publish(1, 500)
			w.table.rows = append(w.table.rows, fakeRow{aggregate: "a", payload: "{}"})
		}, map[string]int64{"no_id": 1}},
		{"a rule discards it", func(w *world) {
			w.options.Rules.Overrides = []router.Override{{Type: "Paid", Topic: ""}}
		}, map[string]int64{"discarded": 500}},
		{"archived while it was read", func(w *world) {
			w.publish(1, 500)
			moved := w.table.rows[0]
			moved.archived = true
			w.table.rows = append(w.table.rows, moved)
		}, none()},
		{"archived", func(w *world) {
			w.publish(1, 500)
			w.table.rows[0].archived = true
		}, none()},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.insert(1, 500)
			test.plant(w)
			w.expect(test.want)
		})
	}
}

// A row that was seen in the table and in its archive, since it was moved in between, is
// one row.
func TestRowArchivedWhileItIsRead(t *testing.T) {
	w := newWorld(t, 1)
	w.insert(1, 500)
	w.publish(1, 500)
	for _, moved := range w.table.rows[:20] {
		moved.archived = true
		w.table.rows = append(w.table.rows, moved)
	}
	if r := w.expect(none()); r.Rows != 500 || r.Matched != 500 {
		t.Errorf("%d rows, %d with their record, want 500", r.Rows, r.Matched)
	}
}

// Repetitions of a crash: everything from a position on comes once more, in order, and
// then goes on. They are no duplicates of at-least-once delivery, and are of another.
func TestRepetitions(t *testing.T) {
	for _, test := range []struct {
		name     string
		publish  func(*world)
		repeated int64
	}{
		{"once", func(w *world) { w.publish(1, 300); w.publish(281, 500) }, 20},
		{"twice from different places", func(w *world) { w.publish(1, 300); w.publish(281, 310); w.publish(300, 500) }, 31},
		{"cut short by another crash", func(w *world) { w.publish(1, 300); w.publish(281, 290); w.publish(275, 500) }, 36},
		{"and nothing after it", func(w *world) { w.publish(1, 500); w.publish(481, 500) }, 20},
		{"not at its end yet", func(w *world) { w.publish(1, 500); w.publish(481, 490); w.confirmed = lsn(470) }, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 3)
			w.insert(1, 500)
			test.publish(w)
			w.expect(map[string]int64{"repeated": test.repeated})
			w.options.ExactlyOnce = true
			w.expect(map[string]int64{Duplicate: test.repeated})
		})
	}
	t.Run("one is left out", func(t *testing.T) {
		w := newWorld(t, 1)
		w.insert(1, 500)
		w.publish(1, 300)
		w.publish(281, 289)
		w.publish(291, 500)
		w.expect(map[string]int64{Duplicate: 19})
	})
	t.Run("not to the end, though that is confirmed", func(t *testing.T) {
		w := newWorld(t, 1)
		w.insert(1, 500)
		w.publish(1, 500)
		w.publish(481, 490)
		w.expect(map[string]int64{Duplicate: 10})
	})
}

// Of events whose rows retention has removed, a record that is there twice is judged as
// if the row were there: a repetition of a crash, or a duplicate.
func TestRepetitionsOfRemovedRows(t *testing.T) {
	for _, test := range []struct {
		name    string
		publish func(*world)
		want    map[string]int64
	}{
		{"none", func(w *world) { w.publish(1, 500) }, map[string]int64{"removed": 400}},
		{"a duplicate", func(w *world) { w.publish(1, 300); w.produce(w.record(17)); w.publish(301, 500) }, map[string]int64{"removed": 400, Duplicate: 1}},
		{"three of one", func(w *world) { w.publish(1, 500); w.produce(w.record(17), w.record(17)) }, map[string]int64{"removed": 400, Duplicate: 2}},
		{"a crash", func(w *world) { w.publish(1, 300); w.publish(281, 500) }, map[string]int64{"removed": 400, "repeated": 20}},
		{"a crash, up to rows that are there", func(w *world) { w.publish(1, 410); w.publish(391, 500) }, map[string]int64{"removed": 400, "repeated": 20}},
		{"a crash, and one is left out", func(w *world) { w.publish(1, 300); w.publish(281, 289); w.publish(291, 500) }, map[string]int64{"removed": 400, Duplicate: 19}},
		{"a crash of exactly once", func(w *world) { w.options.ExactlyOnce = true; w.publish(1, 300); w.publish(281, 500) }, map[string]int64{"removed": 400, Duplicate: 20}},
		{"two rows had one id", func(w *world) {
			w.publish(1, 300)
			w.produce(w.record(301, func(_ *decoder.Event, r *kgo.Record) { r.Headers[0].Value = []byte("e17") }))
			w.publish(302, 500)
		}, map[string]int64{"removed": 400}},
		{"two rows had one id, and a crash", func(w *world) {
			other := func(_ *decoder.Event, r *kgo.Record) { r.Headers[0].Value = []byte("e17") }
			w.publish(1, 300)
			w.produce(w.record(301, other))
			w.publish(302, 303)
			w.publish(291, 300)
			w.produce(w.record(301, other))
			w.publish(302, 500)
		}, map[string]int64{"removed": 400, "repeated": 13}},
		{"published again", func(w *world) {
			w.publish(1, 500)
			w.produce(w.record(17, func(_ *decoder.Event, r *kgo.Record) {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: "replayed", Value: []byte("true")})
			}))
		}, map[string]int64{"removed": 400}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.insert(401, 500)
			test.publish(w)
			w.expect(test.want)
		})
	}
	t.Run("somebody deletes rows", func(t *testing.T) {
		w := newWorld(t, 1)
		w.insert(1, 500)
		w.table.rows, w.table.removed = slices.Delete(w.table.rows, 100, 110), 10
		w.publish(1, 500)
		w.produce(w.record(105))
		r := w.expect(map[string]int64{"removed": 10, Duplicate: 1})
		if len(r.Examples) != 1 || r.Examples[0].ID != "e105" || *r.Examples[0].Offset != 500 {
			t.Errorf("examples %+v", r.Examples)
		}
	})
}

// Compaction removes records from between others, so that what a crash has repeated need
// not follow what it followed first.
func TestRepetitionsOfCompactedTopic(t *testing.T) {
	w := newWorld(t, 1)
	if _, err := kadm.NewClient(w.client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "cleanup.policy", Value: kadm.StringPtr("compact")}}, topicName); err != nil {
		t.Fatal(err)
	}
	w.insert(251, 500)
	w.publish(1, 300)
	w.publish(241, 289)
	w.publish(291, 299)
	w.publish(301, 500)
	w.expect(map[string]int64{"removed": 250, "repeated": 58})
}

// A record that differs is no mismatch any more once its event was published again as its
// row gives it.
func TestDifferentIsCorrected(t *testing.T) {
	again := func(_ *decoder.Event, r *kgo.Record) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "replayed", Value: []byte("true")})
	}
	another := func(_ *decoder.Event, r *kgo.Record) { r.Value = []byte(`{"n": 0}`) }
	another2 := func(_ *decoder.Event, r *kgo.Record) { r.Partition, r.Key = 1, []byte("elsewhere") }
	for _, test := range []struct {
		name  string
		plant func(*world)
		want  map[string]int64
	}{
		{"not yet", func(w *world) { w.produce(w.record(301, another)) }, map[string]int64{Different: 1}},
		{"published again", func(w *world) { w.produce(w.record(301, another), w.record(301, again)) }, map[string]int64{"corrected": 1, "replayed": 1}},
		{"with another key", func(w *world) { w.produce(w.record(301, another2), w.record(301, again)) }, map[string]int64{"corrected": 1, "replayed": 1}},
		{"published again as it was", func(w *world) { w.produce(w.record(301, another), w.record(301, another, again)) }, map[string]int64{Different: 1, "replayed": 1}},
		{"published again before", func(w *world) { w.produce(w.record(301, again), w.record(301, another)) }, map[string]int64{Different: 1, "replayed": 1}},
		{"one after it", func(w *world) { w.produce(w.record(301, another), w.record(301, again), w.record(301, another)) }, map[string]int64{Different: 1, "corrected": 1, "repeated": 1, "replayed": 1}},
		{"by a connector that was set back", func(w *world) { w.produce(w.record(301, another), w.record(301)) }, map[string]int64{"corrected": 1, "repeated": 1}},
		{"a good one elsewhere", func(w *world) { w.produce(w.record(301, another2), w.record(301)) }, map[string]int64{Different: 1, Duplicate: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.insert(1, 500)
			w.publish(1, 300)
			test.plant(w)
			w.publish(302, 500)
			w.expect(test.want)
		})
	}
}

// A backfill that is interrupted begins again, under other positions.
// The ids of a table that replaced another begin again: a record of the other's row is
// none of the row that has its id now.
func TestReplacedTable(t *testing.T) {
	w := newWorld(t, 1)
	w.options.Undelivered = true
	w.publish(1, 20)
	w.insert(1, 20)
	for n := range 3 {
		w.table.rows[n].payload = `{"another": "event"}`
	}
	w.expect(map[string]int64{Different: 3})
	w.options.Replaced = true
	w.expect(map[string]int64{Missing: 3})
	for n := range 3 {
		w.produce(w.record(30+n, func(_ *decoder.Event, r *kgo.Record) {
			r.Key, r.Value, r.Headers[0].Value = []byte(w.table.rows[n].aggregate), []byte(w.table.rows[n].payload), []byte(w.table.rows[n].id)
		}))
	}
	w.expect(none())
}

func TestRepeatedBackfill(t *testing.T) {
	w := newWorld(t, 3)
	w.insert(1, 100)
	for attempt, slot := range []pglogrepl.LSN{0x1000, 0x2000} {
		for n := 1; n <= 50+50*attempt; n++ {
			w.produce(w.record(n, func(_ *decoder.Event, r *kgo.Record) {
				for i := range r.Headers {
					if r.Headers[i].Key == "position" {
						r.Headers[i].Value = []byte(decoder.Position{CommitLSN: slot - 1, Number: uint32(n)}.String())
					}
				}
			}))
		}
	}
	w.expect(map[string]int64{"repeated": 50})
}

// Values are compared without what the table does not keep, in every format.
func TestFormats(t *testing.T) {
	for name, value := range map[string]format.Format{"raw": nil, "json": json.Format{}, "cloudevents": cloudevents.Format{}} {
		for style, headers := range map[string]format.Headers{"plain": format.Plain, "cloudevents": cloudevents.Headers{}, "debezium": debezium.IDHeader, "none": format.None} {
			t.Run(name+" "+style, func(t *testing.T) {
				w := newWorld(t, 2)
				w.options.Format.Format, w.options.Format.Headers = value, headers
				w.options.Form = Form{Headers: style, Format: name}
				w.insert(1, 100)
				if name == "raw" && style == "none" {
					if _, err := newComparison(w.options); err != ErrNoID {
						t.Errorf("%v, want %v", err, ErrNoID)
					}
					return
				}
				w.publish(1, 50)
				w.publish(41, 100)
				w.expect(map[string]int64{"repeated": 10})
				w.table.rows[20].payload = `{"n": 0}`
				w.table.rows[30].aggregate = "another"
				w.expect(map[string]int64{"repeated": 10, Different: 2})
			})
		}
	}
}

// With a window of time, records are also looked for before it.
func TestWindow(t *testing.T) {
	w := newWorld(t, 1)
	w.insert(1, 7200)
	w.publish(1, 400)
	w.options.Since, w.options.Until = begin.Add(100*time.Second), begin.Add(400*time.Second)
	w.expect(none())
	// The record of a row may carry an earlier time than slack allows for.
	w.table.rows[200].at = begin.Add(3 * time.Hour)
	w.table.rows[250].at = begin.Add(3 * time.Hour)
	w.options.Since, w.options.Until = begin.Add(2*time.Hour+30*time.Minute), time.Time{}
	w.table.rows[250].id = "nowhere"
	w.expect(map[string]int64{Missing: 1})
}

// Retention and compaction take records away.
func TestExpired(t *testing.T) {
	w := newWorld(t, 1)
	w.insert(1, 2000)
	w.publish(1, 1999)
	admin := kadm.NewClient(w.client)
	w.expect(map[string]int64{Missing: 1})
	offsets := make(kadm.Offsets)
	offsets.Add(kadm.Offset{Topic: topicName, Partition: 0, At: 500})
	if _, err := admin.DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	w.expect(map[string]int64{Missing: 1, "expired": 500})
	if _, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "cleanup.policy", Value: kadm.StringPtr("compact")}}, topicName); err != nil {
		t.Fatal(err)
	}
	w.expect(map[string]int64{"compacted": 501})
}

// A topic that is gone has lost everything.
func TestTopicGone(t *testing.T) {
	w := newWorld(t, 1)
	w.options.Rules.Topic = "elsewhere"
	w.insert(1, 20)
	w.expect(map[string]int64{Missing: 20})
}

// Dead letters are where they belong, whichever of header and value names the event.
func TestDeadLetters(t *testing.T) {
	w := newWorld(t, 1)
	w.options.DeadLetters = "dead"
	if _, err := kadm.NewClient(w.client).CreateTopic(t.Context(), 1, 1, nil, "dead"); err != nil {
		t.Fatal(err)
	}
	w.insert(1, 20)
	w.publish(1, 18)
	w.produce(&kgo.Record{Topic: "dead", Value: []byte(`{"n":1}`), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("e19")}}},
		&kgo.Record{Topic: "dead", Value: []byte(`{"id":"e20","type":"Paid"}`)})
	w.expect(map[string]int64{"dead_lettered": 2})
}
