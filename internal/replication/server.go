// Package replication is the sole owner of the replication connection, the slot
// and the publication: it checks and makes them, streams, and answers the
// server.
//
// The protocol is "Streaming Replication Protocol" in the PostgreSQL
// documentation, with the pgoutput plugin in protocol version 1.
package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

// Options say what to stream from where. See postgres.* in the configuration.
type Options struct {
	DSN string
	// ReadDSN, if set, is asked for each connection in place of DSN: a password
	// may have been replaced. Any goroutine may call it.
	ReadDSN     func() (string, error)
	Slot        string
	Publication string
	Create      bool   // make the publication and the slot when missing
	Failover    string // auto, on, off: make the slot a failover slot (PostgreSQL 17+)
	// Origin is "none" to leave out what logical replication brought from another server
	// (PostgreSQL 16+), or "any".
	Origin string
	Schema string // of the outbox table
	Table  string // "": only messages are read
	// MessagePrefix: the messages with it are events. Only their decoder needs
	// it as it is; "" does not ask the server for messages.
	MessagePrefix string
	// Backfill: rows that were there before the slot are to be published, so that
	// the slot is made together with a snapshot of them.
	Backfill bool
	// Removes says that rows of the table are deleted once they are delivered.
	Removes bool
	Columns []Column // the columns that must be there
	Log     zerolog.Logger
	// NeverDelayReads: a stream reads as soon as the socket holds something, and
	// leaves the receive buffer to the kernel.
	NeverDelayReads bool
	// ReadDelays, if set, counts the reads that were delayed.
	ReadDelays *atomic.Int64
	// Shared belongs to all connections of a process; nil is one for each.
	Shared *Shared
	// Waiting is told what a start waits for while a slot is made, and nil when that
	// is over. It may be called from any goroutine, and be nil.
	Waiting func(error)
}

// Column is a column that the configuration names.
type Column struct {
	Key  string // the configuration's key, for messages
	Name string
	// Types are the names of the types it may have (pg_type.typname of the
	// base type); nil allows any.
	Types []string
	// NoDefault refuses a column with a default.
	NoDefault bool
}

// Backend identifies a server process across the reuse of its PID.
type Backend struct {
	PID     uint32
	Started string // backend_start as text
}

// Conn is a replication connection that is not streaming yet, and an ordinary
// one to the same server. It is used by one goroutine.
//
// What has to be asked and made goes over the ordinary one. A query over the
// other would leave the catalog of now in the caches of its server process,
// which then decodes older rows with it: values land in columns that have changed
// since, and rows from before the publication are passed over in silence.
type Conn struct {
	pg      *pgconn.PgConn // for replication commands only
	sql     *pgconn.PgConn
	o       Options
	version int // server_version_num
	system  pglogrepl.IdentifySystemResult
	catalog Catalog
	backend Backend
	timeout time.Duration // wal_sender_timeout, 0: none
	standby bool          // the server is one, and the DSN asks for one
	// published says that the publication was there before us.
	published bool
	// found is what the catalog said of the table and its publication; nil without a
	// table.
	found *look
	made  bool // the slot, just now
	// replaces says that the slot is to be replaced by that of a snapshot.
	replaces bool
	doubt    func() // logs what Verify is not sure of
	// application is our application_name.
	application string
}

func (c *Conn) identify(ctx context.Context, meansStandby bool) error {
	var err error
	if c.system, err = identifySystem(ctx, c.pg); err != nil {
		if sqlState(err) == syntaxError {
			return setupError("a connection pooler answers there: name the PostgreSQL server itself in postgres.dsn, since replication does not pass through a pooler",
				"the connection takes no replication commands: %w", err)
		}
		return err
	}
	row, err := c.readSettings(ctx)
	if err != nil {
		return err
	}
	if err := c.unfitVersion(); err != nil {
		return err
	}
	if err := unfitWALLevel(row.walLevel); err != nil {
		return err
	}
	if err := c.unfitRole(meansStandby); err != nil {
		return err
	}
	if c.backend = (Backend{c.pg.PID(), row.started}); c.backend.Started == "" {
		return &Error{errors.New("two connections to the same address reached two servers"),
			"name the server itself in postgres.dsn, and not something that distributes connections"}
	}
	c.catalog.Database = row.database
	c.catalog.Domains, err = c.domains(ctx)
	return err
}

// settings are what a server says of itself.
type settings struct {
	walLevel, started, database string
}

