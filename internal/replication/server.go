// Package replication is the sole owner of the replication connection, the slot
// and the publication: it checks and makes them, streams, and answers the
// server.
//
// The protocol is "Streaming Replication Protocol" in the PostgreSQL
// documentation, with the pgoutput plugin in protocol version 1.
package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"
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
	Table       string // "": only messages are read
	// MessagePrefix: the messages with it are events. Only their decoder needs
	// it as it is; "" does not ask the server for messages.
	MessagePrefix string
	// Backfill: rows that were there before the slot are to be published, so that
	// the slot is made together with a snapshot of them.
	Backfill bool
	Columns  []Column // the columns that must be there
	Log      zerolog.Logger
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
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	if cfg.ConnectTimeout > 0 {
		dialer.Timeout = cfg.ConnectTimeout
	}
	cfg.DialFunc = dial(dialer)
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "outboxd"
	}
	return cfg, nil
}

// Connect opens the connections and asks the server who it is.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	cfg, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	p := cfg.RuntimeParams
	p["replication"] = "database"
	textOutput(p)
	// The server tells by a warning that a publication is missing, or what it
	// waits for: see Stream.notice.
	p["client_min_messages"] = "warning"
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err == nil && pg.ParameterStatus("server_encoding") == "SQL_ASCII" {
		// Such a database holds any bytes. Asked for UTF-8, the server ends the
		// stream at the first that are not, again and again.
		_ = pg.Close(ctx)
		p["client_encoding"] = "SQL_ASCII"
		pg, err = pgconn.ConnectConfig(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", connectHint(err))
	}
	c := &Conn{pg: pg, o: o}
	if c.sql, err = connectBeside(ctx, pg.Conn().RemoteAddr(), o); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.identify(ctx, meansStandby(cfg)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// textOutput sets what columns look like as text, which must not depend on a
// role's settings.
func textOutput(parameters map[string]string) {
	parameters["bytea_output"] = "hex"
	parameters["datestyle"] = "ISO"
	parameters["intervalstyle"] = "postgres"
	parameters["extra_float_digits"] = "3"
	parameters["timezone"] = "UTC"
	// JSON and Kafka headers are UTF-8, whatever the database's encoding.
	parameters["client_encoding"] = "UTF8"
}

// meansStandby tells a DSN that asks for a standby. Any other that ends at one has
// met a server that was replaced, or is about to be promoted.
func meansStandby(cfg *pgconn.Config) bool {
	if cfg.ValidateConnect == nil {
		return false
	}
	validate := reflect.ValueOf(cfg.ValidateConnect).Pointer()
	for _, standby := range []pgconn.ValidateConnectFunc{
		pgconn.ValidateConnectTargetSessionAttrsStandby, pgconn.ValidateConnectTargetSessionAttrsReadOnly,
	} {
		if validate == reflect.ValueOf(standby).Pointer() {
			return true
		}
	}
	return false
}

// connectBeside opens an ordinary connection to the server at addr, also when the
// DSN names several, and whatever the server has become meanwhile.
func connectBeside(ctx context.Context, addr net.Addr, o Options, parameters ...func(map[string]string)) (*pgconn.PgConn, error) {
	cfg, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	for _, set := range parameters {
		set(cfg.RuntimeParams)
	}
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, addr.Network(), addr.String())
	}
	cfg.ValidateConnect = nil
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
	if e := new(tls.CertificateVerificationError); errors.As(err, &e) {
		return &Error{err, "name its authority's certificate by sslrootcert in postgres.dsn, and the host as the certificate does"}
	}
	return err
}

