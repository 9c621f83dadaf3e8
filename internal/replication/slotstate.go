package replication

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"outboxd/internal/walheld"
)

// SlotState is what a server says of a slot, and of what may hold the slot back. A zero
// value is not known, or is not so.
type SlotState struct {
	Server   string // its version, as it says it
	Exists   bool   // the rest is empty without
	Health   Health
	Failover bool   // it is copied to standbys
	PID      string // of the server process that streams from it
	// Hidden says that the role may not see what other roles do.
	Hidden bool
}

// State asks all that a server says of the slot. It changes nothing, and needs no
// right but to connect.
func (b *Observer) State(ctx context.Context) (*SlotState, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	s, err := b.state(ctx)
	if err == nil && s.Exists {
		err = b.health(ctx, &s.Health)
	}
	if err != nil {
		b.close()
		return nil, fmt.Errorf("read the slot's state: %w", err)
	}
	return s, nil
}

// state is State without what a slot costs. The caller holds mu. Columns that only newer
// servers have are read by way of JSON.
func (b *Observer) state(ctx context.Context) (*SlotState, error) {
	rows, err := query(ctx, b.pg, `SELECT current_setting('server_version'), pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
		pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), coalesce(current_setting('synchronized_standby_slots', true), '')`)
	if err != nil {
		return nil, err
	}
	r := rows[0]
	s := &SlotState{Server: r[0], Hidden: r[3] != "t"}
	f := &s.Health.Held
	f.Slot, f.Standby, f.Missing = b.o.Slot, r[1] == "t", true
	standbySlots := splitNames(r[4])
	if f.Written, err = lsnOrZero(r[2]); err != nil {
		return nil, err
	}
	rows, err = query(ctx, b.pg, `SELECT s.restart_lsn, s.active, coalesce(s.active_pid::text, ''), s.wal_status,
			coalesce(j->>'invalidation_reason', ''), coalesce(j->>'conflicting', 'false'), coalesce(j->>'failover', 'false'),
			extract(epoch FROM (j->>'inactive_since')::timestamptz)::bigint, s.confirmed_flush_lsn
		FROM pg_replication_slots s, to_jsonb(s) j WHERE s.slot_name = `+quote(b.o.Slot))
	if err != nil || len(rows) == 0 {
		return s, err
	}
	r = rows[0]
	s.Exists, f.Missing, f.Active, s.PID, s.Failover = true, false, r[1] == "t", r[2], r[6] == "true"
	switch {
	case r[4] != "":
		f.Lost = r[4]
	case r[3] == "lost":
		f.Lost = "wal_removed"
	case r[5] == "true":
		f.Lost = "conflict with recovery"
	}
	if f.Restart, err = lsnOrZero(r[0]); err != nil {
		return nil, err
	}
	if f.Confirmed, err = lsnOrZero(r[8]); err != nil {
		return nil, err
	}
	if seconds, err := strconv.ParseInt(r[7], 10, 64); err == nil && !f.Active {
		f.Inactive = time.Unix(seconds, 0)
	}
	if s.Failover && f.Active && len(standbySlots) > 0 {
		if f.StandbySlot, err = b.behind(ctx, standbySlots, f.Confirmed, f.Written); err != nil {
			return nil, err
		}
	}
	if !f.Standby {
		f.Oldest, err = b.oldest(ctx)
	}
	return s, err
}

// behind returns the first of the standbys' slots that has no more than what is
// confirmed, although there is more.
func (b *Observer) behind(ctx context.Context, names []string, confirmed, written pglogrepl.LSN) (string, error) {
	for _, name := range names {
		rows, err := query(ctx, b.pg, "SELECT restart_lsn FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name = "+quote(name))
		if err != nil {
			return "", err
		}
		var has pglogrepl.LSN
		if len(rows) > 0 {
			if has, err = lsnOrZero(rows[0][0]); err != nil {
				return "", err
			}
		}
		if has <= confirmed && confirmed < written {
			return name, nil
		}
	}
	return "", nil
}

// oldest returns the oldest transaction with an identifier. Everybody may see its
// lock, but not everybody whose it is.
func (b *Observer) oldest(ctx context.Context) (*walheld.Transaction, error) {
	rows, err := query(ctx, b.pg, `SELECT coalesce(h.pid::text, ''), coalesce(p.gid, ''), coalesce(a.datname, p.database, ''),
			coalesce(a.usename, p.owner, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
			coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::numeric(20,3)::text, ''),
			coalesce(extract(epoch FROM coalesce(a.xact_start, p.prepared))::bigint::text, '')
		FROM pg_locks h LEFT JOIN pg_stat_activity a ON a.pid = h.pid LEFT JOIN pg_prepared_xacts p ON p.transaction = h.transactionid
		WHERE h.locktype = 'transactionid' AND h.granted ORDER BY age(h.transactionid) DESC LIMIT 1`)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	r := rows[0]
	t := &walheld.Transaction{PID: r[0], Prepared: r[1], Database: r[2], User: r[3], Application: r[4], State: r[5]}
	if seconds, err := strconv.ParseFloat(r[6], 64); err == nil {
		t.Open = max(time.Duration(seconds*float64(time.Second)), time.Millisecond)
	}
	if seconds, err := strconv.ParseInt(r[7], 10, 64); err == nil {
		t.Since = time.Unix(seconds, 0)
	}
	return t, nil
}

// lsnOrZero parses an LSN, 0 for none.
func lsnOrZero(text string) (pglogrepl.LSN, error) {
	if strings.TrimSpace(text) == "" {
		return 0, nil
	}
	return pglogrepl.ParseLSN(text)
}