// readSettings asks the server what it is. Without a replication connection nothing
// is known of when that began.
func (c *Conn) readSettings(ctx context.Context) (s settings, err error) {
	var pid uint32
	if c.pg != nil {
		pid = c.pg.PID()
	}
	row, err := c.row(ctx, fmt.Sprintf(`SELECT current_setting('server_version_num'), current_setting('wal_level'),
		(SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'), pg_is_in_recovery(),
		(SELECT backend_start::text FROM pg_stat_activity WHERE pid = %d), current_database()`, pid))
	if err != nil {
		return s, fmt.Errorf("read server settings: %w", err)
	}
	if c.version, err = strconv.Atoi(row[0]); err != nil {
		return s, fmt.Errorf("read server version %q: %w", row[0], err)
	}
	if ms, err := strconv.Atoi(row[2]); err == nil {
		c.timeout = time.Duration(ms) * time.Millisecond
	}
	c.standby = row[3] == "t"
	return settings{row[1], row[4], row[5]}, nil
}

func (c *Conn) unfitVersion() error {
	if c.version < 130000 {
		return setupError("outboxd needs PostgreSQL 13 or newer", "the server is version %s", c.sql.ParameterStatus("server_version"))
	}
	return nil
}

func unfitWALLevel(level string) error {
	if level != "logical" {
		return withSQL(setupError("set wal_level = logical and restart the server", "wal_level is %s", level),
			"ALTER SYSTEM SET wal_level = logical")
	}
	return nil
}

// unfitRole judges whether the server is a standby, where the DSN asks for none.
func (c *Conn) unfitRole(meansStandby bool) error {
	switch {
	case c.standby && c.version < 160000:
		return &Error{errors.New("the server is a standby"), "before PostgreSQL 16 a standby cannot decode; add target_session_attrs=primary to postgres.dsn"}
	case c.standby && !meansStandby:
		return &Error{errors.New("the server is a standby"),
			"outboxd waits until it is promoted; add target_session_attrs=primary to postgres.dsn, or target_session_attrs=standby to stream from a standby"}
	}
	return nil
}

func identifySystem(ctx context.Context, pg *pgconn.PgConn) (pglogrepl.IdentifySystemResult, error) {
	system, err := ask(ctx, pg, func(ctx context.Context) (pglogrepl.IdentifySystemResult, error) {
		return pglogrepl.IdentifySystem(ctx, pg)
	})
	if err != nil {
		err = fmt.Errorf("identify system: %w", err)
	}
	return system, err
}

// Catalog is what a decoder needs to know of a database beside the stream.
type Catalog struct {
	Database string
	Domains  map[uint32]uint32 // the OIDs of base types, by that of the domain
	// Attributes are those of the outbox table's columns, by name.
	Attributes map[string]Attribute
}

// Attribute is what the catalog says of a column beside its type.
type Attribute struct {
	NotNull  bool
	Modifier int32  // atttypmod
	Type     string // its name in pg_type, of a domain its base type's
}

// Catalog returns what was read when the connection was made.
func (c *Conn) Catalog() Catalog { return c.catalog }

// domains reads the base types of domains, which a stream does not name.
func (c *Conn) domains(ctx context.Context) (map[uint32]uint32, error) {
	rows, err := c.rows(ctx, `WITH RECURSIVE base AS (
			SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd'
			UNION ALL SELECT base.oid, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.typbasetype AND t.typtype = 'd')
		SELECT base.oid, base.typbasetype FROM base JOIN pg_type t ON t.oid = base.typbasetype AND t.typtype <> 'd'`)
	if err != nil {
		return nil, fmt.Errorf("read domains: %w", err)
	}
	domains := make(map[uint32]uint32, len(rows))
	for _, row := range rows {
		var oid, base uint32
		if _, err := fmt.Sscan(row[0]+" "+row[1], &oid, &base); err != nil {
			return nil, fmt.Errorf("read domains: %w", err)
		}
		domains[oid] = base
	}
	return domains, nil
}

// Backend identifies the replication connection's server process.
func (c *Conn) Backend() Backend { return c.backend }

// Keeps returns how long the server keeps the slot for a process that is stopped,
// at least.
func (c *Conn) Keeps() time.Duration {
	if c.timeout <= 0 {
		return silentAfter
	}
	// It counts from the last status, which may be statusEvery old.
	return c.timeout - min(statusAtLeast, c.timeout/3)
}

// System returns the server's identity: a position of now.
func (c *Conn) System() (systemID string, timeline int32) {
	return c.system.SystemID, c.system.Timeline
}

// Flushed asks how far the server's WAL is durable now.
func (c *Conn) Flushed(ctx context.Context) (pglogrepl.LSN, error) {
	system, err := identifySystem(ctx, c.pg)
	if err != nil {
		return 0, err
	}
	// A slot just made starts after what was flushed before it.
	return max(c.system.XLogPos, system.XLogPos), nil
}

// Close ends connections that are not streaming.
func (c *Conn) Close() {
	for _, pg := range []*pgconn.PgConn{c.pg, c.sql} {
		if pg != nil {
			closeSoon(pg)
		}
	}
}
