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
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/rs/zerolog"

	"outboxd/offsets"
)

// Options say what to stream from where. See postgres.* in the configuration.
type Options struct {
	DSN         string
	Slot        string
	Publication string
	Create      bool   // make the publication and the slot when missing
	Failover    string // auto, on, off: make the slot a failover slot (PostgreSQL 17+)
	Schema      string // of the outbox table
	Table       string
	Columns     []Column // the columns that must be there
	Log         zerolog.Logger
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
}

// dialTimeout bounds a connection attempt to one host, if the DSN has no
// connect_timeout.
const dialTimeout = 10 * time.Second

// parseDSN parses a DSN of any libpq form.
func parseDSN(dsn string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse postgres.dsn: %w", err)
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second, Control: setReceiveBuffer}
	if cfg.ConnectTimeout > 0 {
		dialer.Timeout = cfg.ConnectTimeout
	}
	cfg.DialFunc = dialer.DialContext
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "outboxd"
	}
	return cfg, nil
}

// setReceiveBuffer fixes the socket's buffer before the connection is made: see
// pace.
func setReceiveBuffer(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	if err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
	}); err != nil {
		return err
	}
	return failed
}

// Connect opens the connections and asks the server who it is.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	cfg, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	p := cfg.RuntimeParams
	p["replication"] = "database"
	// What columns look like as text must not depend on a role's settings.
	p["bytea_output"] = "hex"
	p["datestyle"] = "ISO"
	p["intervalstyle"] = "postgres"
	p["extra_float_digits"] = "3"
	p["timezone"] = "UTC"
	// JSON and Kafka headers are UTF-8, whatever the database's encoding.
	p["client_encoding"] = "UTF8"
	// The server tells by a warning that a publication is missing: see
	// missedPublication.
	p["client_min_messages"] = "warning"
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", connectHint(err))
	}
	c := &Conn{pg: pg, o: o}
	if c.sql, err = connectBeside(ctx, pg, o); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.identify(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// connectBeside opens an ordinary connection to the server that pg reached, also
// when the DSN names several.
func connectBeside(ctx context.Context, pg *pgconn.PgConn, o Options) (*pgconn.PgConn, error) {
	cfg, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	dial, addr := cfg.DialFunc, pg.Conn().RemoteAddr()
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, addr.Network(), addr.String())
	}
	sql, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", connectHint(err))
	}
	return sql, nil
}

// connectHint adds what to do to the refusals that every first set-up meets.
func connectHint(err error) error {
	switch sqlState(err) {
	case insufficientPrivilege, "28000":
		return &Error{err, "the role needs LOGIN and REPLICATION, and pg_hba.conf must let it in (see `outboxd init`)"}
	case "28P01":
		return &Error{err, "check user and password in postgres.dsn"}
	case "3D000":
		return &Error{err, "check the database name in postgres.dsn"}
	case "53300":
		return &Error{err, "raise max_wal_senders or max_connections, or wait until one is free"}
	}
	return err
}

func (c *Conn) identify(ctx context.Context) error {
	var err error
	if c.system, err = pglogrepl.IdentifySystem(ctx, c.pg); err != nil {
		return fmt.Errorf("identify system: %w", err)
	}
	row, err := c.row(ctx, fmt.Sprintf(`SELECT current_setting('server_version_num'), current_setting('wal_level'),
		(SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'), pg_is_in_recovery(),
		(SELECT backend_start::text FROM pg_stat_activity WHERE pid = %d), current_database()`, c.pg.PID()))
	if err != nil {
		return fmt.Errorf("read server settings: %w", err)
	}
	if c.version, err = strconv.Atoi(row[0]); err != nil {
		return fmt.Errorf("read server version %q: %w", row[0], err)
	}
	if c.version < 130000 {
		return setupError("outboxd needs PostgreSQL 13 or newer", "the server is version %s", c.sql.ParameterStatus("server_version"))
	}
	if row[1] != "logical" {
		return setupError("set wal_level = logical and restart the server", "wal_level is %s", row[1])
	}
	if ms, err := strconv.Atoi(row[2]); err == nil {
		c.timeout = time.Duration(ms) * time.Millisecond
	}
	if row[3] == "t" && c.version < 160000 {
		return &Error{errors.New("the server is a standby"), "before PostgreSQL 16 a standby cannot decode; add target_session_attrs=primary to postgres.dsn"}
	}
	if c.backend = (Backend{c.pg.PID(), row[4]}); c.backend.Started == "" {
		return &Error{errors.New("two connections to the same address reached two servers"),
			"name the server itself in postgres.dsn, and not something that distributes connections"}
	}
	c.catalog.Database = row[5]
	c.catalog.Domains, err = c.domains(ctx)
	return err
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
	Modifier int32 // atttypmod
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

// System returns the server's identity: a position of now.
func (c *Conn) System() (systemID string, timeline int32) {
	return c.system.SystemID, c.system.Timeline
}

// Flushed asks how far the server's WAL is durable now.
func (c *Conn) Flushed(ctx context.Context) (pglogrepl.LSN, error) {
	system, err := pglogrepl.IdentifySystem(ctx, c.pg)
	if err != nil {
		return 0, fmt.Errorf("identify system: %w", err)
	}
	// A slot just made starts after what was flushed before it.
	return max(c.system.XLogPos, system.XLogPos), nil
}

// Prepare checks table, publication and slot, makes what is missing if the
// options say so, and returns what is there. A slot is made only if none was
// ever used (first): a slot that vanished is not replaced silently.
func (c *Conn) Prepare(ctx context.Context, first bool) (offsets.Server, error) {
	partitioned, err := c.checkTable(ctx)
	if err != nil {
		return offsets.Server{}, err
	}
	slot, err := c.slot(ctx)
	if err != nil {
		return offsets.Server{}, err
	}
	// The publication is made before the slot: decoding uses the catalog as it
	// was, and a change older than the publication could not be decoded.
	if err := c.preparePublication(ctx, partitioned, slot); err != nil {
		return offsets.Server{}, err
	}
	if slot == nil && first {
		if slot, err = c.makeSlot(ctx); err != nil {
			return offsets.Server{}, err
		}
	}
	return offsets.Server{
		SystemID: c.system.SystemID,
		Timeline: c.system.Timeline,
		FlushLSN: c.system.XLogPos,
		Switches: c.switches(ctx),
		Slot:     slot,
	}, nil
}

// switches reads where the server's earlier timelines ended. Without it a
// position of an earlier timeline is refused, so an error only loses that.
func (c *Conn) switches(ctx context.Context) map[int32]pglogrepl.LSN {
	if c.system.Timeline <= 1 {
		return nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, c.pg, c.system.Timeline)
	if err != nil {
		c.o.Log.Warn().Err(err).Int32("timeline", c.system.Timeline).Msg("the timeline's history cannot be read")
		return nil
	}
	return parseHistory(string(history.Content))
}

// parseHistory reads a timeline history file: a line for each earlier timeline,
// with its number and the position at which it was left.
func parseHistory(content string) map[int32]pglogrepl.LSN {
	switches := make(map[int32]pglogrepl.LSN)
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		timeline, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			continue // a comment
		}
		if lsn, err := pglogrepl.ParseLSN(fields[1]); err == nil {
			switches[int32(timeline)] = lsn
		}
	}
	return switches
}

