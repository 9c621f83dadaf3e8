package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Making a logical slot waits for every transaction that is running, in any database
// of the server. Meanwhile the slot is there by name, half made, and holds WAL; the
// server process that makes it waits for those transactions and for nothing else, and
// so does not notice that its client is gone.
//
// So a second connection is kept beside it. It names the transactions waited for, and
// holds an advisory lock that says that the client is alive: its idle server process
// ends with the client at once. Who finds a half-made slot of outboxd's without that
// lock knows that nobody waits for it any more, and ends it.

// makerClass is the first key of the advisory lock; the second is the process ID of
// the server process that makes a slot. It is "outb".
const makerClass = 0x6f757462

// lookEvery is how often it is looked what a slot in the making waits for.
const lookEvery = time.Second

// checkClientEvery is how often the server looks whether the client is there
// (PostgreSQL 14), in milliseconds.
const checkClientEvery = "5000"

// makeSlot runs the command, which makes a slot over pg. If ctx ends, the command is
// cancelled, so that nothing half made is left behind; its error then is ctx's.
func (c *Conn) makeSlot(ctx context.Context, pg *pgconn.PgConn, command func(context.Context) error) error {
	w := &maker{c: c, pid: pg.PID(), named: make(map[string]bool)}
	if err := w.open(ctx); err != nil {
		return err
	}
	defer w.close()
	defer func() {
		if w.standing != "" {
			c.waiting(nil)
		}
	}()
	// Cancelled by a request to the server and not by ctx, which would only give up
	// the connection.
	running, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		if w.watch(ctx, done) {
			w.cancel(pg, done)
			abandon()
		}
	})
	err := command(running)
	close(done)
	watching.Wait()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// maker watches a server process that makes a slot.
type maker struct {
	c      *Conn
	pid    uint32
	beside *pgconn.PgConn
	// named are the transactions that ran when it was looked first, and standing is
	// what was said last.
	named    map[string]bool
	looked   bool
	standing string
}

func (w *maker) open(ctx context.Context) (err error) {
	if w.beside, err = w.c.beside(ctx); err != nil {
		return err
	}
	if _, err = query(ctx, w.beside, fmt.Sprintf("SELECT pg_try_advisory_lock(%d, %d)", makerClass, int32(w.pid))); err != nil {
		return fmt.Errorf("lock the making of a slot: %w", err)
	}
	return nil
}

func (w *maker) close() {
	if w.beside != nil {
		closeSoon(w.beside)
		w.beside = nil
	}
}

// watch names what is waited for until done, or until ctx ends (true).
func (w *maker) watch(ctx context.Context, done <-chan struct{}) (stopped bool) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return false
		case <-ctx.Done():
			return true
		case <-tick.C:
		}
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			w.c.o.Log.Debug().Err(err).Msg("what the slot waits for is not known")
			w.close()
		}
	}
}

