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
// What an operator publishes again has no position (outboxd replay from the table,
// outboxd reconcile --repair), or an old one (outboxd dead-letters retry): such a record
// goes by its id, and leaves the last position as it is.
//
//	CREATE TABLE consumed (topic text, partition int, position text, PRIMARY KEY (topic, partition))
//	CREATE TABLE inbox (id text PRIMARY KEY, received timestamptz DEFAULT now())

func handleByPosition(ctx context.Context, db *pgx.Conn, r *kgo.Record, effect func(pgx.Tx) error) (repeated bool, err error) {
	position := header(r, "position")
	if position == "" || header(r, "dead_letter_retry") != "" {
		return handleByID(ctx, db, r, effect)
	}
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
