package e2e

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// record is an event as Kafka has it.
type record struct {
	topic     string
	partition int32
	offset    int64
	key       string
	hasKey    bool
	value     []byte // nil: tombstone
	headers   []kgo.RecordHeader
	position  string
	id        string
	timestamp time.Time
	producer  string // id and epoch; since Kafka 4 each transaction has its own epoch
}

func (r record) String() string {
	return fmt.Sprintf("id %s key %s position %s at %s/%d@%d", r.id, r.key, r.position, r.topic, r.partition, r.offset)
}

// header returns a header's value, "" when there is none.
func (r record) header(key string) string {
	for _, h := range r.headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// commitLSN is the first half of the position.
func (r record) commitLSN(t *testing.T) pglogrepl.LSN {
	t.Helper()
	var lsn uint64
	var number uint32
	if _, err := fmt.Sscanf(r.position, "%16X-%08X", &lsn, &number); err != nil || len(r.position) != 25 {
		t.Fatalf("%v: not a position: %v", r, err)
	}
	return pglogrepl.LSN(lsn)
}

// checkpoint is what the slot and Kafka said at the same moment, while no
// connector ran: whatever lies before confirmed must lie before ends.
type checkpoint struct {
	confirmed pglogrepl.LSN
	ends      kadm.ListedOffsets
}

// checkpoint must be taken before each restart. The position is read first: what
// arrives in Kafka between the two questions is on the safe side.
func (s *scenario) checkpoint() {
	s.t.Helper()
	c := checkpoint{confirmed: s.confirmed()}
	c.ends = s.ends()
	s.checkpoints = append(s.checkpoints, c)
}

func (s *scenario) client(opts ...kgo.Opt) *kgo.Client {
	s.t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.kafka.InternalBrokers()...), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.UnknownTopicRetries(1000), // a topic that was just made is unknown for a while
	}, opts...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// admin returns a client for the administration of the scenario's Kafka.
