package sink

import (
	"bytes"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/internal/event"
	"outboxd/internal/memory"
	"outboxd/internal/record"
)

// waiting returns a spares and a chunk pool with a budget.
func waiting(budget Budget) (*chunks, *spares) {
	return &chunks{budget: budget, wake: func() {}}, &spares{budget: budget, inFlight: new(atomic.Int64)}
}

// A copy says of an event all that the delivery said, nil told from empty, and nothing of
// it is a view of what was copied.
func TestChunkKeepsAllOfAnEvent(t *testing.T) {
	id := []byte("8f3a7a0e-0000-4000-8000-000000000001")
	at := time.Date(2026, 11, 29, 12, 0, 0, 123_456_000, time.UTC)
	for _, test := range []struct {
		name string
		r    record.Record
	}{
		{"an ordinary one", record.Record{Record: kgo.Record{Key: []byte("order-1"), Partition: record.ByKey, Value: []byte(`{"a": 1}`), Timestamp: at,
			Headers: []record.Header{{Key: "id", Value: id}, {Key: "type", Value: []byte("placed")}}},
			ID: id, CommittedAt: at.Add(-time.Hour), Position: event.Position{CommitLSN: 1 << 63, Number: 1<<32 - 1}}},
		{"nothing but what it must have", record.Record{Record: kgo.Record{Partition: record.ByKey}}},
		{"empty, not nil", record.Record{ID: []byte{}, Record: kgo.Record{Key: []byte{}, Value: []byte{}, Partition: record.ByKey,
			Headers: []record.Header{{Key: "", Value: []byte{}}, {Key: "none"}}}}},
		{"an id of its own", record.Record{ID: id, Record: kgo.Record{Key: []byte("k"), Partition: record.ByKey, Headers: []record.Header{{Key: "id", Value: bytes.Clone(id)}}}}},
		{"a partition that it names", record.Record{Clock: record.SendTime, Record: kgo.Record{Key: []byte("k"), Partition: 1<<31 - 1, Timestamp: at}}},
		{"times far away", record.Record{Clock: record.BusinessTime, Record: kgo.Record{Key: []byte("k"), Partition: record.ByKey, Timestamp: time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)},
			CommittedAt: time.Date(-4000, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{"a large one", record.Record{Record: kgo.Record{Key: []byte("k"), Partition: record.ByKey, Value: bytes.Repeat([]byte("x"), 100<<10)}}},
		{"many headers", record.Record{Record: kgo.Record{Key: []byte("k"), Partition: record.ByKey, Headers: slicesOf(mostNames + 20)}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pool, spares := waiting(memory.New(1 << 30))
			w := new(witness)
			d := &Delivery{Record: test.r, Receipt: w}
			size := packed(d)
			c := pool.get(size)
			for range 2 { // the second may not fit
				if !c.add(d, size) && c.n == 0 {
					t.Fatal("the event does not fit into a chunk for it")
				}
			}
			if len(c.buf) > int(c.n)*size {
				t.Errorf("%d copies take %d bytes, it was said that each takes %d", c.n, len(c.buf), size)
			}
			if cap(c.buf) != cap(pool.get(size).buf) {
				t.Error("the chunk has grown: nobody has accounted for that")
			}
			// What was copied is used for the next event.
			want := clone(&test.r)
			for _, b := range [][]byte{test.r.Key, test.r.Value, test.r.ID} {
				clear(b)
			}
			for _, h := range test.r.Headers {
				clear(h.Value)
			}
			copies := int(c.n)
			p := &pile{topic: &topic{name: "orders"}, count: 600, place: 7}
			c.send(t.Context(), p, spares, func(d *Delivery) {
				copies--
				got := clone(&d.Record)
				got.Topic = ""
				if !d.Timestamp.Equal(test.r.Timestamp) || d.Timestamp.IsZero() != test.r.Timestamp.IsZero() || !d.CommittedAt.Equal(test.r.CommittedAt) {
					t.Errorf("times %s and %s, want %s and %s", d.Timestamp, d.CommittedAt, test.r.Timestamp, test.r.CommittedAt)
				}
				if got.Timestamp, got.CommittedAt = want.Timestamp, want.CommittedAt; !reflect.DeepEqual(got, want) {
					t.Errorf("%+v\nwant\n%+v", got, want)
				}
				if d.Topic != "orders" || d.topic != p.topic || d.count != 600 || d.place != 7 || d.Receipt != Receipt(w) || d.Memory != Memory(c) || d.Record.Context != d {
					t.Errorf("the delivery is not that of the event: %+v", d)
				}
				if d.size != wireSize(&d.Record.Record) {
					t.Errorf("size %d", d.size)
				}
			})
			if copies != 0 {
				t.Errorf("%d copies were not sent", copies)
			}
		})
	}
}

// clone copies a record, so that it compares equal where nil and empty are told apart.
func clone(r *record.Record) record.Record {
	c := record.Record{ID: bytes.Clone(r.ID), Clock: r.Clock, Position: r.Position, CommittedAt: r.CommittedAt,
		Record: kgo.Record{Topic: r.Topic, Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), Partition: r.Partition, Timestamp: r.Timestamp}}
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, record.Header{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
	}
	return c
}

func slicesOf(n int) (h []record.Header) {
	for i := range n {
		h = append(h, record.Header{Key: strings.Repeat("k", i), Value: bytes.Repeat([]byte{'v'}, i)})
	}
	return h
}

// What a chunk is said to take beside its bytes is what it takes.
func TestChunkOverhead(t *testing.T) {
	if size := int(unsafe.Sizeof(chunk{})); size > chunkOverhead || size < chunkOverhead-64 {
		t.Errorf("a chunk takes %d bytes beside its buffer, %d are accounted for", size, chunkOverhead)
	}
}

// A chunk is in use until the last of its events is released; one of the common size is
// then kept, and given up on demand. What is charged for an event is accounted for until
// it is released.
func TestChunksAreAccountedFor(t *testing.T) {
	budget := memory.New(1 << 30)
	pool, spares := waiting(budget)
	check := func(what string, used, kept int) {
		t.Helper()
		if got, want := budget.Accounts(), (memory.Accounts{Deliveries: int64(used), Kept: int64(kept)}); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	const one = chunkBytes + chunkOverhead
	d := &Delivery{Record: record.Record{Record: kgo.Record{Key: []byte("k"), Value: []byte("v")}}}
	c := pool.get(packed(d))
	large := pool.get(100_000)
	check("two are out", one+100_000+chunkOverhead, 0)
	for range 3 {
		c.add(d, packed(d))
	}
	large.add(d, packed(d))
	var sent []*Delivery
	for _, c := range []*chunk{c, large} {
		c.send(t.Context(), new(pile{topic: new(topic)}), spares, func(d *Delivery) { sent = append(sent, d) })
	}
	const more = slabBytes
	check("all are sent", one+100_000+chunkOverhead+more, 0)
	if n := pool.sent.Load(); n != 4 {
		t.Errorf("%d events are sent and not answered, want 4", n)
	}
	sent[0].Memory.Charge(5000)
	check("one is charged for", one+100_000+chunkOverhead+more+5000, 0)
	sent[0].Memory.Release(5000)
	sent[1].Memory.Release(0)
	check("the last one of it is out", one+100_000+chunkOverhead+more, 0)
	sent[2].Memory.Release(0)
	check("all of it are back", 100_000+chunkOverhead+more, one)
	sent[3].Memory.Release(0)
	check("that of an uncommon size is not kept", more, one)
	if again := pool.get(1); again != c || again.n != 0 || len(again.buf) != 0 {
		t.Errorf("a chunk that came back is not used again, or not empty: %d events, %d bytes", again.n, len(again.buf))
	}
	check("it is used again", one+more, 0)
	if n := pool.sent.Load(); n != 0 {
		t.Errorf("%d events are sent and not answered, want none", n)
	}
	c.add(d, packed(d))
	c.send(t.Context(), new(pile{topic: new(topic)}), spares, func(d *Delivery) { d.Memory.Release(0) })
	if shed := pool.shed(1); shed != one {
		t.Errorf("%d bytes were given up, want %d", shed, one)
	}
	if shed := pool.shed(1); shed != 0 {
		t.Errorf("%d bytes were given up of nothing", shed)
	}
}
