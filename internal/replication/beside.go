package replication

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// Beside is an ordinary connection for work beside a stream, with settings of its own
// and an application_name that says what it is for. It is used by one goroutine.
type Beside struct {
	// Version is server_version_num.
	Version int

	pg *pgconn.PgConn
}

// OpenBeside connects to the server at addr, that of a stream, or with nil to whichever
// the DSN leads to. purpose is added to the application_name. settings hold whatever the
// role, the database or the DSN says.
func OpenBeside(ctx context.Context, o Options, addr net.Addr, purpose string, settings map[string]string) (*Beside, error) {
	set := func(p map[string]string) {
		textOutput(p)
		p["application_name"] += " " + purpose
		maps.Copy(p, settings)
	}
	var pg *pgconn.PgConn
	var err error
	if addr != nil {
		pg, err = connectBeside(ctx, addr, o, set)
	} else if cfg, e := o.config(); e != nil {
		err = e
	} else {
		set(cfg.RuntimeParams)
		pg, err = connect(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	c := &Conn{sql: pg, o: o}
	b := &Beside{pg: pg}
	err = c.settle(ctx)
	if err == nil {
		// What the work asks is short, and not worth compiling.
		var row []string
		if row, err = c.row(ctx, `SELECT current_setting('server_version_num'), set_config('jit', 'off', false)`); err == nil {
			b.Version, err = strconv.Atoi(row[0])
		}
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("prepare a connection: %w", err)
	}
	return b, nil
}

// Rows runs a query by the simple protocol, and returns the rows of all its statements.
// SQL NULLs come back as "". It is bounded in time and in the size of the answer; after
// an error that is not the server's the connection is closed.
func (b *Beside) Rows(ctx context.Context, sql string) ([][]string, error) {
	rows, err := query(ctx, b.pg, sql)
	if err != nil && SQLState(err) == "" {
		b.Close()
	}
	return rows, err
}

// Open reports whether the connection can be used.
func (b *Beside) Open() bool { return b != nil && !b.pg.IsClosed() }

// Close ends the connection.
func (b *Beside) Close() {
	if b != nil {
		closeSoon(b.pg)
	}
}

// SQLState returns the SQLSTATE of a server's error, or "".
func SQLState(err error) string { return sqlState(err) }

// Literal makes an SQL literal of a text.
func Literal(text string) string { return quote(text) }

// SetupError is an ErrSetup with advice, and the statements that put it right, if any.
func SetupError(what, fix string, sql ...string) error {
	return withSQL(setupError(fix, "%s", what), sql...)
}
