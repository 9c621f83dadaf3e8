package replication

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// closeSoon ends a connection, waiting for a second at most.
func closeSoon(pg *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = pg.Close(ctx)
}

// errNoAnswer is the error of a question that was not answered in time.
var errNoAnswer = errors.New("the server does not answer")

// ask bounds a question in time, and the answer in size. After a time-out the
// connection is of no further use.
func ask[T any](ctx context.Context, pg *pgconn.PgConn, question func(context.Context) (T, error)) (T, error) {
	limited, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	allow(pg.Conn(), answerLimit)
	answer, err := question(limited)
	// The driver's own error says only that the connection is closed.
	switch {
	case err == nil || sqlState(err) != "":
		allow(pg.Conn(), math.MaxInt64)
	case exceeded(pg.Conn()):
		err = fmt.Errorf("%w: %w", errTooMuch, err)
	case limited.Err() != nil && ctx.Err() == nil:
		err = &Error{fmt.Errorf("%w for %s at %s: %w", errNoAnswer, askTimeout, pg.Conn().RemoteAddr(), err),
			"it may be stopped or overloaded, or wait for a lock (see pg_stat_activity); outboxd tries again"}
	}
	return answer, err
}

// query runs a query by the simple protocol, within the bounds of ask. SQL NULLs
// come back as "".
func query(ctx context.Context, pg *pgconn.PgConn, sql string) ([][]string, error) {
	return ask(ctx, pg, func(ctx context.Context) ([][]string, error) { return queryUnbounded(ctx, pg, sql) })
}

// queryUnbounded is for what may take as long as it likes.
func queryUnbounded(ctx context.Context, pg *pgconn.PgConn, sql string) ([][]string, error) {
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