func (s *scenario) admin() *kadm.Client {
	s.t.Helper()
	client := s.client()
	s.t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// createTopic makes a topic, whose whole name is given. A broker that missed a
// heartbeat, on a machine that is too busy, is none for a moment.
func (s *scenario) createTopic(topic string, partitions int32, configs map[string]*string) {
	s.t.Helper()
	admin := s.admin()
	waitFor(s.t, 60*time.Second, func() (string, bool) {
		_, err := admin.CreateTopic(context.Background(), partitions, 1, configs, topic)
		if err != nil && !errors.Is(err, kerr.InvalidReplicationFactor) {
			s.t.Fatal(err)
		}
		return "no broker for topic " + topic, err == nil
	})
}

// ends are the end offsets of the scenario's topics.
func (s *scenario) ends() kadm.ListedOffsets {
	s.t.Helper()
	client := s.client()
	defer client.Close()
	return s.endsBy(kadm.NewClient(client))
}

func (s *scenario) endsBy(admin *kadm.Client) kadm.ListedOffsets {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	names := s.topicsBy(ctx, admin)
	if len(names) == 0 {
		return nil
	}
	// A broker that has just come back elects leaders for a while.
	for {
		ends, err := admin.ListEndOffsets(ctx, names...)
		if err == nil {
			err = ends.Error()
		}
		if err == nil {
			return ends
		}
		if ctx.Err() != nil {
			s.t.Fatalf("list end offsets: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *scenario) topicsBy(ctx context.Context, admin *kadm.Client) []string {
	s.t.Helper()
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		s.t.Fatalf("list topics: %v", err)
	}
	var names []string
	for _, name := range topics.Names() {
		if strings.HasPrefix(name, s.topic+".") {
			names = append(names, name)
		}
	}
	return names
}

// arrived counts the records in the scenario's topics.
func (s *scenario) arrived() int64 {
	s.t.Helper()
	n := int64(0)
	s.ends().Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// read returns everything in the scenario's topics, partition by partition in
// the order of offsets.
func (s *scenario) read() []record {
	s.t.Helper()
	return s.readWith()
}

// readWith is read with a consumer of its own kind. What is kept of control
// records only says how far it has come.
func (s *scenario) readWith(opts ...kgo.Opt) []record {
	s.t.Helper()
	return s.readTo(s.ends(), opts...)
}

// readTo reads up to the given ends.
func (s *scenario) readTo(ends kadm.ListedOffsets, opts ...kgo.Opt) []record {
	s.t.Helper()
	offsets := make(map[string]map[int32]kgo.Offset)
	left := make(map[string]int64) // partitions not read to their end
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			if offsets[o.Topic] == nil {
				offsets[o.Topic] = make(map[int32]kgo.Offset)
			}
			offsets[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
			left[fmt.Sprint(o.Topic, o.Partition)] = o.Offset
		}
	})
	if len(left) == 0 {
		return nil
	}
	client := s.client(append(opts, kgo.ConsumePartitions(offsets))...)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var records []record
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			s.t.Fatalf("read topics: %v (partitions left, with their ends: %v)", err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			where := fmt.Sprint(r.Topic, r.Partition)
			end, ok := left[where]
			if !ok {
				return
			}
			if r.Offset == end-1 {
				delete(left, where)
			}
			if r.Attrs.IsControl() {
				return
			}
			rec := record{topic: r.Topic, partition: r.Partition, offset: r.Offset, key: string(r.Key), value: r.Value, headers: r.Headers,
				timestamp: r.Timestamp, hasKey: r.Key != nil, producer: fmt.Sprintf("%d/%d", r.ProducerID, r.ProducerEpoch)}
			for _, h := range r.Headers {
				switch h.Key {
				case "id":
					rec.id = string(h.Value)
				case "position":
					rec.position = string(h.Value)
				}
			}
			if s.digests && strings.HasPrefix(r.Topic, s.topic+".") {
				rec.value, rec.headers = digest(r.Value), nil
			}
			records = append(records, rec)
		})
	}
	slices.SortFunc(records, func(a, b record) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		if c := int(a.partition) - int(b.partition); c != 0 {
			return c
		}
		return int(a.offset - b.offset)
	})
	return records
}

// row is an event as the outbox table has it.
type row struct {
	id, key, typ string
	payload      []byte
}

