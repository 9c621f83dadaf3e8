package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"outboxd/decoder"
	"outboxd/internal/flow"
	"outboxd/internal/format"
	"outboxd/internal/guarantee"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/sink"
)

// What ends the process, and what it waits for. An error keeps its kind on the way
// up, whoever adds to it.
func TestPermanentOrTransient(t *testing.T) {
	for _, test := range []struct {
		err       error
		permanent bool
		side      string
	}{
		{&offsets.RefusedError{Reason: offsets.ErrSlotGone}, true, ""},
		{replication.ErrSetup, true, ""},
		{decoder.ErrProtocol, true, ""},
		{offsets.ErrUnusable, true, ""},
		{guarantee.ErrTakenOver, true, ""},
		{guarantee.ErrForeignID, true, ""},
		{flow.ErrPoison, true, ""},
		{format.ErrSchemaRefused, true, ""},

		{io.ErrUnexpectedEOF, false, "postgres"},
		{context.DeadlineExceeded, false, "postgres"},
		{replication.SlotInUse(errors.New("it is active")), false, "postgres"},
		{&sink.FailedError{Err: io.EOF}, false, "kafka"},
		{&sink.FailedError{Err: sink.ErrFenced}, false, "kafka"},
		{&sink.FailedError{Err: offsets.ErrUnknownTimeline}, false, "postgres"},
		{&guarantee.StoreError{Err: offsets.ErrUnknownTimeline}, false, "postgres"},
		{&format.RegistryError{Err: io.EOF}, false, "registry"},
	} {
		for _, err := range []error{test.err, fmt.Errorf("event id %q: %w", "1", test.err), &replication.Error{Err: test.err, Hint: "do this"}} {
			if got := permanent(err); got != test.permanent {
				t.Errorf("%v: permanent %t", err, got)
			}
			if got := side(err); !test.permanent && got != test.side {
				t.Errorf("%v: a fault of %s, want %s", err, got, test.side)
			}
		}
	}
}

// It doubles up to the longest, is at least half of that each time, and begins again
// after a reset.
func TestBackoff(t *testing.T) {
	b := backoff{min: 100 * time.Millisecond, max: time.Second}
	for range 50 {
		for i, longest := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
			longest *= time.Millisecond
			if got := b.next(); got < longest/2 || got > longest {
				t.Fatalf("wait %d is %s, not between %s and %s", i, got, longest/2, longest)
			}
		}
		b.reset()
	}
	if got := (&backoff{}).next(); got != 0 {
		t.Errorf("with no limits it waits %s", got)
	}
}

func TestSource(t *testing.T) {
	for _, test := range []struct {
		table decoder.Table
		want  string
	}{
		{decoder.Table{Schema: "public", Name: "outbox"}, "/my%20shop/public.outbox"},
		{decoder.Table{Schema: "public", Name: "outbox", MessagePrefix: "p"}, "/my%20shop/public.outbox"},
		{decoder.Table{Schema: "a/b", Name: "ü?#"}, "/my%20shop/a%2Fb.%C3%BC%3F%23"},
		{decoder.Table{MessagePrefix: "x/y"}, "/my%20shop/x%2Fy"},
	} {
		if got := Source("my shop", test.table); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}

// Of a column that the catalog does not know, or a field without one, it is not known
// how many decimals it has.
func TestAttributes(t *testing.T) {
	var table decoder.Table
	table.Columns = make([]decoder.Column, decoder.NumFields)
	table.Columns[decoder.ID].Name = "id"
	table.Columns[decoder.Timestamp].Name = "at"
	catalog := replication.Catalog{Attributes: map[string]replication.Attribute{"at": {NotNull: true, Modifier: 3}}}
	for f, a := range attributes(table, catalog) {
		want := format.Attribute{Modifier: -1}
		if decoder.Field(f) == decoder.Timestamp {
			want = format.Attribute{NotNull: true, Modifier: 3}
		}
		if a != want {
			t.Errorf("%s: %+v, want %+v", decoder.Field(f), a, want)
		}
	}
}
