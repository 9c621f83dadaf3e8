package replication

import (
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

// Limits of a server's patience before the stream. Tests lower the times.
var (
	// dialTimeout bounds the whole attempt to connect to one host, if the DSN has no
	// connect_timeout.
	dialTimeout = 10 * time.Second
	// askTimeout bounds each question.
	askTimeout = 30 * time.Second
)

const (
	// connectLimit is how many bytes a server may send until it has let us in, and
	// answerLimit how many in answer to one question. What they are is less by far.
	connectLimit = 1 << 20
	answerLimit  = 64 << 20
)

// Shared is what the connections of one process have in common. The zero value is
// ready to use, by any goroutine.
type Shared struct {
	mu   sync.Mutex
	said map[string]bool
	// publication says that this process made the publication.
	publication bool
}

// once reports whether text is new, so that a warning is logged once and not with
// each connection.
func (s *Shared) once(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said[text] {
		return false
	}
	if s.said == nil {
		s.said = make(map[string]bool)
	}
	s.said[text] = true
	return true
}

// madePublication notes that this process has made the publication.
func (s *Shared) madePublication() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publication = true
}

// ownPublication reports whether this process made the publication.
func (s *Shared) ownPublication() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.publication
}

// ourSettings hold whatever the role, the database or the DSN says: slots are made
// as long as transactions run, and rows are read as slowly as Kafka takes them.
var ourSettings = map[string]string{
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_in_transaction_session_timeout": "0",
	"default_transaction_read_only":       "off",
	"default_transaction_isolation":       "read committed",
	"default_transaction_deferrable":      "off",
}

// newerSettings are such that older servers do not know, and would refuse, with the
// major version that brought them.
var newerSettings = map[string]int{"idle_session_timeout": 14, "transaction_timeout": 17}

// config returns how to connect now.
func (o *Options) config() (*pgconn.Config, error) {
	dsn := o.DSN
	if o.ReadDSN != nil {
		var err error
		if dsn, err = o.ReadDSN(); err != nil {
			return nil, err
		}
	}
	return parseDSN(dsn)
}

// parseDSN parses a DSN of any libpq form.
func parseDSN(dsn string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse postgres.dsn: %w", err)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = dialTimeout
	}
	dialer := &net.Dialer{
		Timeout:         cfg.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second},
	}
	if err := applyKeywords(&dialling{cfg, dialer}, dsn); err != nil {
		return nil, fmt.Errorf("%w: postgres.dsn %w", ErrSetup, err)
	}
	lookup := cfg.LookupFunc
	cfg.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
		defer cancel()
		return lookup(ctx, host)
	}
	connect := dial(dialer)
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := connect(ctx, network, address)
		if err == nil {
			allow(conn, connectLimit)
		}
		return conn, err
	}
	for name := range cfg.RuntimeParams {
		lower := strings.ToLower(name)
		if _, ours := ourSettings[lower]; ours || newerSettings[lower] != 0 {
			delete(cfg.RuntimeParams, name)
		}
	}
	for name, value := range ourSettings {
		cfg.RuntimeParams[name] = value
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "outboxd"
	}
	return cfg, nil
}

// connect opens a connection, within cfg.ConnectTimeout for each host.
func connect(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", connectHint(err, cfg))
	}
	allow(pg.Conn(), math.MaxInt64)
	return pg, nil
}

// allow sets how many bytes may be read from a connection of dial, until the next
// call or the stream.
func allow(conn net.Conn, bytes int64) {
	if c := below(conn); c != nil {
		c.left.Store(bytes)
		c.limited.Store(bytes != math.MaxInt64)
	}
}

// exceeded reports whether the server has sent more than was allowed.
func exceeded(conn net.Conn) bool {
	c := below(conn)
	return c != nil && c.limited.Load() && c.left.Load() < 0
}

// below returns what dial has made, nil for another connection.
func below(conn net.Conn) *aheadConn {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	c, _ := conn.(*aheadConn)
	return c
}

// Connect opens the connections and asks the server who it is.
//
// The ordinary one comes first, so that the other, which must not be asked anything,
// can have all settings when it starts: see Conn.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	c, standby, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	if warning := plaintext(c.sql.Conn()); warning != "" && c.o.Shared.once(warning) {
		o.Log.Warn().Stringer("server", c.sql.Conn().RemoteAddr()).Msg(warning)
	}
	if c.pg, err = c.beside(ctx, replicationConnection, c.encoding); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.identify(ctx, standby); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// open opens the ordinary connection. standby says that the DSN asks for one.
