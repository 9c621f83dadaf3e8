package replication

import (
	"errors"
	"strings"
	"testing"

	"outboxd/offsets"
)

// healthy is what a look finds of an outbox that is published as a whole.
func healthy() *look {
	return &look{
		table:       &lookTable{oid: 10, kind: "r", persistence: "p"},
		publication: &lookPublication{oid: 20, xmin: 700, insert: true, viaRoot: true},
		entries:     []lookEntry{{oid: 30, own: true, xmin: 700}},
	}
}

func TestUnfit(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*look)
		says   []string // nil: it is fit
	}{
		"healthy":     {func(*look) {}, nil},
		"partitioned": {func(l *look) { l.table.kind = "p" }, nil},
		"all tables":  {func(l *look) { l.publication.allTables, l.entries = true, nil }, nil},
		"schema":      {func(l *look) { l.entries[0].schema = true }, nil},
		"a partition": {func(l *look) { l.table.isPartition = true }, nil},
		"gone":        {func(l *look) { l.table = nil }, []string{"does not exist", "outboxd init"}},
		"another of its name": {func(l *look) { l.table.oid, l.entries, l.renamed = 11, nil, `"old"` },
			[]string{"replaced by another (its OID is 11 instead of 10, which is \"old\" now)", "does not contain"}},
		"renamed":          {func(l *look) { l.table, l.renamed = nil, `"old"` }, []string{"does not exist", `which is "old" now`}},
		"a view":           {func(l *look) { l.table.kind = "v" }, []string{"not a table"}},
		"unlogged":         {func(l *look) { l.table.persistence = "u" }, []string{"unlogged", "SET LOGGED"}},
		"no publication":   {func(l *look) { l.publication = nil }, []string{`publication "pub" was not there`, "pg_replication_slot_advance('s'"}},
		"no inserts":       {func(l *look) { l.publication.insert = false }, []string{"does not publish inserts"}},
		"partitions' name": {func(l *look) { l.table.kind, l.publication.viaRoot = "p", false }, []string{"publish_via_partition_root = true"}},
		"not in it":        {func(l *look) { l.entries = nil }, []string{`ADD TABLE "public"."outbox"`}},
		"under its root": {func(l *look) { l.table.isPartition = true; l.entries[0].own = false },
			[]string{"under the name of the table that it is a partition of"}},
		"child":         {func(l *look) { l.parts = []lookPart{{`"c"`, "r", "p", true}} }, []string{`"c" inherits`, "NO INHERIT"}},
		"foreign leaf":  {func(l *look) { l.parts = []lookPart{{`"f"`, "f", "p", false}} }, []string{`"f"`, "foreign"}},
		"unlogged leaf": {func(l *look) { l.parts = []lookPart{{`"u"`, "r", "u", false}, {`"v"`, "r", "u", false}} }, []string{`"u"`, "unlogged", `"v"`}},
	} {
		l := healthy()
		test.change(l)
		err := l.unfitNow(Options{Schema: "public", Table: "outbox", Publication: "pub", Slot: "s"}, offsets.Outbox{Table: 10, Publication: 20, Entry: 30})
		if (err == nil) != (test.says == nil) || err != nil && !errors.Is(err, ErrSetup) {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range test.says {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: it does not say %q: %v", name, part, err)
			}
		}
	}
}

