package replication

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// Health is what a slot costs its server, and how near it is to losing its WAL.
type Health struct {
	// Retained is the WAL that the server keeps for the slot, in bytes.
	Retained int64
	// Safe is how many more bytes of WAL may be written before the slot can lose
	// some (max_slot_wal_keep_size); -1 without a limit.
	Safe int64
	// WALStatus is reserved, extended, unreserved or lost: pg_replication_slots.
	WALStatus string
	// Confirmed is the position before which PostgreSQL decodes nothing any more.
	Confirmed string
}

// ReadHealth asks over a connection of its own. It returns nil when there is no
// slot.
func ReadHealth(ctx context.Context, o Options) (*Health, error) {
	cfg, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("read the slot's health: %w", err)
	}
	defer pg.Close(context.WithoutCancel(ctx))
	rows, err := query(ctx, pg, `SELECT coalesce(pg_wal_lsn_diff(
			CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,
			coalesce(safe_wal_size, -1), wal_status, coalesce(confirmed_flush_lsn::text, '')
		FROM pg_replication_slots WHERE slot_name = `+quote(o.Slot))
	if err != nil {
		return nil, fmt.Errorf("read the slot's health: %w", err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	h := Health{WALStatus: rows[0][2], Confirmed: rows[0][3]}
	if h.Retained, err = strconv.ParseInt(rows[0][0], 10, 64); err == nil {
		h.Safe, err = strconv.ParseInt(rows[0][1], 10, 64)
	}
	if err != nil {
		return nil, fmt.Errorf("read the slot's health: %w", err)
	}
	return &h, nil
}
