package e2e

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A consumer that drops duplicates by id: an inbox table remembers the events that
// had their effect, in the same transaction. It needs no order and no position, but
// a row an event; old ones may be deleted once they cannot come again.
//
//	CREATE TABLE inbox (id text PRIMARY KEY, received timestamptz DEFAULT now())

func handleByID(ctx context.Context, db *pgx.Conn, r *kgo.Record, effect func(pgx.Tx) error) (repeated bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		inserted, err := tx.Exec(ctx, `INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING`, header(r, "id"))
		if err != nil {
			return err
		}
		if repeated = inserted.RowsAffected() == 0; repeated {
			return nil
		}
		return effect(tx)
	})
	return repeated, err
}
