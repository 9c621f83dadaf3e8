package replication

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// RowFilter returns the publication's row filter of the outbox table, as SQL, "" for
// none: rows outside it are never published. Prepare or Inspect must have been called.
func (c *Conn) RowFilter(ctx context.Context) (string, error) {
	if c.found == nil {
		return "", nil // there is no table
	}
	return c.rowFilter(ctx, c.found)
}

// OpenReader opens a further connection to the same server, for reading the outbox
// table: it prints values as the stream does. The caller closes it.
func (c *Conn) OpenReader(ctx context.Context) (*pgconn.PgConn, error) {
	pg, err := c.beside(ctx, textOutput, c.encoding)
	if err != nil {
		return nil, err
	}
	// A policy that hides rows is an error rather than a gap.
	if _, err := query(ctx, pg, `SET row_security = off`); err != nil {
		closeSoon(pg)
		return nil, fmt.Errorf("read the outbox table: %w", err)
	}
	return pg, nil
}
