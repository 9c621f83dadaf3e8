package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// replay runs the command to its end.
func (s *scenario) replay(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	return invoke(s.t, append([]string{"replay", "--config", s.configFile()}, args...)...)
}

// same tells whether a record is another one again, but for the header that says
// so.
func same(first, again record) bool {
	last := len(again.headers) - 1
	return first.topic == again.topic && first.partition == again.partition && first.key == again.key &&
		string(first.value) == string(again.value) && len(first.headers) == last &&
		fmt.Sprint(first.headers) == fmt.Sprint(again.headers[:last]) &&
		again.headers[last].Key == "replayed" && string(again.headers[last].Value) == "true"
}

// A past window is published again beside a running connector, which does not
// notice: what is published are the same records, of exactly the transactions
// that were committed in the window, read with the columns of their time.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.startStreaming().stop()
	s.extra = "delivery: {confirm_interval: 1h}" // the window stays open
	begin := s.confirmed()
	var bounds []pglogrepl.LSN
	for i, ddl := range []string{"SELECT", "ALTER TABLE outbox ADD COLUMN note text DEFAULT 'x'", "ALTER TABLE outbox RENAME note TO remark", "SELECT"} {
		bounds = append(bounds, s.lsn("SELECT pg_current_wal_insert_lsn()::text"))
		s.events(10*i+1, 10*i+10)
		s.exec(ddl)
	}
	c := s.startStreaming()
	s.waitArrived(40)
	first := s.read()

	if code, stdout, stderr := s.replay("--dry-run"); code != 0 || stdout != fmt.Sprintf("would publish 40 events of 4 transactions committed from %s to %s\n", begin, s.end(stdout)) {
		t.Errorf("exit %d, %q, %s", code, stdout, stderr)
	}
	code, stdout, stderr := s.replay("--from-lsn", bounds[1].String(), "--to-lsn", bounds[3].String())
	if want := fmt.Sprintf("published 20 events of 2 transactions committed from %s to %s\n", bounds[1], bounds[3]); code != 0 || stdout != want {
		t.Fatalf("exit %d, %q, want %q\n%s", code, stdout, want, stderr)
	}
	again := s.read()
	if len(again) != 60 {
		t.Errorf("%d records, want the 40 and 20 of them again", len(again))
	}
	for _, r := range again {
		if r.header("replayed") == "" {
			continue
		}
		i := slices.IndexFunc(first, func(f record) bool { return f.id == r.id })
		if i < 0 || !same(first[i], r) {
			t.Errorf("not the same again: %v %s %v", r, r.value, r.headers)
		}
		if at := r.commitLSN(t); at < bounds[1] || at >= bounds[3] {
			t.Errorf("%v is outside the window", r)
		}
	}

	// --from-lsn includes, --to-lsn excludes the commit that they name.
	third := s.positionOf(first, "21")
	for _, test := range []struct{ from, to, says string }{
		{third.String(), (third + 1).String(), "10 events of 1 transaction "},
		{begin.String(), third.String(), "20 events of 2 transactions "},
		{(third + 1).String(), bounds[3].String(), "0 events of 0 transactions "},
	} {
		if code, stdout, stderr := s.replay("--dry-run", "--from-lsn", test.from, "--to-lsn", test.to); code != 0 || !strings.Contains(stdout, test.says) {
			t.Errorf("from %s to %s: exit %d, %q, %s; want %q", test.from, test.to, code, stdout, stderr, test.says)
		}
	}

	// What is not there is refused, with what is.
	for _, test := range [][]string{
		{"--from-lsn", (begin - 1).String()},
		{"--to-lsn", "FF/0"},
	} {
		if code, _, stderr := s.replay(test...); code != 3 || !strings.Contains(stderr, "is outside of "+begin.String()+" to ") || !strings.Contains(stderr, "delivery.rewind") {
			t.Errorf("%v: exit %d, %s", test, code, stderr)
		}
	}
	if code, _, stderr := s.replay("--from-lsn", bounds[3].String(), "--to-lsn", bounds[1].String()); code != 2 {
		t.Errorf("a window that ends before it begins: exit %d, %s", code, stderr)
	}

	// The connector and its slot did not notice.
	if at := s.confirmed(); at != begin {
		t.Errorf("the slot was moved from %s to %s", begin, at)
	}
	if n := s.value("SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "1" {
		t.Errorf("%s slots are left", n)
	}
	s.events(41, 45)
	s.waitArrived(65)
	if c.count(`"message":"streaming"`) != 1 {
		t.Errorf("the connector's stream was interrupted:\n%s", c.tail(10))
	}
	c.stop()
	if code, stdout, stderr := s.replay(); code != 0 || !strings.HasPrefix(stdout, "published 0 events of 0 transactions") {
		t.Errorf("after all is confirmed: exit %d, %q, %s", code, stdout, stderr)
	}
}

// Records in Debezium's form say so as well when they are published again.
func TestReplayInDebeziumsForm(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.extra = "value: {format: debezium, headers: debezium, debezium: {context: shop}}\ndelivery: {confirm_interval: 1h}"
	c := s.startStreaming()
	s.events(1, 10)
	s.waitArrived(10)
	first := make(map[string]record)
	for _, r := range s.read() {
		first[r.header("id")] = r
	}
	if code, stdout, stderr := s.replay(); code != 0 || !strings.HasPrefix(stdout, "published 10 events of 1 transaction ") {
		t.Fatalf("exit %d, %q, %s", code, stdout, stderr)
	}
	again := 0
	for _, r := range s.read() {
		f := first[r.header("id")]
		if f.partition == r.partition && f.offset == r.offset {
			continue
		}
		if again++; !same(f, r) {
			t.Errorf("not the same again: %v %s %v", r, r.value, r.headers)
		}
	}
	if len(first) != 10 || again != 10 {
		t.Errorf("%d records, and %d of them again, want 10", len(first), again)
	}
	c.stop()
}