// rows are the committed events. Row ids do not tell the order of commits.
func (s *scenario) rows() map[string]row {
	s.t.Helper()
	conn := s.connect()
	defer conn.Close(context.Background())
	return s.rowsBy(conn)
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (s *scenario) rowsBy(q querier) map[string]row {
	s.t.Helper()
	result, err := q.Query(context.Background(), `SELECT id::text, coalesce(aggregateid, ''), coalesce(type, ''), payload::text FROM outbox`)
	if err != nil {
		s.t.Fatal(err)
	}
	all := make(map[string]row)
	var id, key, typ string
	var payload *string
	if _, err := pgx.ForEachRow(result, []any{&id, &key, &typ, &payload}, func() error {
		r := row{id: id, key: key, typ: typ}
		if payload != nil {
			r.payload = []byte(*payload)
		}
		all[id] = r
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return all
}

// report is what the verifier has seen.
type report struct {
	committed, records, repeated int
}

// verify checks the promises over everything that was written: every committed
// row is in its topic with its key and its bytes, nothing else is, the first
// occurrences of each key are in commit order, and at each checkpoint everything
// that was confirmed was in Kafka.
func (s *scenario) verify() report {
	s.t.Helper()
	return s.verifyRows(s.rows(), nil)
}

// verifyRows is verify for rows that the caller knows, with those that it allows
// in Kafka beside them (rows deleted since).
func (s *scenario) verifyRows(committed map[string]row, deleted map[string]row) report {
	s.t.Helper()
	return s.verifyRecords(s.read(), committed, deleted)
}

// verifyRecords is verifyRows for records that were read before.
func (s *scenario) verifyRecords(records []record, committed map[string]row, deleted map[string]row) report {
	t := s.t
	t.Helper()
	first := make(map[string]record)
	highest := make(map[string]record) // by partition: the last first occurrence
	problems := 0
	complain := func(format string, args ...any) {
		t.Helper()
		if problems++; problems <= 20 {
			t.Errorf(format, args...)
		}
	}
	positions := make(map[string]string)
	for _, r := range records {
		want, ok := committed[r.id]
		if !ok {
			if want, ok = deleted[r.id]; !ok {
				complain("unexpected in Kafka (rolled back, or of another table): %v %s", r, r.value)
				continue
			}
		}
		if earlier, ok := first[r.id]; ok {
			if earlier.position != r.position && !(s.repositioned && earlier.position < r.position) {
				complain("repeated under another position: %v, before %v", r, earlier)
			}
			continue
		}
		first[r.id] = r
		if other, ok := positions[r.position]; ok {
			complain("position %s names both id %s and id %s", r.position, other, r.id)
		}
		positions[r.position] = r.id
		if r.topic != s.topic+"."+want.typ {
			complain("wrong topic: %v, type %s", r, want.typ)
		}
		if r.key != want.key {
			complain("wrong key: %v, aggregate id %s", r, want.key)
		}
		if string(r.value) != string(want.payload) || (r.value == nil) != (want.payload == nil) {
			complain("wrong bytes: %v: %q instead of %q", r, clipText(r.value), clipText(want.payload))
		}
		where := fmt.Sprintf("%s/%d", r.topic, r.partition)
		if before, ok := highest[where]; ok && r.position < before.position {
			complain("out of commit order in its partition: %v comes after %v", r, before)
		}
		highest[where] = r
	}
	for _, id := range slices.Sorted(maps.Keys(committed)) {
		if _, ok := first[id]; !ok {
			complain("lost: id %s key %s type %s", id, committed[id].key, committed[id].typ)
		}
	}
	s.verifyNumbers(first, committed, complain)
	for i, c := range s.checkpoints {
		for _, r := range first {
			if r.commitLSN(t) >= c.confirmed {
				continue
			}
			if end, ok := c.ends.Lookup(r.topic, r.partition); !ok || r.offset >= end.Offset {
				complain("checkpoint %d: confirmed up to %s but not yet in Kafka: %v", i, c.confirmed, r)
			}
		}
	}
	if problems > 20 {
		t.Errorf("and %d problems more", problems-20)
	}
	return report{committed: len(committed), records: len(records), repeated: len(records) - len(first)}
}

// verifyNumbers checks the order against what the writers know: the numbers that
// each key's writer counted.
func (s *scenario) verifyNumbers(first map[string]record, committed map[string]row, complain func(string, ...any)) {
	type event struct {
		position string
		n        int
	}
	keys := make(map[string][]event)
	for id, r := range first {
		var n int
		if _, err := fmt.Sscanf(string(committed[id].payload), `{"n": %d`, &n); err != nil {
			// jsonb orders members by length: "n" comes first.
			continue
		}
		keys[r.topic+"/"+r.key] = append(keys[r.topic+"/"+r.key], event{r.position, n})
	}
	for key, events := range keys {
		slices.SortFunc(events, func(a, b event) int { return strings.Compare(a.position, b.position) })
		for i := 1; i < len(events); i++ {
			if events[i].n <= events[i-1].n {
				complain("key %s: event %d was published after event %d", key, events[i].n, events[i-1].n)
			}
		}
	}
}

// digestKeeps is how many bytes of a value digest keeps: enough for the number that
// verifyNumbers looks for.
const digestKeeps = 24

// digest is the beginning of a value and its MD5, which PostgreSQL knows too.
func digest(value []byte) []byte {
	if value == nil {
		return nil
	}
	return fmt.Appendf(nil, "%s%x", value[:min(len(value), digestKeeps)], md5.Sum(value))
}

func clipText(b []byte) []byte {
	if len(b) > 120 {
		return append(slices.Clone(b[:120]), "…"...)
	}
	return b
}
