package retention

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// notBefore never takes a row that was inserted from the mark on for an older one,
// whatever its xmin looks like. The transactions are given as the 64-bit ids that they
// had; rows have the lower 32 bits.
func TestNotBefore(t *testing.T) {
	w := newWorld(t, "17", nil)
	const epoch = int64(1) << 32
	for _, test := range []struct {
		next, mark, xid int64
		want            bool // it is not before the mark
	}{
		{1000, 900, 899, false},
		{1000, 900, 900, true},
		{1000, 900, 999, true},
		{1000, 900, 3, false},
		// The counter has wrapped since the mark, and between row and mark.
		{2*epoch + 5, 2*epoch - 5, 2*epoch - 6, false},
		{2*epoch + 5, 2*epoch - 5, 2*epoch - 5, true},
		{2*epoch + 5, 2*epoch - 5, 2*epoch - 1, true},
		{2*epoch + 5, 2*epoch - 5, 2*epoch + 4, true},
		{2*epoch + 5, 2*epoch + 4, 2*epoch - 5, false},
		// Older than 2^31 transactions: frozen.
		{2*epoch + 5, 2*epoch - 5, 2*epoch - epoch/2 - 9, false},
		{2*epoch + 5, 2*epoch - 5, epoch + 6, false},
		// Frozen so long ago that it looks young: such a row only keeps the partition.
		{2*epoch + 500, 2*epoch + 100, epoch + 300, true},
		{2*epoch + 500, 2*epoch + 100, 300, true},
		{2*epoch + 500, 2*epoch + 100, 50, false},
		// Bootstrap and frozen by an old version.
		{2*epoch + 5, 3, 2*epoch + 2, false},
		{2*epoch + 5, 3, 2*epoch + 1, false},
	} {
		sql := fmt.Sprintf("SELECT %s FROM (SELECT '%d'::xid AS xmin) t, (SELECT %d::bigint AS next) now", notBefore(fmt.Sprint(test.mark)), test.xid%epoch, test.next)
		if got := w.value(sql) == "true"; got != test.want {
			t.Errorf("next %d, mark %d, row of %d: %t", test.next, test.mark, test.xid, got)
		}
	}
}

// partitions makes an outbox with partitions by year, two of which are old, with rows.
func (w *world) partitions(typ string) {
	w.exec(`DROP TABLE outbox; CREATE TABLE outbox (at ` + typ + `, payload text) PARTITION BY RANGE (at);
		CREATE TABLE y2020 PARTITION OF outbox FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
		CREATE TABLE y2021 PARTITION OF outbox FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
		CREATE TABLE recent PARTITION OF outbox FOR VALUES FROM ('2022-01-01') TO ('2100-01-01');
		INSERT INTO outbox VALUES ('2020-05-05', 'a'), ('2020-06-05', 'b'), ('2021-05-05', 'c'), (now(), 'd')`)
	w.o.Mode, w.o.Keep = DropPartitions, 24*time.Hour
}

func (w *world) tables() string {
	return w.value("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace")
}