// What was removed and came back has another OID.
func TestChanged(t *testing.T) {
	was := offsets.Outbox{Table: 10, Publication: 20, Entry: 30, Seen: 5}
	for name, test := range map[string]struct {
		change func(*look)
		was    offsets.Outbox
		before []lookEntry
		says   string // "": the same
	}{
		"the same":                       {func(*look) {}, was, nil, ""},
		"nothing is remembered":          {func(*look) {}, offsets.Outbox{}, nil, ""},
		"one more entry":                 {func(l *look) { l.entries = append(l.entries, lookEntry{oid: 29, own: true, schema: true}) }, was, nil, ""},
		"replaced":                       {func(l *look) { l.table.oid, l.entries[0].oid = 11, 31 }, was, nil, "its OID is 11 instead of 10, which is gone"},
		"swapped":                        {func(l *look) { l.table.oid, l.entries[0].oid, l.renamed = 11, 31, `"old"` }, was, nil, `which is "old" now`},
		"added again":                    {func(l *look) { l.entries[0].oid = 31 }, was, nil, "taken out of publication"},
		"publication made again":         {func(l *look) { l.publication.oid = 21 }, was, nil, "dropped and created again"},
		"replaced under all":             {func(l *look) { l.table.oid, l.entries, l.publication.allTables = 11, nil, true }, offsets.Outbox{Table: 10, Publication: 20}, nil, ""},
		"one of two entries went":        {func(l *look) { l.entries[0].oid = 31 }, was, []lookEntry{{oid: 30}, {oid: 31}}, ""},
		"it had only that which is gone": {func(l *look) { l.entries[0].oid = 31 }, was, []lookEntry{{oid: 30}}, "taken out of publication"},
	} {
		l := healthy()
		test.change(l)
		err := l.changed(test.was, test.before, Options{Schema: "public", Table: "outbox", Publication: "pub"})
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// That the table is another is said once, whoever found it.
func TestReplacedIsSaidOnce(t *testing.T) {
	l, o := healthy(), Options{Schema: "public", Table: "outbox", Publication: "pub"}
	was := offsets.Outbox{Table: 9, Publication: 20, Entry: 29}
	for _, found := range []error{l.changed(was, nil, o), &Unpublished{What: "it is not published"}} {
		err := l.compared(found, was, o)
		if n := strings.Count(err.Error(), "was replaced by another"); n != 1 {
			t.Errorf("said %d times: %v", n, err)
		}
	}
}

// Without anything from before it is a wrong set-up; with it, rows may be missing.
func TestUnpublishedSays(t *testing.T) {
	e := &Unpublished{What: "it is gone", Fix: "bring it back", Accept: true}
	if got := e.Error(); got != ErrSetup.Error()+": it is gone; bring it back" {
		t.Error(got)
	}
	e.Since = 0x1_00000100
	for _, part := range []string{"it is gone", "committed after 1/100 may be missing", "bring it back; then run `outboxd recover`", "`outboxd reconcile --repair` publishes the rows that Kafka"} {
		if got := e.Error(); !strings.Contains(got, part) {
			t.Errorf("it does not say %q: %s", part, got)
		}
	}
}

// Transaction ids wrap around.
func TestBetween(t *testing.T) {
	for _, test := range []struct {
		x, first, last uint32
		want           bool
	}{
		{100, 100, 200, true}, {200, 100, 200, true}, {99, 100, 200, false}, {201, 100, 200, false},
		{5, 0xFFFFFFF0, 10, true}, {0xFFFFFFF5, 0xFFFFFFF0, 10, true}, {0xFFFFFF00, 0xFFFFFFF0, 10, false}, {3_000_000_000, 1000, 2000, false},
	} {
		if got := between(test.x, test.first, test.last); got != test.want {
			t.Errorf("%d from %d to %d: %t", test.x, test.first, test.last, got)
		}
	}
}

func TestMutableKey(t *testing.T) {
	for _, test := range []struct {
		key  lookKey
		want bool
	}{
		{lookKey{column: "processed", typ: "bool", kind: "b"}, true},
		{lookKey{column: "flag", typ: "bool", kind: "b"}, true},
		{lookKey{column: "phase", typ: "phase", kind: "e"}, true},
		{lookKey{column: "Status", typ: "text", kind: "b"}, true},
		{lookKey{column: "id", typ: "int8", kind: "b"}, false},
		{lookKey{column: "created_at", typ: "timestamptz", kind: "b"}, false},
		{lookKey{column: "aggregateid", typ: "text", kind: "b"}, false},
	} {
		if got := test.key.mutable(); got != test.want {
			t.Errorf("%+v: %t", test.key, got)
		}
	}
}
