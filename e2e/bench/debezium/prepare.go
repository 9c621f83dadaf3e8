package debezium

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Prepare makes the publication, of inserts only, and the slot that o names.
// Rows committed after it are what a connector streams. A backlog needs it
// before it is written: PostgreSQL decodes old rows with the publications of
// their own time.
func Prepare(ctx context.Context, o Options) error {
	o, db, err := o.withDefaults()
	if err != nil {
		return fmt.Errorf("prepare for Debezium: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, db)
	if err != nil {
		return fmt.Errorf("prepare for Debezium: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	table := pgx.Identifier(strings.Split(o.Table, "."))
	if _, err := conn.Exec(ctx, fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert')",
		pgx.Identifier{o.Publication}.Sanitize(), table.Sanitize())); err != nil {
		return fmt.Errorf("make Debezium's publication: %w", err)
	}
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", o.Slot); err != nil {
		return fmt.Errorf("make Debezium's slot: %w", err)
	}
	return nil
}