// end is the last position that a replay printed.
func (s *scenario) end(stdout string) string {
	fields := strings.Fields(stdout)
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}

func (s *scenario) positionOf(records []record, id string) pglogrepl.LSN {
	s.t.Helper()
	for _, r := range records {
		if r.id == id {
			return r.commitLSN(s.t)
		}
	}
	s.t.Fatalf("no record of id %s", id)
	return 0
}

// waitArrived waits until that many records are in the scenario's topics.
func (s *scenario) waitArrived(n int64) {
	s.t.Helper()
	waitFor(s.t, 60*time.Second, func() (string, bool) {
		have := s.arrived()
		return fmt.Sprintf("%d records of %d", have, n), have >= n
	})
}

// A slot that is gone, or lost its WAL, has no window.
func TestReplayWithoutSlot(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.startStreaming().stop()
	s.dropSlot()
	if code, _, stderr := s.replay(); code != 3 || !strings.Contains(stderr, "slot is gone") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if n := s.value("SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()"); n != "0" {
		t.Error("a replay made a slot")
	}
}

// `run --from-lsn` starts at the commit that it names, and what it then confirms is
// the position of the next start.
func TestRunFromLSN(t *testing.T) {
	t.Parallel()
	s := newScenario(t, nil, nil)
	s.storeInFile()
	s.extra = strings.Replace(s.extra, "confirm_interval: 100ms", "confirm_interval: 1h", 1)
	s.startStreaming().stop()
	begin := s.confirmed()
	for i := range 3 {
		s.events(10*i+1, 10*i+10)
	}
	c := s.startStreaming()
	s.waitArrived(30)
	c.kill()
	second := s.positionOf(s.read(), "11")

	for _, lsn := range []pglogrepl.LSN{begin - 1, 0xFF << 32} {
		s.start("--from-lsn", lsn.String()).failsWith(3, lsn.String()+" is outside of "+begin.String(), "delivery.rewind")
	}
	if at := s.confirmed(); at != begin {
		t.Errorf("a position that was refused moved the slot from %s to %s", begin, at)
	}
	// What lies between the stored position and a later one is not skipped silently.
	s.start("--from-lsn", second.String()).failsWith(3, "events would be skipped", begin.String(), second.String(), "--accept-gap")
	c = s.startStreaming("--from-lsn", second.String(), "--accept-gap")
	s.waitArrived(50)
	c.stop()
	counts := make(map[string]int)
	for _, r := range s.read() {
		counts[r.id]++
	}
	for id, want := range map[string]int{"10": 1, "11": 2, "20": 2, "21": 2, "30": 2} {
		if counts[id] != want {
			t.Errorf("event %s is there %d times, want %d", id, counts[id], want)
		}
	}
	c = s.startStreaming()
	s.events(31, 31)
	s.waitArrived(51)
	c.stop()
}

// With a rewind PostgreSQL is told late, and the exact position is in the store: a
// past window can be published again although all of it was delivered, ordinary
// restarts repeat nothing, and in time the WAL is given back, also by an outbox
// in which nothing happens any more.
func TestRewind(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]string{"file": "store: file", "kafka": "store: kafka", "exactly once": "guarantee: exactly_once"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it is mostly waiting
			s := newScenario(t, nil, nil)
			if name == "file" {
				s.storeInFile()
				s.extra = strings.Replace(s.extra, "confirm_interval: 100ms", "confirm_interval: 100ms, rewind: 20s", 1)
			} else {
				s.extra = "delivery: {" + store + ", topic: positions." + s.topic + ", confirm_interval: 100ms, rewind: 20s}"
			}
			c := s.startStreaming()
			begin := s.confirmed()
			s.events(1, 10)
			middle := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			s.events(11, 20)
			s.waitRead(20)
			c.stop()
			if at := s.confirmed(); at > begin {
				t.Fatalf("the slot was moved from %s to %s, and nothing is older than 20 s", begin, at)
			}

			// Restarts repeat nothing.
			for i := range 2 {
				c = s.startStreaming()
				s.events(21+i, 21+i)
				s.waitRead(21 + i)
				c.stop()
			}
			if at := s.confirmed(); at > middle {
				t.Fatalf("a restart moved the slot from %s to %s", begin, at)
			}

			// What was delivered can be published again.
			if code, stdout, stderr := s.replay("--from-lsn", middle.String(), "--dry-run"); code != 0 || !strings.HasPrefix(stdout, "would publish 12 events of 3 transactions") {
				t.Errorf("exit %d, %q, %s", code, stdout, stderr)
			}
			c = s.startStreaming("--from-lsn", middle.String())
			s.waitRead(34)
			c.stop()

			// In time the WAL is given back.
			end := s.lsn("SELECT pg_current_wal_insert_lsn()::text")
			c = s.startStreaming()
			s.exec("CREATE TABLE elsewhere AS SELECT 1") // something to move on to
			waitFor(t, 120*time.Second, func() (string, bool) {
				at := s.confirmed()
				return fmt.Sprintf("the slot is at %s, all was delivered at %s", at, end), at >= end
			})
			c.stop()
			if n := len(s.readCommitted()); n != 34 {
				t.Errorf("%d records, want 34", n)
			}
		})
	}
}

// waitRead waits until consumers of committed records have seen that many.
func (s *scenario) waitRead(n int) {
	s.t.Helper()
	waitFor(s.t, 60*time.Second, func() (string, bool) {
		have := len(s.readCommitted())
		return fmt.Sprintf("%d records of %d", have, n), have >= n
	})
}
