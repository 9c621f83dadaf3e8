package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartStandby makes a copy of the running server and starts it as a streaming
// hot standby that follows through a physical slot of its own and sends
// feedback. It is of the same version and has the same settings, but for those
// in o. The caller closes it; its slot stays on the primary, see StandbySlot.
//
// For PostgreSQL 17 and later, o.Settings{"sync_replication_slots": "on"} lets
// the standby keep copies of the primary's failover slots.
func (p *Postgres) StartStandby(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	if o.Version != "" && o.Version != p.version {
		return nil, fmt.Errorf("start standby: version %s cannot follow %s", o.Version, p.version)
	}
	o.Version = p.version
	s, err := p.startStandby(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start standby: %w", err)
	}
	return s, nil
}

func (p *Postgres) startStandby(ctx context.Context, o PostgresOptions) (_ *Postgres, err error) {
	host, portNumber, err := net.SplitHostPort(p.Addr())
	if err != nil {
		return nil, err
	}
	overrides := o.Settings
	o.Settings = nil
	s, err := newPostgres(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if isFile(filepath.Join(s.DataDir(), "PG_VERSION")) {
		return nil, fmt.Errorf("%s holds data already", s.DataDir())
	}
	s.standbySlot = fmt.Sprintf("standby_%d", s.port.number)

	own := maps.Clone(s.settings)
	maps.Copy(s.settings, p.settings)
	for _, name := range []string{"port", "unix_socket_directories"} {
		s.settings[name] = own[name]
	}
	maps.Copy(s.settings, map[string]string{
		"hot_standby_feedback": "on",
		"primary_slot_name":    s.standbySlot,
		// The database's name is for the copies of logical slots.
		"primary_conninfo": fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres application_name=%s",
			host, portNumber, s.standbySlot),
		// A primary that is back should not wait for its standby.
		"wal_retrieve_retry_interval": "200ms",
	})
	maps.Copy(s.settings, overrides)

	// With the WAL reserved before the backup starts, the standby can stream
	// everything it needs, and the backup can do without.
	err = p.Exec(ctx, "postgres", fmt.Sprintf("select pg_create_physical_replication_slot('%s', true)", s.standbySlot))
	if err != nil {
		return nil, fmt.Errorf("make its slot: %w", err)
	}
	if err := p.backup(ctx, s.DataDir()); err != nil {
		return nil, fmt.Errorf("copy the primary: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.DataDir(), "standby.signal"), nil, 0o600); err != nil {
		return nil, err
	}
	if err := s.configure(); err != nil {
		return nil, err
	}
	if err := s.user.own(s.DataDir()); err != nil {
		return nil, fmt.Errorf("hand over data directory: %w", err)
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// StandbySlot returns the name of the physical slot, on its primary, that a
// standby follows through; "" for a server that was not started as a standby.
// It is what synchronized_standby_slots on the primary (17 and later) names.
func (p *Postgres) StandbySlot() string { return p.standbySlot }

// Promote ends a standby's recovery and returns when it accepts writes.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := p.Exec(ctx, "postgres", "select pg_promote(false)"); err != nil {
		return fmt.Errorf("promote standby: %w", err)
	}
	for {
		recovering, err := p.QueryValue(ctx, "postgres", "select pg_is_in_recovery()")
		if err == nil && recovering == "f" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("promote standby: %w\n%s", errors.Join(ctx.Err(), err), tail(p.LogFile()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// backup copies the running server's data to target in the way that
// PostgreSQL documents for file-system backups. Its own program for this,
// pg_basebackup, is missing in many installations.
func (p *Postgres) backup(ctx context.Context, target string) error {
	start, stop := "pg_backup_start('testbed', true)", "pg_backup_stop(false)"
	if p.version < "15" {
		start, stop = "pg_start_backup('testbed', true, false)", "pg_stop_backup(false, false)"
	}
	// Both ends of a backup must come from one session.
	return p.connect(ctx, "postgres", func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "select "+start); err != nil {
			return err
		}
		if err := copyData(ctx, p.DataDir(), target); err != nil {
			return err
		}
		var label string
		if err := conn.QueryRow(ctx, "select labelfile from "+stop).Scan(&label); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(target, "backup_label"), []byte(label), 0o600)
	})
}

// leftOut lists what a backup must not or need not contain: directories stay,
// empty. Slots are the primary's own.
var leftOut = map[string]bool{
	"pg_wal": true, "pg_replslot": true, "pg_dynshmem": true, "pg_notify": true, "pg_serial": true,
	"pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true,
}

func copyData(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // dropped meanwhile, which the WAL knows
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch name := d.Name(); {
		case d.IsDir():
			if err := os.MkdirAll(target, 0o700); err != nil {
				return err
			}
			if leftOut[rel] {
				return fs.SkipDir // the server makes what it needs inside
			}
			return nil
		case !d.Type().IsRegular(), strings.HasPrefix(name, "postmaster."), strings.HasPrefix(name, "pgsql_tmp"):
			return nil
		default:
			return copyFile(path, target)
		}
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
