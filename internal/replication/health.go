package replication

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"outboxd/internal/walheld"
	"outboxd/offsets"
)

// Observer looks at the slot, the outbox table and its publication over an ordinary
// connection, which it keeps open, and opens again when it has failed. Any goroutine
// may use it, one at a time; the others wait.
type Observer struct {
	o    Options
	want atomic.Pointer[net.Addr] // of the stream's server; nil: whichever the DSN leads to

	mu      sync.Mutex
	addr    *net.Addr // that pg is connected to
	pg      *pgconn.PgConn
	version int
	entries []lookEntry // of the last look that passed
}

// NewObserver returns an Observer that is not connected.
func NewObserver(o Options) *Observer { return &Observer{o: o} }

// At makes the server at addr, that of a stream, the one that is asked. It does not wait.
func (b *Observer) At(addr net.Addr) {
	if old := b.want.Load(); old == nil || (*old).String() != addr.String() {
		b.want.Store(&addr)
	}
}

// Close ends the connection.
func (b *Observer) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.close()
}

func (b *Observer) close() {
	if b.pg != nil {
		closeSoon(b.pg)
		b.pg = nil
	}
}

// connect opens the connection if there is none. The caller holds mu.
func (b *Observer) connect(ctx context.Context) error {
	want := b.want.Load()
	if b.pg != nil && !b.pg.IsClosed() && b.addr == want {
		return nil
	}
	if b.close(); b.addr != want {
		b.addr, b.entries = want, nil
	}
	var err error
	if want != nil {
		b.pg, err = connectBeside(ctx, *want, b.o)
	} else if cfg, e := b.o.config(); e != nil {
		err = e
	} else {
		b.pg, err = connect(ctx, cfg)
	}
	if err != nil {
		b.pg = nil
		return err
	}
	// The catalog is small, and the query of a look is not worth compiling.
	rows, err := query(ctx, b.pg, `SELECT current_setting('server_version_num'), set_config('jit', 'off', false)`)
	if err == nil {
		b.version, err = strconv.Atoi(rows[0][0])
	}
	if err != nil {
		b.close()
		return fmt.Errorf("read the server's version: %w", err)
	}
	return nil
}

// Look finds out whether the outbox is still published as it was, which is what is
// remembered of it, and returns what is to be remembered from now on, without Seen.
// Everything that was committed before Look was called was published, if it returns no
// error and changing is false: changing says that a transaction is about to change the
// publication, so that it is not known.
//
// The error is an *Unpublished without Since, or says why nobody knows.
func (b *Observer) Look(ctx context.Context, was offsets.Outbox) (now offsets.Outbox, changing bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.o.Table == "" {
		return was, false, nil // messages do not depend on what is published
	}
	if err := b.connect(ctx); err != nil {
		return was, false, err
	}
	l, err := lookOver(ctx, b.pg, b.o, b.version, was.Table, false)
	if err != nil {
		b.close()
		return was, false, err
	}
	if err := l.unfitNow(b.o, was); err != nil {
		return was, false, err
	}
	if err := l.changed(was, b.entries, b.o); err != nil {
		return was, false, err
	}
	b.entries = l.entries
	now = l.outbox(was)
	if was.Table != 0 && was.Table != now.Table {
		b.o.Log.Warn().Uint32("oid", now.Table).Uint32("was", was.Table).Stringer("since", was.Seen).Msg(replaced)
	}
	return now, l.changing, nil
}

// Health is what a slot costs its server, and how near it is to losing its WAL.
type Health struct {
	// Retained is the WAL that the server keeps for the slot, in bytes.
	Retained int64
	// Safe is how many more bytes of WAL may be written before the slot can lose
	// some (max_slot_wal_keep_size): 0 when it can lose some at the next checkpoint, or
	// has; -1 without a limit.
	Safe int64
	// WALStatus is reserved, extended, unreserved or lost: pg_replication_slots.
	WALStatus string
	// Confirmed is the position before which PostgreSQL decodes nothing any more.
	Confirmed string
	// Synchronous is what Conn.Synchronous says, "" on a standby.
	Synchronous string
	// Held is what the server says of why it keeps that WAL.
	Held walheld.Facts
}

// safeWAL is negative for a slot whose WAL the next checkpoint removes, and NULL for
// one that has lost it, as it is without a limit.
const safeWAL = `CASE WHEN wal_status = 'lost' THEN 0
	WHEN (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') < 0 THEN -1
	ELSE greatest(coalesce(safe_wal_size, 0), 0) END`

// Health asks how the slot is. It returns nil when there is none.
func (b *Observer) Health(ctx context.Context) (*Health, error) {
	s, err := b.State(ctx)
	if err != nil || !s.Exists {
		return nil, err
	}
	return &s.Health, nil
}

// health asks what the slot costs. The caller holds mu.
func (b *Observer) health(ctx context.Context, h *Health) error {
	rows, err := query(ctx, b.pg, `SELECT coalesce(pg_wal_lsn_diff(
			CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,
			`+safeWAL+`, wal_status, coalesce(confirmed_flush_lsn::text, ''),
			CASE WHEN pg_is_in_recovery() THEN '' ELSE current_setting('synchronous_standby_names') END, current_setting('application_name')
		FROM pg_replication_slots WHERE slot_name = `+quote(b.o.Slot))
	if err != nil || len(rows) == 0 {
		return err
	}
	r := rows[0]
	h.WALStatus, h.Confirmed, h.Synchronous = r[2], r[3], synchronous(r[4], r[5])
	if h.Retained, err = strconv.ParseInt(r[0], 10, 64); err == nil {
		h.Safe, err = strconv.ParseInt(r[1], 10, 64)
	}
	return err
}
