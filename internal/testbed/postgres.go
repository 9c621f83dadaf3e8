package testbed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const defaultPostgres = "17"

// PostgresOptions says which PostgreSQL to start and how. The zero value is a
// good one.
type PostgresOptions struct {
	// Version is the major version, "13" to "18". Defaults to "17".
	Version string

	// Settings go to postgresql.conf, over these defaults: wal_level=logical,
	// max_wal_senders=20, max_replication_slots=20, fsync=off, TCP on
	// 127.0.0.1 and a port of its own, the Unix socket in the data directory,
	// time zone UTC. Values are quoted for you; an empty one is kept as such.
	Settings map[string]string

	// TLS lets clients ask for TLS. The certificate is its own authority, and in
	// CertificateFile.
	TLS bool

	// Dir is where the server's data and log live. What is there from an
	// earlier start is used again, and Close leaves it. Defaults to a temporary
	// directory that Close removes.
	Dir string
}

// Postgres is a running, or for the moment stopped, PostgreSQL server. Its
// superuser is postgres, without a password. The address stays the same across
// stops and starts.
//
// Kill, Close and all that reads may be called from any goroutine; of the other
// methods that start and stop, one at a time.
type Postgres struct {
	version   string
	bin       string
	base      string // holds data and log
	temporary bool
	user      *serverUser
	port      *port
	settings  map[string]string

	standbySlot string // on the primary; "" unless started as a standby

	mu      sync.Mutex
	process *process
	closed  bool
}

// StartPostgres makes a new database cluster and starts it, fetching the
// server first if need be. It returns when connections are accepted. The
// caller closes it.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	if o.Version == "" {
		o.Version = defaultPostgres
	}
	p, err := newPostgres(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL %s: %w", o.Version, err)
	}
	err = p.initDB(ctx)
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// newPostgres prepares everything but the data.
func newPostgres(ctx context.Context, o PostgresOptions) (_ *Postgres, err error) {
	p := &Postgres{version: o.Version}
	if p.bin, err = postgresBin(ctx, o.Version); err != nil {
		return nil, err
	}
	if p.user, err = postgresUser(); err != nil {
		return nil, err
	}
	if err := p.user.canReach(p.bin); err != nil {
		return nil, err
	}
	if p.base, p.temporary, err = serverDir(o.Dir, "postgres"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := p.user.canReach(p.base); err != nil {
		return nil, err
	}
	if p.port, err = takePort(); err != nil {
		return nil, err
	}
	p.settings = map[string]string{
		"wal_level":               "logical",
		"max_wal_senders":         "20",
		"max_replication_slots":   "20",
		"fsync":                   "off",
		"listen_addresses":        "127.0.0.1",
		"port":                    fmt.Sprint(p.port.number),
		"unix_socket_directories": p.DataDir(),
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_line_prefix":         "%m [%p] %q%u@%d ",
	}
	// The path of a Unix socket may have 107 bytes.
	if len(p.DataDir())+len("/.s.PGSQL.65535.lock") > 107 {
		p.settings["unix_socket_directories"] = ""
	}
	if o.TLS {
		p.settings["ssl"] = "on"
	}
	maps.Copy(p.settings, o.Settings)
	return p, nil
}

// initDB fills the data directory, unless it is filled already.
func (p *Postgres) initDB(ctx context.Context) error {
	if isFile(filepath.Join(p.DataDir(), "PG_VERSION")) {
		return p.configure()
	}
	if err := os.MkdirAll(p.DataDir(), 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := p.user.own(p.DataDir()); err != nil {
		return fmt.Errorf("hand over data directory: %w", err)
	}
	cmd := p.command(ctx, "initdb", "-D", p.DataDir(), "-U", "postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("make database cluster: %w", err)
	}
	if p.settings["ssl"] == "on" {
		if err := writeCertificate(p.DataDir()); err != nil {
			return err
		}
		if err := p.user.own(p.DataDir()); err != nil {
			return fmt.Errorf("hand over certificate: %w", err)
		}
	}
	return p.configure()
}

const ownConf = "testbed.conf"

// configure writes our settings to a file that postgresql.conf includes last,
// so that writing them twice changes nothing.
func (p *Postgres) configure() error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(p.settings[name]))
	}
	own := filepath.Join(p.DataDir(), ownConf)
	if err := os.WriteFile(own, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	if err := p.user.own(own); err != nil {
		return fmt.Errorf("hand over settings: %w", err)
	}
	main := filepath.Join(p.DataDir(), "postgresql.conf")
	text, err := os.ReadFile(main)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	include := "\ninclude '" + ownConf + "'\n"
	if strings.HasSuffix(string(text), include) {
		return nil
	}
	// Written in place: the file keeps its owner.
	if err := os.WriteFile(main, append(text, include...), 0o600); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}

// command prepares one of PostgreSQL's programs as the user that may run it.
func (p *Postgres) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.SysProcAttr = p.user.attr()
	cmd.Dir = p.base
	// Nothing like PGDATA or a locale may come in from outside.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	return cmd
}

