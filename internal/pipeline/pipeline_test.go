package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"outboxd/decoder"
	"outboxd/internal/replication"
	"outboxd/offsets"
	"outboxd/router"
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
		{ErrTakenOver, true, ""},
		{errForeignID, true, ""},
		{ErrPoison, true, ""},
		{sink.ErrSchemaRefused, true, ""},

		{io.ErrUnexpectedEOF, false, "postgres"},
		{context.DeadlineExceeded, false, "postgres"},
		{replication.SlotInUse(errors.New("it is active")), false, "postgres"},
		{&sink.FailedError{Err: io.EOF}, false, "kafka"},
		{&sink.FailedError{Err: sink.ErrFenced}, false, "kafka"},
		{&sink.RegistryError{Err: io.EOF}, false, "registry"},
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

// Only the end of the run's own context is a stop; a time-out within it is a fault.
func TestStopped(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wrapped := fmt.Errorf("connect: %w", context.Canceled)
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want error
	}{
		{ended, wrapped, nil},
		{t.Context(), wrapped, wrapped},
		{ended, io.EOF, io.EOF},
		{ended, nil, nil},
	} {
		if got := stopped(test.ctx, test.err); got != test.want {
			t.Errorf("%v with the context %v: %v, want %v", test.err, test.ctx.Err(), got, test.want)
		}
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
		if got := source("my shop", test.table); got != test.want {
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
		want := router.Attribute{Modifier: -1}
		if decoder.Field(f) == decoder.Timestamp {
			want = router.Attribute{NotNull: true, Modifier: 3}
		}
		if a != want {
			t.Errorf("%s: %+v, want %+v", decoder.Field(f), a, want)
		}
	}
}

// --from-lsn is taken or refused by what the slot still has; only then is what was
// published before published again.
func TestStartFrom(t *testing.T) {
	server := offsets.Server{FlushLSN: 0x300, Slot: &offsets.Slot{Name: "outboxd", ConfirmedFlush: 0x100}}
	published := decoder.Position{CommitLSN: 0x280, Number: 1}
	for from, ok := range map[pglogrepl.LSN]bool{0xFF: false, 0x100: true, 0x200: true, 0x300: true, 0x301: false} {
		p := &Pipeline{o: Options{From: from}, log: zerolog.Nop(), published: published}
		err := p.startFrom(server, 0x280)
		if (err == nil) != ok || (p.published == decoder.Position{}) != ok {
			t.Errorf("from %s: %v, published up to %s", from, err, p.published)
		}
		if err != nil && !errors.Is(err, offsets.ErrOutsideWindow) {
			t.Errorf("from %s: %v", from, err)
		}
	}
	lost := offsets.Server{FlushLSN: 0x300, Slot: &offsets.Slot{ConfirmedFlush: 0x100, WALStatus: "lost"}}
	if err := (&Pipeline{o: Options{From: 0x200}}).startFrom(lost, 0x280); !errors.Is(err, offsets.ErrSlotInvalid) {
		t.Errorf("a slot without WAL: %v", err)
	}
}

// The operator who accepted a gap reads from where to where it goes, as far as that
// is known.
func TestLogGap(t *testing.T) {
	for _, test := range []struct {
		gap      offsets.Gap
		has, not string
	}{
		{offsets.Gap{Start: 0x200}, `"to":"0/200","message":"going on from the slot's own position`, `"from"`},
		{offsets.Gap{From: 0x100, Start: 0x200}, `"to":"0/200","from":"0/100","message":"transactions that end after from, up to to, are skipped`, "nothing"},
		{offsets.Gap{From: 0x200, Start: 0x200}, `"from":"0/200","message":"going on from there; nothing of this server is skipped`, "are skipped"},
	} {
		var out bytes.Buffer
		p := &Pipeline{log: zerolog.New(&out)}
		p.logGap(offsets.ErrSlotAhead, test.gap)
		line := out.String()
		if !strings.Contains(line, test.has) || strings.Contains(line, test.not) || !strings.Contains(line, `"error":"`+offsets.ErrSlotAhead.Error()) {
			t.Errorf("%+v: %s", test.gap, line)
		}
	}
}
