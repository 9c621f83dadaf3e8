package positions

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"outboxd/offsets"
)

// write puts a record into the topic as anybody may.
func write(t *testing.T, c *kfake.Cluster, r *kgo.Record) {
	t.Helper()
	r.Topic = testTopic
	if err := producer(t, c, kgo.AllowAutoTopicCreation()).ProduceSync(limited(t), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// legacy writes a position as earlier versions did.
func legacy(t *testing.T, c *kfake.Cluster, p offsets.Position) {
	t.Helper()
	expect(t, open(t, c, "nobody"), nil) // makes the topic
	write(t, c, &kgo.Record{Key: []byte(p.Slot), Value: p.Encode()})
}

// A process that was cut off while another took over appends its older position
// behind the newer one. The newer one counts, also when compaction leaves the last
// record of each key alone.
func TestLateSaveOfAnOldProcess(t *testing.T) {
	c := broker(t)
	first, second := open(t, c, "outboxd"), open(t, c, "outboxd")
	expect(t, first, nil)
	save(t, first, position(10, "outboxd"))
	expect(t, second, &offsets.Position{SystemID: "7301", Timeline: 1, Slot: "outboxd", LSN: 0x10A})
	if second.Claimed() {
		t.Error("what another process wrote is claimed")
	}
	save(t, second, position(10, "outboxd"))
	want := position(30, "outboxd")
	save(t, second, want)
	save(t, first, position(20, "outboxd"))
	expect(t, open(t, c, "outboxd"), &want)
	expect(t, second, &want)
	if !second.Claimed() {
		t.Error("our own position is not claimed any more")
	}

	// The records that compaction leaves.
	last := make(map[string]*kgo.Record)
	if err := first.read(limited(t), true, func(r *kgo.Record) { last[string(r.Key)] = r }); err != nil {
		t.Fatal(err)
	}
	left := claims{slot: "outboxd"}
	for _, r := range last {
		left.add(r)
	}
	if best, err := left.best(); err != nil || best == nil || best.position != want {
		t.Errorf("compacted: %v, %v", best, err)
	}

	// When it has the slot again, it claims the position, and may also move it back,
	// as --from-lsn and --accept-gap do.
	expect(t, first, &want)
	back := position(5, "outboxd")
	save(t, first, back)
	save(t, second, position(40, "outboxd"))
	expect(t, open(t, c, "outboxd"), &back)
}

// Two processes have the same epoch when one was suspended between reading and
// claiming: the higher position counts, whoever writes last.
func TestSameEpoch(t *testing.T) {
	c := broker(t)
	first, second := open(t, c, "outboxd"), open(t, c, "outboxd")
	expect(t, first, nil)
	expect(t, second, nil)
	want := position(30, "outboxd")
	save(t, second, want)
	save(t, first, position(10, "outboxd"))
	expect(t, open(t, c, "outboxd"), &want)
	inside := want
	inside.Inside = offsets.Event{CommitLSN: 0x200, Number: 2}
	save(t, second, inside)
	save(t, first, want)
	expect(t, open(t, c, "outboxd"), &inside)
}

// A standby that is behind the one on which a backfill was begun can do it: what says that
// it is done lies before the mark, and counts.
func TestBackfillDoneBehindItsMark(t *testing.T) {
	c := broker(t)
	store := open(t, c, "outboxd")
	expect(t, store, nil)
	mark, done := position(30, "outboxd"), position(20, "outboxd")
	mark.Backfill = true
	save(t, store, mark)
	expect(t, open(t, c, "outboxd"), &mark)
	save(t, store, done)
	expect(t, open(t, c, "outboxd"), &done)
	expect(t, store, &done)
}

// Old claims do not pile up.
func TestOldClaimsAreDeleted(t *testing.T) {
	c := broker(t)
	for i := range 5 {
		s := open(t, c, "outboxd")
		if _, err := s.Load(limited(t)); err != nil {
			t.Fatal(err)
		}
		save(t, s, position(10, "outboxd"))
		if err := s.client.Flush(limited(t)); err != nil {
			t.Fatal(err)
		}
		live := claims{slot: "outboxd"}
		if err := s.read(limited(t), true, live.add); err != nil || len(live.live) != 1 {
			t.Errorf("%d claims after %d processes, %v", len(live.live), i+1, err)
		}
	}
}

// A position of an earlier version is taken, and is of no account after a claim.
func TestEarlierVersions(t *testing.T) {
	c := broker(t)
	want := position(10, "outboxd")
	legacy(t, c, position(20, "outboxd"))
	legacy(t, c, want) // the last one, as it was then
	s := open(t, c, "outboxd")
	expect(t, s, &want)
	save(t, s, want)
	legacy(t, c, position(99, "outboxd"))
	expect(t, s, &want)
	expect(t, open(t, c, "outboxd"), &want)
}

// A record that is not outboxd's is not taken for a position, whatever is in it: an
// error where there is no other, and ignored with a warning beside a claim.
func TestForgedPosition(t *testing.T) {
	forged := position(99, "outboxd")
	own := open(t, broker(t), "outboxd").Record(forged)
	for name, r := range map[string]*kgo.Record{
		"a row's headers": {Key: []byte("outboxd"), Value: forged.Encode(), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte("1")}}},
		"wrong check":     {Key: []byte("outboxd"), Value: forged.Encode(), Headers: slices.Concat(own.Headers[:2], []kgo.RecordHeader{{Key: checkHeader, Value: []byte("00000000")}})},
		"another's check": {Key: []byte("outboxd"), Value: position(98, "outboxd").Encode(), Headers: own.Headers},
		"no check":        {Key: []byte("outboxd/7/x"), Value: forged.Encode()},
		"nonsense":        {Key: []byte("outboxd"), Value: []byte("{}")},
	} {
		t.Run(name, func(t *testing.T) {
			c := broker(t)
			var log bytes.Buffer
			s := open(t, c, "outboxd")
			s.o.Log = zerolog.New(&log)
			expect(t, s, nil)
			write(t, c, r)
			if p, err := s.Load(limited(t)); !errors.Is(err, offsets.ErrUnusable) {
				t.Errorf("alone: loaded %v, %v", p, err)
			}
			want := position(1, "outboxd")
			save(t, s, want)
			write(t, c, &kgo.Record{Key: r.Key, Value: r.Value, Headers: r.Headers})
			expect(t, s, &want)
			if !strings.Contains(log.String(), "is ignored") {
				t.Errorf("no warning: %s", &log)
			}
		})
	}
}

// A look makes no topic.
func TestPeek(t *testing.T) {
	c := broker(t)
	s := open(t, c, "outboxd")
	if p, err := s.Peek(limited(t)); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
	if topics, err := s.admin.ListTopics(limited(t)); err != nil || len(topics) != 0 {
		t.Errorf("topics %v, %v", topics, err)
	}
	want := position(1, "outboxd")
	save(t, s, want)
	if p, err := s.Peek(limited(t)); err != nil || p == nil || *p != want {
		t.Errorf("%v, %v", p, err)
	}
}
