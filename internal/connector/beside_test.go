package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/internal/replication"
)

// A position counts once a look that began after it was stored has passed.
func TestDelivered(t *testing.T) {
	var d delivered
	want := func(lsn pglogrepl.LSN) {
		t.Helper()
		if got := d.LSN(); got != lsn {
			t.Errorf("%s, want %s", got, lsn)
		}
	}
	early := d.begin()
	d.store(10)
	want(0)
	early() // it began before: what was committed up to 10 may not have been published
	want(0)
	look := d.begin()
	d.store(20)
	look()
	want(10)
	_ = d.begin() // one that does not pass
	want(10)
	later := d.begin()
	later()
	want(20)
	// A late one takes nothing back.
	look()
	want(20)
}

// recorder is a Beside that only looks.
type recorder struct {
	refusal   error
	delivered atomic.Pointer[func() pglogrepl.LSN]
	running   atomic.Int32
	began     atomic.Int32
}

func (r *recorder) Check(context.Context) error { return r.refusal }

func (r *recorder) Run(ctx context.Context, _ net.Addr, delivered func() pglogrepl.LSN) {
	r.delivered.Store(&delivered)
	r.running.Add(1)
	r.began.Add(1)
	<-ctx.Done()
	r.running.Add(-1)
}

func (r *recorder) at() pglogrepl.LSN {
	if f := r.delivered.Load(); f != nil {
		return (*f)()
	}
	return 0
}

// Who works beside a session hears of a position when it is acknowledged, stored and
// looked at, and is stopped with the session.
func TestBeside(t *testing.T) {
	t.Parallel()
	for name, unseen := range map[string]error{"no answer": io.EOF, "shutting down": &pgconn.PgError{Code: "57P03"}, "exactly once": io.EOF} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, r := newHarness(t), new(recorder)
			if name == "exactly once" {
				h.exactlyOnce()
			}
			h.o.Beside = r
			h.server.unseen = fmt.Errorf("connect: %w", unseen)
			tx := h.server.commit("1", "2")
			h.run()
			h.delivered()
			time.Sleep(20 * h.o.ConfirmEvery)
			if got := r.at(); got != 0 {
				t.Fatalf("at %s without a look", got)
			}
			h.server.update(func() { h.server.unseen = nil })
			h.until("delivered", func() bool { return r.at() == tx.end })
			h.stop()
			if err := h.end(); err != nil {
				t.Error(err)
			}
			if r.running.Load() != 0 || r.began.Load() == 0 {
				t.Errorf("%d of %d run on", r.running.Load(), r.began.Load())
			}
		})
	}
}

// What it refuses ends the run before anything was opened.
func TestBesideRefuses(t *testing.T) {
	t.Parallel()
	h, r := newHarness(t), &recorder{refusal: replication.SetupError("no time", "map one")}
	h.o.Beside = r
	h.run()
	if err := h.end(); !errors.Is(err, replication.ErrSetup) {
		t.Error(err)
	}
	if r.began.Load() != 0 || h.log.count("streaming") != 0 {
		t.Error("a session began")
	}
}
