package e2e

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A consumer that drops duplicates by position: within a partition positions only
// grow, so one comparison tells a repeated event. The last position is stored in
// the transaction that has the event's effect.
//
//	CREATE TABLE consumed (topic text, partition int, position text, PRIMARY KEY (topic, partition))

func handleByPosition(ctx context.Context, db *pgx.Conn, r *kgo.Record, effect func(pgx.Tx) error) (repeated bool, err error) {
	position := header(r, "position")
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// Text compares in bytes here, whatever the database's collation.
		moved, err := tx.Exec(ctx, `INSERT INTO consumed AS c VALUES ($1, $2, $3)
			ON CONFLICT (topic, partition) DO UPDATE SET position = excluded.position
			WHERE c.position COLLATE "C" < excluded.position`, r.Topic, r.Partition, position)
		if err != nil {
			return err
		}
		if repeated = moved.RowsAffected() == 0; repeated {
			return nil
		}
		return effect(tx)
	})
	return repeated, err
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}