// cancel ends the command: by request, and if that does not help by force.
func (w *maker) cancel(pg *pgconn.PgConn, done <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for range 3 {
		_ = pg.CancelRequest(ctx)
		select {
		case <-done:
			return
		case <-time.After(time.Second):
		}
	}
	if w.beside != nil {
		force, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, _ = query(force, w.beside, fmt.Sprintf("SELECT pg_terminate_backend(%d)", w.pid))
	}
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// look says what is waited for, if that is something else than before.
func (w *maker) look(ctx context.Context) error {
	if w.beside == nil {
		if err := w.open(ctx); err != nil {
			return err
		}
	}
	// A stop needs the connection, and does not end it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	which, now, err := w.waitedFor(ctx)
	if err != nil || which == w.standing {
		return err
	}
	w.standing = which
	if which == "" {
		w.c.waiting(nil)
		return nil
	}
	w.c.o.Log.Warn().Str("slot", w.c.o.Slot).Str("waits_for", now).Msg("the replication slot can be made only when transactions that are running have ended")
	w.c.waiting(&Error{fmt.Errorf("making replication slot %q waits for %s", w.c.o.Slot, now), "end them (pg_terminate_backend, ROLLBACK PREPARED), or wait"})
	return nil
}

// waitedFor lists the transactions that the slot waits for: those that it waits for
// now, and of the others those that ran from the beginning on. which tells them from
// others.
func (w *maker) waitedFor(ctx context.Context) (which, what string, err error) {
	if w.c.standby {
		return "standby", "the primary to log its running transactions (SELECT pg_log_standby_snapshot() on the primary does so at once), and for those that run there", nil
	}
	rows, err := query(ctx, w.beside, fmt.Sprintf(`WITH waited AS (SELECT transactionid FROM pg_locks WHERE pid = %d AND NOT granted AND locktype = 'transactionid')
		SELECT h.transactionid, EXISTS (SELECT FROM waited WHERE waited.transactionid = h.transactionid), coalesce(h.pid::text, ''),
			coalesce(p.gid, ''), coalesce(a.datname, p.database, ''), coalesce(a.usename, p.owner, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
			coalesce(date_trunc('second', clock_timestamp() - coalesce(a.xact_start, p.prepared))::text, '')
		FROM pg_locks h LEFT JOIN pg_stat_activity a ON a.pid = h.pid LEFT JOIN pg_prepared_xacts p ON p.transaction = h.transactionid
		WHERE EXISTS (SELECT FROM waited) AND h.locktype = 'transactionid' AND h.granted
		ORDER BY age(h.transactionid) DESC`, w.pid))
	if err != nil {
		return "", "", err
	}
	var list []string
	for _, row := range rows {
		xid, now := row[0], row[1] == "t"
		if !w.looked {
			w.named[xid] = true
		}
		if now || w.named[xid] {
			which += xid + " "
			list = append(list, describe(row[2:]))
		}
	}
	w.looked = w.looked || len(rows) > 0
	const most = 10
	if n := len(list) - most; n > 0 {
		list = append(list[:most:most], fmt.Sprintf("%d more", n))
	}
	return which, strings.Join(list, "; "), nil
}

// describe names a transaction by process ID, global identifier, database, user,
// application, state and age. What the role may not see is left out.
func describe(facts []string) string {
	pid, gid, facts := facts[0], facts[1], facts[2:]
	var parts []string
	for i, name := range []string{"database ", "user ", "application ", "", "open for "} {
		if facts[i] != "" {
			parts = append(parts, name+facts[i])
		}
	}
	who := "the transaction of process " + pid
	if gid != "" {
		who = "the prepared transaction " + quote(gid)
	}
	if parts == nil {
		return who
	}
	return who + " (" + strings.Join(parts, ", ") + ")"
}

func (c *Conn) waiting(err error) {
	if c.o.Waiting != nil {
		c.o.Waiting(err)
	}
}

// errHalfMade is the error of a slot that another process is making.
var errHalfMade = errors.New("the replication slot is being made by another process")

// endHalfMade looks at the server process that makes a slot of this name. If it is
// outboxd's and nobody waits for it any more, it is ended, and with it the slot;
// otherwise the error names it.
func (c *Conn) endHalfMade(ctx context.Context, slot string, pid uint32) error {
	rows, err := c.rows(ctx, fmt.Sprintf(`SELECT a.application_name, coalesce(a.usename, ''), a.usename = current_user, coalesce(host(a.client_addr), 'an address not shown'),
			EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = %d AND l.objid = %d AND l.granted)
		FROM pg_stat_activity a WHERE a.pid = %d`, makerClass, pid, pid))
	if err != nil {
		return fmt.Errorf("look who makes replication slot %q: %w", slot, err)
	}
	if len(rows) == 0 {
		return nil // it has ended meanwhile
	}
	r := rows[0]
	if r[0] != c.application || r[2] != "t" || r[4] == "t" {
		return SlotInUse(fmt.Errorf("%w: server process %d (application %s, user %s, from %s) makes %q, which waits until the transactions that are running have ended",
			errHalfMade, pid, r[0], r[1], r[3], slot))
	}
	if _, err := c.rows(ctx, fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid)); err != nil {
		return fmt.Errorf("end the server process %d, which makes replication slot %q for a process that is gone: %w", pid, slot, err)
	}
	c.o.Log.Info().Uint32("pid", pid).Str("slot", slot).Msg("ended the server process that was making the slot for an outboxd that is gone")
	for range 100 {
		if rows, err = c.rows(ctx, fmt.Sprintf("SELECT FROM pg_replication_slots WHERE slot_name = %s AND active_pid = %d", quote(slot), pid)); err != nil || len(rows) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return SlotInUse(fmt.Errorf("%w: server process %d was told to end", errHalfMade, pid))
}

// halfMade returns the server process that is making the slot, 0 for none.
func (c *Conn) halfMade(ctx context.Context, slot string) (uint32, error) {
	rows, err := c.rows(ctx, "SELECT active_pid FROM pg_replication_slots WHERE confirmed_flush_lsn IS NULL AND active_pid IS NOT NULL AND slot_type = 'logical' AND slot_name = "+quote(slot))
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	pid, err := strconv.ParseUint(rows[0][0], 10, 32)
	return uint32(pid), err
}

// clearHalfMade ends what an outboxd that was killed has left of a slot.
func (c *Conn) clearHalfMade(ctx context.Context, slot string) error {
	pid, err := c.halfMade(ctx, slot)
	if err != nil {
		return fmt.Errorf("read replication slot: %w", err)
	}
	if pid == 0 {
		return nil
	}
	return c.endHalfMade(ctx, slot, pid)
}

// checkClient lets the server end what it does for us when we are gone, where it can.
func (c *Conn) checkClient(ctx context.Context) {
	if c.version >= 140000 {
		// Not on every operating system.
		_, _ = c.rows(ctx, "SET client_connection_check_interval = "+checkClientEvery)
	}
}