// EndStale ends the server process of an earlier connection of this process, if
// it still holds the slot: the network may have told us of the end, and not the
// server.
func (c *Conn) EndStale(ctx context.Context, earlier Backend) error {
	if earlier.PID == 0 {
		return nil
	}
	row, err := c.row(ctx, fmt.Sprintf(`SELECT count(pg_terminate_backend(a.pid))
		FROM pg_stat_activity a JOIN pg_replication_slots s ON s.active_pid = a.pid
		WHERE s.slot_name = %s AND a.pid = %d AND a.backend_start = %s`,
		quote(c.o.Slot), earlier.PID, quote(earlier.Started)))
	if err != nil {
		return fmt.Errorf("end our earlier connection (pid %d): %w", earlier.PID, err)
	}
	if row[0] != "0" {
		c.o.Log.Info().Uint32("pid", earlier.PID).Msg("ended our own earlier connection, which still held the slot")
	}
	return nil
}

// Start begins to stream after start, into memory. The replication connection
// belongs to the stream from then on, the other is closed, also after an error.
func (c *Conn) Start(ctx context.Context, start pglogrepl.LSN, memory *Memory) (*Stream, error) {
	defer c.Close() // of what the stream does not take over
	if err := c.pg.SyncConn(ctx); err != nil {
		return nil, fmt.Errorf("start replication: %w", err)
	}
	hijacked, err := c.pg.Hijack()
	if err != nil {
		return nil, fmt.Errorf("start replication: %w", err)
	}
	statusEvery := statusAtLeast
	if c.timeout > 0 {
		statusEvery = min(statusEvery, c.timeout/3)
	}
	s := newStream(hijacked.Conn, memory, statusEvery, start)
	stop := context.AfterFunc(ctx, func() { s.Interrupt(context.Cause(ctx)) })
	defer stop()
	if err := s.start(c.o.Slot, c.o.Publication, start); err != nil {
		s.Close()
		if sqlState(err) == objectInUse {
			return nil, SlotInUse(err)
		}
		return nil, fmt.Errorf("start replication: %w", err)
	}
	return s, nil
}

// start sends START_REPLICATION and reads until the copy begins.
func (s *Stream) start(slot, publication string, at pglogrepl.LSN) error {
	sql := fmt.Sprintf(`START_REPLICATION SLOT "%s" LOGICAL %s (proto_version '1', publication_names '%s')`,
		slot, at, strings.ReplaceAll(quoteIdent(publication), "'", "''"))
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return err
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := s.conn.Write(query); err != nil {
		return err
	}
	// No status may go out before the copy has begun.
	s.lastStatus = time.Now().Add(time.Hour)
	for {
		m, err := s.message()
		if err != nil {
			return err
		}
		switch m[0] {
		case 'W':
			s.lastStatus = time.Now()
			s.statusDue.Store(true)
			return nil
		case 'E':
			return serverError(m[5:])
		case 'N', 'S':
		default:
			return fmt.Errorf("unexpected message %q", m[0])
		}
	}
}

// Close ends connections that are not streaming.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.pg.Close(ctx)
	if c.sql != nil {
		_ = c.sql.Close(ctx)
	}
}

// rows runs a query by the simple protocol. SQL NULLs come back as "".
func (c *Conn) rows(ctx context.Context, sql string) ([][]string, error) {
	return query(ctx, c.sql, sql)
}

// row runs a query that returns exactly one row.
func (c *Conn) row(ctx context.Context, sql string) ([]string, error) {
	rows, err := c.rows(ctx, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%d rows instead of one", len(rows))
	}
	return rows[0], nil
}

func query(ctx context.Context, pg *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, r := range results {
		for _, values := range r.Rows {
			row := make([]string, len(values))
			for i, v := range values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// quote makes a literal. Backslashes are plain characters in it, since
// standard_conforming_strings is on unless someone turns it off; the E before a
// literal with one says what they are, however that is set.
func quote(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