func open(ctx context.Context, o Options) (c *Conn, standby bool, err error) {
	if o.Shared == nil {
		o.Shared = new(Shared)
	}
	cfg, err := o.config()
	if err != nil {
		return nil, false, err
	}
	standby = meansStandby(cfg)
	cfg.ValidateConnect = explainRole(cfg.ValidateConnect)
	tried := attempts{log: o.Log, patience: cfg.ConnectTimeout}
	cfg.DialFunc = tried.dial(cfg.DialFunc)
	sql, err := connect(ctx, cfg)
	if err != nil {
		return nil, standby, err
	}
	tried.next("")
	c = &Conn{sql: sql, o: o, application: cfg.RuntimeParams["application_name"]}
	if err := c.settle(ctx); err != nil {
		c.Close()
		return nil, standby, err
	}
	return c, standby, nil
}

// replicationConnection makes a connection one for replication commands.
func replicationConnection(p map[string]string) {
	p["replication"] = "database"
	textOutput(p)
	// The server tells by a warning that a publication is missing, or what it
	// waits for: see Stream.notice.
	p["client_min_messages"] = "warning"
}

// encoding leaves alone the bytes of a database that holds any. Asked for UTF-8, the
// server ends the stream at the first that are not, again and again.
func (c *Conn) encoding(p map[string]string) {
	if c.sql.ParameterStatus("server_encoding") == "SQL_ASCII" {
		p["client_encoding"] = "SQL_ASCII"
	}
}

// settle makes the newer of our settings, which only a connection can tell from
// those that the server does not know.
func (c *Conn) settle(ctx context.Context) error {
	for name := range c.newer() {
		if _, err := c.rows(ctx, "SET "+name+" = 0"); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// newer are the newer of our settings that the server knows.
func (c *Conn) newer() map[string]string {
	known := make(map[string]string)
	for name, since := range newerSettings {
		if major(c.sql.ParameterStatus("server_version")) >= since {
			known[name] = "0"
		}
	}
	return known
}

// major returns the first number of a version such as 17.11 (Debian 17.11-1) or 18beta1.
func major(version string) int {
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	n, _ := strconv.Atoi(version[:digits])
	return n
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

// explainRole adds what to do to the refusal of a server of the other role.
func explainRole(validate pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	if validate == nil {
		return nil
	}
	return func(ctx context.Context, pg *pgconn.PgConn) error {
		err := validate(ctx, pg)
		switch err {
		case pgconn.ErrPrimaryConnection, pgconn.ErrReadWriteConnection:
			return &Error{err, "it is a primary, perhaps promoted a while ago: change target_session_attrs in postgres.dsn to primary to stream from it"}
		case pgconn.ErrStandbyConnection, pgconn.ErrReadOnlyConnection:
			return &Error{err, "outboxd waits until it is promoted, as target_session_attrs in postgres.dsn asks for a primary"}
		}
		return err
	}
}

// connectBeside opens an ordinary connection to the server at addr, also when the
// DSN names several, and whatever the server has become meanwhile.
func connectBeside(ctx context.Context, addr net.Addr, o Options, parameters ...func(map[string]string)) (*pgconn.PgConn, error) {
	cfg, err := o.config()
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
	return connect(ctx, cfg)
}

// beside opens a further connection to the same server, with all of our settings.
func (c *Conn) beside(ctx context.Context, parameters ...func(map[string]string)) (*pgconn.PgConn, error) {
	newer := func(p map[string]string) {
		for name, value := range c.newer() {
			p[name] = value
		}
	}
	return connectBeside(ctx, c.sql.Conn().RemoteAddr(), c.o, append(parameters, newer)...)
}

// attempts tell of hosts that say nothing, where a later one answers.
type attempts struct {
	log      zerolog.Logger
	patience time.Duration
	address  string
	since    time.Time
}

func (a *attempts) dial(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		a.next(address)
		return dial(ctx, network, address)
	}
}

// next ends the attempt at one host and begins that at the next, "" for none.
func (a *attempts) next(address string) {
	if address == a.address {
		return // with and without TLS
	}
	if waited := time.Since(a.since); a.address != "" && address != "" && waited >= a.patience*9/10 {
		a.log.Warn().Str("server", a.address).Stringer("after", waited.Round(time.Second)).
			Msg("the server does not answer; trying the next one of postgres.dsn")
	}
	a.address, a.since = address, time.Now()
}

// plaintext returns a warning where everybody on the way can read what is sent.
func plaintext(conn net.Conn) string {
	if _, secure := conn.(*tls.Conn); secure {
		return ""
	}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || a.IP.IsLoopback() {
		return ""
	}
	return "the connection to PostgreSQL is not encrypted, and leads to another machine; " +
		"set sslmode=verify-full and sslrootcert in postgres.dsn (sslmode=require encrypts and does not check who answers)"
}
