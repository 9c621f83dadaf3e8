package retention

import (
	"strings"
	"testing"
	"time"
)

// start is what a first start does: it checks, makes the slot, and streams.
func (w *world) start(slot func()) *Retention {
	w.t.Helper()
	r := w.retention()
	if err := r.Check(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	slot()
	if err := r.once(w.t.Context(), all); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// setFloor remembers a floor.
func (w *world) setFloor(value string) {
	w.t.Helper()
	r := w.retention()
	if err := r.connect(w.t.Context(), nil); err != nil {
		w.t.Fatal(err)
	}
	p, _, err := r.judge(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := r.writeFloor(w.t.Context(), p, new(floor), value); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) nameSlot() {
	w.t.Helper()
	w.o.Source.Slot = "s_" + w.value("current_database()")
}

func (w *world) dropSlot() {
	w.exec("SELECT pg_drop_replication_slot('" + w.o.Source.Slot + "')")
}

// Rows that were there before the slot are in no stream, and stay: also after a restart,
// and if the process ended before it knew where the slot begins.
func TestRowsFromBeforeTheSlot(t *testing.T) {
	for _, version := range []string{"13", "17"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, version, nil)
			w.nameSlot()
			defer w.dropSlot()
			w.exec("INSERT INTO outbox (payload) VALUES ('a'), ('b')")
			role := "role_" + w.value("current_database()")
			w.exec("CREATE ROLE " + role + " LOGIN; GRANT SELECT, DELETE ON outbox TO " + role)
			w.o.Source.DSN = strings.Replace(w.dsn, "postgres@", role+"@", 1)
			slot := func() {
				w.exec("INSERT INTO outbox (payload) VALUES ('c')") // after the check, and before the slot
				w.exec("SELECT pg_create_logical_replication_slot('" + w.o.Source.Slot + "', 'pgoutput')")
			}
			killed := w.retention()
			if err := killed.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			slot()
			w.run(all)
			w.want("a b c")
			if !strings.Contains(w.said.String(), "before the slot was made are not published, and stay") {
				t.Error(&w.said)
			}
			w.exec("INSERT INTO outbox (payload) VALUES ('new')")
			r := w.run(all)
			w.want("a b c")
			if r.Outbox().OldestRow >= 0 && r.Outbox().Removed != 1 {
				t.Errorf("%+v", r.Outbox())
			}
			// Once they are gone, nothing is remembered.
			w.exec("DELETE FROM outbox")
			w.run(all)
			if n := w.value("SELECT count(*) FROM pg_largeobject_metadata"); n != "0" {
				t.Error("the large object is still there")
			}
			w.exec("INSERT INTO outbox (payload) VALUES ('new')")
			w.run(all)
			w.want("")
		})
	}
}

// With a backfill they are published, and an empty table has none.
func TestNoRowsFromBeforeTheSlot(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.nameSlot()
	defer w.dropSlot()
	w.start(func() {
		w.exec("SELECT pg_create_logical_replication_slot('" + w.o.Source.Slot + "', 'pgoutput'); INSERT INTO outbox (payload) VALUES ('a')")
	})
	w.want("")
	w.dropSlot()
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	w.o.Source.Backfill = true
	w.start(func() { w.exec("SELECT pg_create_logical_replication_slot('" + w.o.Source.Slot + "', 'pgoutput')") })
	w.want("")
	// A slot that is there already: whatever was there before it is not known.
	w.o.Source.Backfill = false
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	w.start(func() {})
	w.want("")
}

// A partition with such rows stays, and others go.
func TestPartitionFromBeforeTheSlot(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.nameSlot()
	defer w.dropSlot()
	w.partitions("timestamptz")
	w.exec("DELETE FROM outbox WHERE at > '2021-01-01'")
	r := w.retention()
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec("SELECT pg_create_logical_replication_slot('" + w.o.Source.Slot + "', 'pgoutput')")
	_ = r.once(t.Context(), all) // sets the floor
	w.exec("CREATE TABLE y2019 PARTITION OF outbox FOR VALUES FROM ('2019-01-01') TO ('2020-01-01'); INSERT INTO outbox VALUES ('2019-05-05', 'x'), ('2020-05-05', 'y')")
	err := w.retention().once(t.Context(), all)
	if err == nil || !strings.Contains(err.Error(), "y2020 has rows that were in it before the slot was made") {
		t.Error(err)
	}
	if got := w.tables(); got != "outbox recent y2020" {
		t.Error(got)
	}
}

// After too many transactions nobody can tell which rows they are: then nothing goes.
func TestFloorThatIsTooOld(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.nameSlot()
	w.exec("INSERT INTO outbox (payload) VALUES ('a')")
	w.setFloor("-3000000000")
	err := w.retention().once(t.Context(), all)
	if err == nil || !strings.Contains(err.Error(), "nobody can tell any more") {
		t.Error(err)
	}
	w.want("a")
	_, sql, _ := strings.Cut(err.Error(), "and then run ")
	w.exec(sql)
	w.run(all)
	w.want("")
}

// Rows from before the slot do not make their part be read with each run.
func TestPartsBelowTheFloor(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.nameSlot()
	w.o.Timestamp, w.o.Keep = "at", time.Hour
	w.exec("INSERT INTO outbox (payload, at) VALUES ('a', now() - interval '1 day')")
	w.setFloor(floorPending)
	r := w.run(all)
	w.want("a")
	c := r.leaves[w.value("'outbox'::regclass::oid")].chunks[0]
	if in := time.Until(time.UnixMilli(c.due)); in < 50*time.Minute || !c.below {
		t.Errorf("%+v, due in %s", c, in)
	}
	if o := r.Outbox(); o.OldestRow < 23*time.Hour {
		t.Errorf("%+v", o)
	}
}

// What comes while a right is missing is not from before the slot.
func TestFloorIsSetWithoutRights(t *testing.T) {
	w := newWorld(t, "17", nil)
	w.nameSlot()
	role := "role_" + w.value("current_database()")
	w.exec("CREATE ROLE " + role + " LOGIN; INSERT INTO outbox (payload) VALUES ('a')")
	w.o.Source.DSN = strings.Replace(w.dsn, "postgres@", role+"@", 1)
	r := w.retention()
	if err := r.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.once(t.Context(), all); err == nil {
		t.Error("it has no right")
	}
	w.exec("INSERT INTO outbox (payload) VALUES ('b'); GRANT SELECT, DELETE ON outbox TO " + role)
	w.run(all)
	w.want("a")
}
