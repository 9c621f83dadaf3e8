package e2e

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"
)

// A writer: the order and its event are committed together, or neither is.

type order struct {
	ID    string `json:"id"`
	Cents int64  `json:"cents"`
}

func placeOrder(ctx context.Context, db *pgx.Conn, o order) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO orders (id, cents) VALUES ($1, $2)`, o.ID, o.Cents); err != nil {
			return err
		}
		return publish(ctx, tx, "order", o.ID, "OrderPlaced", o)
	})
}

func payOrder(ctx context.Context, db *pgx.Conn, o order) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// The row's lock keeps events of an order in the order of their commits.
		if _, err := tx.Exec(ctx, `UPDATE orders SET paid = true WHERE id = $1`, o.ID); err != nil {
			return err
		}
		return publish(ctx, tx, "order", o.ID, "OrderPaid", o)
	})
}

// publish writes the event in the caller's transaction.
func publish(ctx context.Context, tx pgx.Tx, aggregateType, aggregateID, eventType string, event any) error {
	payload, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ($1, $2, $3, $4)`,
		aggregateType, aggregateID, eventType, payload)
	return err
}
