package connector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"outboxd/internal/replication"
	"outboxd/internal/status"
	"outboxd/offsets"
)

// That nobody can look is said once, after a while, and that it is over.
func TestReportFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := &session{p: &Connector{log: zerolog.New(&out), o: Options{Status: status.New(time.Minute)}}}
		said := func(text string, times int) {
			t.Helper()
			if got := strings.Count(out.String(), text); got != times {
				t.Fatalf("said %d times, want %d: %s", got, times, &out)
			}
		}
		for range 2 { // a short fault is nobody's business
			s.reportFailing(io.EOF)
			time.Sleep(failingAfter - time.Second)
			s.reportFailing(io.EOF)
			s.reportFailing(nil)
			said("looked at", 0)
		}
		for range 20 {
			s.reportFailing(io.EOF)
			time.Sleep(time.Second)
		}
		said("cannot be looked at", 1)
		said("EOF", 1)
		s.reportFailing(nil)
		s.reportFailing(nil)
		said("can be looked at again", 1)
	})
}

// A run and the start after it name the same position: what is stored, or the slot's.
func TestDated(t *testing.T) {
	for _, test := range []struct {
		store offsets.Store
		want  pglogrepl.LSN
	}{{nil, 0x100}, {&memoryStore{}, 0x200}} {
		p := &Connector{o: Options{Store: test.store}, confirmedToServer: 0x100, known: &offsets.Position{LSN: 0x300, Outbox: offsets.Outbox{Seen: 0x200}}}
		gone := &replication.Unpublished{What: "gone"}
		if err := (&session{p: p}).dated(gone); err != error(gone) || gone.Since != test.want || !permanent(err) {
			t.Errorf("%v, since %s, want %s", err, gone.Since, test.want)
		}
		if err := (&session{p: p}).dated(io.EOF); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
}

// A start without anything stored keeps the slot's position.
func TestSinceWithoutAStore(t *testing.T) {
	gone := &replication.Unpublished{What: "gone", Since: 0x100}
	p := &Connector{known: &offsets.Position{LSN: 0x300, Outbox: offsets.Outbox{Seen: 0x200}}}
	if err := p.since(context.Background(), nil, gone); err != error(gone) || gone.Since != 0x100 {
		t.Errorf("%v, since %s", err, gone.Since)
	}
}

// Nothing is confirmed that a look has not passed, but to a server that is shutting
// down: it refuses other connections, and waits for the confirmation.
func TestConfirmedOnlyAfterALook(t *testing.T) {
	for name, test := range map[string]struct {
		unseen    error
		confirmed bool
	}{
		"unreachable":   {fmt.Errorf("connect: %w", io.EOF), false},
		"no right":      {fmt.Errorf("connect: %w", &pgconn.PgError{Code: "42501"}), false},
		"ended":         {fmt.Errorf("look: %w", &pgconn.PgError{Code: "57P01"}), false},
		"shutting down": {fmt.Errorf("connect: %w", &pgconn.PgError{Code: "57P03"}), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.server.unseen = test.unseen
			tx := h.server.commit("1", "2")
			h.run()
			h.delivered()
			if test.confirmed {
				h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
				return
			}
			time.Sleep(20 * h.o.ConfirmEvery)
			if got := h.server.slotLSN(); got != fakeStart {
				t.Fatalf("confirmed up to %s without a look", got)
			}
			h.server.update(func() { h.server.unseen = nil })
			h.until("confirmed", func() bool { return h.server.slotLSN() == tx.end })
		})
	}
}