func TestDropPartitions(t *testing.T) {
	for _, test := range []struct{ version, typ, more, left string }{
		{"13", "timestamptz", "", "outbox recent"},
		{"14", "date", "", "outbox recent"},
		{"17", "timestamp", "", "outbox recent"},
		// Beside a DEFAULT partition nothing is detached concurrently, and it stays.
		{"17", "timestamptz", "CREATE TABLE other PARTITION OF outbox DEFAULT; INSERT INTO outbox VALUES (NULL, 'null'), ('1999-01-01', 'old')", "other outbox recent"},
		{"17", "timestamptz", "CREATE TABLE below PARTITION OF outbox FOR VALUES FROM (MINVALUE) TO ('2000-01-01') PARTITION BY LIST (payload); CREATE TABLE below1 PARTITION OF below DEFAULT; INSERT INTO outbox VALUES ('1999-01-01', 'e')", "outbox recent"},
		{"17", "timestamptz", "CREATE TABLE ever PARTITION OF outbox FOR VALUES FROM ('2100-01-01') TO (MAXVALUE); INSERT INTO outbox VALUES ('infinity', 'inf')", "ever outbox recent"},
	} {
		t.Run(test.version+" "+test.typ+" "+test.left, func(t *testing.T) {
			w := newWorld(t, test.version, nil)
			w.partitions(test.typ)
			if test.more != "" {
				w.exec(test.more)
			}
			before := w.value("SELECT count(*) FROM outbox WHERE at < '2022-01-01'")
			r := w.run(all)
			if got := w.tables(); got != test.left {
				t.Errorf("left: %s, want %s", got, test.left)
			}
			left := w.value("SELECT count(*) FROM outbox WHERE at < '2022-01-01'")
			if n := fmt.Sprint(r.Outbox().Removed); left == "0" && n != before {
				t.Errorf("%s rows are counted, not %s", n, before)
			}
			if w.value("SELECT count(*) FROM outbox WHERE payload = 'd'") != "1" {
				t.Error("a recent row is gone")
			}
			if err := r.once(t.Context(), all); err != nil {
				t.Error(err)
			}
		})
	}
}

// By a bigint with milliseconds, if the configuration says that it is a time.
func TestDropPartitionsByMilliseconds(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.exec(`DROP TABLE outbox; CREATE TABLE outbox (ms bigint, payload text) PARTITION BY RANGE (ms, payload);
		CREATE TABLE old PARTITION OF outbox FOR VALUES FROM (0, 'a') TO (1600000000000, 'z'); CREATE TABLE recent PARTITION OF outbox FOR VALUES FROM (1600000000000, 'z') TO (9999999999999, 'a');
		INSERT INTO outbox VALUES (5, 'a'), (1600000000000, 'x'), (1700000000000, 'b')`)
	w.o.Mode, w.o.Keep, w.o.Timestamp = DropPartitions, time.Hour, "ms"
	w.run(all)
	if got := w.tables(); got != "outbox recent" {
		t.Error(got)
	}
	w.want("b")
}

// Nothing happens to a partition until all of it is acknowledged, nor to one that holds
// rows of a transaction that is still open.
func TestPartitionsWaitForKafka(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.partitions("timestamptz")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stalled := session{confirmed: func() pglogrepl.LSN { return 1 }}
	_ = w.retention().once(ctx, stalled)
	if got := w.tables(); got != "outbox recent y2020 y2021" {
		t.Fatal(got)
	}
	if n := w.value("SELECT count(*) FROM pg_description WHERE description LIKE 'outboxd%'"); n != "0" {
		t.Error("a partition is marked")
	}
	// A row of now in an old partition.
	w.run(after(func() { w.exec("INSERT INTO outbox VALUES ('2020-07-07', 'late')") }))
	if got := w.tables(); got != "outbox recent y2020" {
		t.Error(got)
	}
	w.run(all)
	if got := w.tables(); got != "outbox recent" {
		t.Error(got)
	}
}

// A detach that was interrupted between its two transactions is finished, and a table that
// was detached and not dropped is dropped. A transaction that uses the table does not make
// writers wait.
func TestInterruptedDetach(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.partitions("timestamptz")
	other, writer := w.connect(), w.connect()
	execOn(t, other, "BEGIN; SELECT count(*) FROM outbox")
	failed := make(chan error)
	go func() { failed <- w.retention().once(t.Context(), all) }()
	pending := "SELECT string_agg(inhrelid::regclass::text, ' ') FROM pg_inherits WHERE inhdetachpending"
	for i := 0; w.value(pending) != "y2020"; i++ {
		if i == 500 {
			t.Fatal("no detach is pending")
		}
		time.Sleep(10 * time.Millisecond)
	}
	execOn(t, writer, "SET lock_timeout = '1s'; INSERT INTO outbox VALUES (now(), 'e')")
	// As kill -9 does, the server process ends in the middle.
	w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outboxd retention' AND datname = current_database()")
	if err := <-failed; err == nil {
		t.Error("it did not notice")
	}
	execOn(t, other, "COMMIT")
	if got := w.value(pending); got != "y2020" {
		t.Fatalf("pending: %s", got)
	}
	r := w.run(all)
	if got := w.tables(); got != "outbox recent" {
		t.Error(got)
	}
	if n := r.Outbox().Removed; n != 3 {
		t.Errorf("%d rows are counted", n)
	}
	w.want("d e")
}