// Start starts a stopped or killed server on its old data and address, and
// returns when it accepts connections, recovery included. A running server is
// an error.
func (p *Postgres) Start(ctx context.Context) error {
	p.mu.Lock()
	if p.closed || p.process.running() {
		p.mu.Unlock()
		return fmt.Errorf("start PostgreSQL %s: it is running or closed", p.version)
	}
	// Immediate shutdown, for a postmaster without us; its children follow it.
	// Its own context: the server is to outlive the one of this call.
	proc, err := startProcess(p.command(context.Background(), "postgres", "-D", p.DataDir()), p.LogFile(), syscall.SIGQUIT)
	if err != nil {
		p.mu.Unlock()
		return fmt.Errorf("start PostgreSQL %s: %w", p.version, err)
	}
	p.process = proc
	p.mu.Unlock()
	return waitReady(ctx, "PostgreSQL "+p.version, proc, p.LogFile(), func(ctx context.Context) error {
		_, err := p.QueryValue(ctx, "postgres", "select 1")
		return err
	})
}

// Restart stops the server in good order and starts it again.
func (p *Postgres) Restart(ctx context.Context) error {
	if err := p.StopFast(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// StopFast ends all sessions and shuts down with a checkpoint (pg_ctl's mode
// "fast"). The server waits for its replication clients to take what was
// written, so a stalled one holds it up until ctx ends; it is then still
// shutting down, and StopImmediate or Kill end it.
func (p *Postgres) StopFast(ctx context.Context) error { return p.stop(ctx, syscall.SIGINT) }

// StopImmediate ends the server without a checkpoint (pg_ctl's mode
// "immediate"): the next start recovers from the WAL.
func (p *Postgres) StopImmediate(ctx context.Context) error { return p.stop(ctx, syscall.SIGQUIT) }

func (p *Postgres) stop(ctx context.Context, sig syscall.Signal) error {
	proc := p.current()
	if !proc.running() {
		return nil
	}
	err := proc.signal(sig)
	if err == nil {
		err = proc.wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("stop PostgreSQL %s: %w", p.version, err)
	}
	return nil
}

// Kill sends SIGKILL to the postmaster and all its children, as a machine that
// loses power does to them, and returns when none is left.
func (p *Postgres) Kill(ctx context.Context) error {
	proc := p.current()
	if !proc.running() {
		return nil
	}
	pid := proc.cmd.Process.Pid
	// Stopped, it can neither start another child nor react to a dying one.
	if err := proc.signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("kill PostgreSQL %s: %w", p.version, err)
	}
	children, err := childrenOf(pid)
	if err := errors.Join(err, proc.signal(syscall.SIGKILL)); err != nil {
		return fmt.Errorf("kill PostgreSQL %s: %w", p.version, err)
	}
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	if err := proc.wait(ctx); err != nil {
		return fmt.Errorf("kill PostgreSQL %s: %w", p.version, err)
	}
	// One that still holds the shared memory would stop the next start.
	for _, child := range children {
		for alive(child) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("kill PostgreSQL %s: process %d is still there: %w", p.version, child, ctx.Err())
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// Close ends the server and removes its data, unless PostgresOptions.Dir named
// their place. Closing twice is harmless.
func (p *Postgres) Close() {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.mu.Unlock()
	if !first {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if p.temporary {
		_ = p.Kill(ctx) // nobody will read its data again
	} else if p.StopFast(ctx) != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = p.Kill(ctx)
	}
	p.port.release()
	if p.temporary {
		_ = os.RemoveAll(p.base)
	}
}

func (p *Postgres) current() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

// Running reports whether the server's main process is there.
func (p *Postgres) Running() bool { return p.current().running() }

// DSN returns a connection string for a database, as superuser.
func (p *Postgres) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", p.Addr(), url.PathEscape(database))
}

// Addr returns the server's address, host:port.
func (p *Postgres) Addr() string { return p.port.addr() }

// DataDir returns the data directory (PGDATA). It belongs to the server's user.
func (p *Postgres) DataDir() string { return filepath.Join(p.base, "data") }

// CertificateFile returns the server's certificate, PEM. See PostgresOptions.TLS.
func (p *Postgres) CertificateFile() string { return filepath.Join(p.DataDir(), "server.crt") }

// LogFile returns the file with the server's log, of all starts.
func (p *Postgres) LogFile() string { return filepath.Join(p.base, "postgres.log") }

// Exec runs one or more statements, separated by semicolons, in a database on
// a connection of their own. Without BEGIN they are one transaction.
func (p *Postgres) Exec(ctx context.Context, database, sql string) error {
	return p.connect(ctx, database, func(conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	})
}

// QueryValue runs a query on a connection of its own and returns the text of
// the first column of its first row, "" for NULL. No row is [pgx.ErrNoRows].
func (p *Postgres) QueryValue(ctx context.Context, database, sql string) (string, error) {
	var value string
	err := p.connect(ctx, database, func(conn *pgx.Conn) error {
		results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		if err != nil {
			return err
		}
		last := len(results) - 1
		if last < 0 || len(results[last].Rows) == 0 {
			return pgx.ErrNoRows
		}
		value = string(results[last].Rows[0][0])
		return nil
	})
	return value, err
}

func (p *Postgres) connect(ctx context.Context, database string, use func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, p.DSN(database))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := use(conn); err != nil {
		return fmt.Errorf("query database %s: %w", database, err)
	}
	return nil
}