func (c *Conn) identify(ctx context.Context, meansStandby bool) error {
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
	c.standby = row[3] == "t"
	switch {
	case c.standby && c.version < 160000:
		return &Error{errors.New("the server is a standby"), "before PostgreSQL 16 a standby cannot decode; add target_session_attrs=primary to postgres.dsn"}
	case c.standby && !meansStandby:
		return &Error{errors.New("the server is a standby"),
			"outboxd waits until it is promoted; add target_session_attrs=primary to postgres.dsn, or target_session_attrs=standby to stream from a standby"}
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
	if partitioned && c.version < 150000 {
		// pgoutput's cache of tables, get_rel_sync_entry.
		c.o.Log.Warn().Msg("before PostgreSQL 15 a stream does not notice when a table that was written to is attached as a partition, or detached: " +
			"run ALTER PUBLICATION " + QuoteIdent(c.o.Publication) + " SET (publish = 'insert') in the same transaction")
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
	switch {
	case slot == nil && first:
		if slot, err = c.MakeSlot(ctx); err != nil {
			return offsets.Server{}, err
		}
		if c.published && !c.standby {
			c.o.Log.Warn().Str("slot", c.o.Slot).Msg("the publication was there and the slot was not; if it was used before " +
				"(and is gone because a standby was promoted, or it was dropped), what was committed meanwhile is only in the outbox table")
		}
	case slot != nil:
		if err := c.ensureFailover(ctx, slot); err != nil {
			return offsets.Server{}, err
		}
	}
	return offsets.Server{
		SystemID: c.system.SystemID,
		Timeline: c.system.Timeline,
		FlushLSN: c.system.XLogPos,
		Switches: c.switches(ctx),
		SlotName: c.o.Slot,
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
		WHERE s.slot_name IN (%s, %s) AND a.pid = %d AND a.backend_start = %s`,
		quote(c.o.Slot), quote(snapshotSlot(c.o.Slot)), earlier.PID, quote(earlier.Started)))
	if err != nil {
		return fmt.Errorf("end our earlier connection (pid %d): %w", earlier.PID, err)
	}
	if row[0] != "0" {
		c.o.Log.Info().Uint32("pid", earlier.PID).Msg("ended our own earlier connection, which still held the slot")
	}
	return nil
}

// Start begins to stream after start, into memory. confirmed is what PostgreSQL is
// told until Stream.Confirm says more, and not after start. The replication connection
// belongs to the stream from then on, the other is closed, also after an error.
func (c *Conn) Start(ctx context.Context, start, confirmed pglogrepl.LSN, memory *Memory) (*Stream, error) {
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
	s := newStream(hijacked.Conn, memory, statusEvery, confirmed)
	s.log = c.o.Log
	if c.timeout > 0 {
		// No later than the server gives us up, and lets another process in.
		s.silentAfter = min(s.silentAfter, c.timeout)
		s.probeAfter = min(s.probeAfter, s.silentAfter/3)
	}
	stop := context.AfterFunc(ctx, func() { s.Interrupt(context.Cause(ctx)) })
	defer stop()
	if err := s.start(c.o.Slot, c.o.Publication, c.o.MessagePrefix != "", start); err != nil {
		s.Close()
		if sqlState(err) == objectInUse {
			return nil, SlotInUse(err)
		}
		return nil, fmt.Errorf("start replication: %w", err)
	}
	return s, nil
}

// StartCopy streams from a temporary copy of the slot, which ends with the
// connection: neither the slot nor who streams from it notices.
func (c *Conn) StartCopy(ctx context.Context, start pglogrepl.LSN, memory *Memory) (*Stream, error) {
	// A temporary slot belongs to the server process that made it, so it has to
	// be this one. The call reads nothing of the outbox's catalog: see Conn.
	name := fmt.Sprintf("%.40s_replay_%d", c.o.Slot, c.pg.PID())
	_, err := query(ctx, c.pg, fmt.Sprintf("SELECT pg_copy_logical_replication_slot(%s, %s, true)", quote(c.o.Slot), quote(name)))
	if err != nil {
		err = fmt.Errorf("copy replication slot %q: %w", c.o.Slot, err)
		if sqlState(err) == configurationLimitExceeded {
			err = &Error{err, freeSlot}
		}
		return nil, err
	}
	c.o.Slot = name
	return c.Start(ctx, start, start, memory)
}

// start sends START_REPLICATION and reads until the copy begins. messages also
// asks for those of pg_logical_emit_message, which PostgreSQL 13 does not know.
func (s *Stream) start(slot, publication string, messages bool, at pglogrepl.LSN) error {
	further := ""
	if messages {
		further = ", messages 'true'"
	}
	sql := fmt.Sprintf(`START_REPLICATION SLOT "%s" LOGICAL %s (proto_version '1', publication_names '%s'%s)`,
		slot, at, strings.ReplaceAll(QuoteIdent(publication), "'", "''"), further)
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

// QuoteIdent makes an SQL identifier.
func QuoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