// One that somebody else left half detached is theirs.
func TestPendingDetachOfOthers(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.partitions("timestamptz")
	other, dba := w.connect(), w.connect()
	execOn(t, other, "BEGIN; SELECT count(*) FROM outbox")
	execOn(t, dba, "SET statement_timeout = '300ms'")
	if _, err := dba.Exec(t.Context(), "ALTER TABLE outbox DETACH PARTITION y2020 CONCURRENTLY"); err == nil {
		t.Fatal("it was detached")
	}
	execOn(t, other, "COMMIT")
	err := w.retention().once(t.Context(), all)
	if err == nil || !strings.Contains(err.Error(), "not by outboxd") {
		t.Fatal(err)
	}
	_, sql, _ := strings.Cut(err.Error(), "finish it with ")
	w.exec(sql)
	w.run(all)
	if got := w.tables(); got != "outbox recent y2020" {
		t.Error(got)
	}
}

// A row that comes into a partition while it is being detached may not be published. The
// table stays, and the operator hears of it.
func TestRowsDuringDetach(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.partitions("timestamptz")
	other := w.connect()
	execOn(t, other, "BEGIN; SELECT count(*) FROM outbox")
	done := make(chan error)
	r := w.retention()
	go func() { done <- r.once(t.Context(), all) }()
	for i := 0; w.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") != "1"; i++ {
		if i == 500 {
			t.Fatal("no detach is pending")
		}
		time.Sleep(10 * time.Millisecond)
	}
	execOn(t, other, "INSERT INTO y2020 VALUES ('2020-08-08', 'lost'); COMMIT")
	err := <-done
	if err == nil || !strings.Contains(err.Error(), "may not have published them") {
		t.Fatal(err)
	}
	if got := w.tables(); got != "outbox recent y2020" { // and another partition went
		t.Error(got)
	}
	if n := w.value("SELECT count(*) FROM y2020"); n != "3" {
		t.Errorf("%s rows are left", n)
	}
	r.say(err)
	r.say(r.once(t.Context(), all))
	if n := strings.Count(w.said.String(), "may not have published"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	_, sql, _ := strings.Cut(err.Error(), "and then run ")
	w.exec(sql)
	w.run(all)
}

// Keep was raised after a partition was marked, and before it was detached.
func TestMarkIsTakenBack(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.partitions("timestamptz")
	r := w.retention()
	if err := r.connect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	p, _, err := r.judge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.exec("COMMENT ON TABLE y2021 IS '" + p.comment("5") + "'")
	w.o.Keep = 100 * 365 * 24 * time.Hour
	w.run(all)
	if got := w.tables() + w.value("obj_description('y2021'::regclass)"); got != "outbox recent y2020 y2021" {
		t.Error(got)
	}
}

// Before a short lock is given, the table is not locked for longer than that.
func TestPlainDetachWaitsShortly(t *testing.T) {
	w := newWorld(t, "13", nil)
	w.partitions("timestamptz")
	other := w.connect()
	execOn(t, other, "BEGIN; SELECT count(*) FROM outbox")
	started := time.Now()
	if err := w.retention().once(t.Context(), all); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Error(err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it waited for %s", took)
	}
	execOn(t, other, "COMMIT")
	w.run(all)
	if got := w.tables(); got != "outbox recent" {
		t.Error(got)
	}
}
