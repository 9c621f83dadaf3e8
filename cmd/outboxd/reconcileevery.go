package main

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"outboxd/internal/config"
	"outboxd/internal/reconcile"
	"outboxd/internal/status"
)

// reconcileEvery compares the outbox with Kafka every so often while this process
// streams, until ctx ends.
func reconcileEvery(ctx context.Context, cfg *config.Config, st *status.Status, log zerolog.Logger) error {
	// Formats belong to one goroutine: these are not the connector's.
	p, err := connectorOptions(cfg, status.New(0), log)
	if err != nil {
		return err
	}
	o := reconcileOptions(cfg, p)
	o.Log = log
	st.UseReconcile(reconcile.Kinds)
	go func() {
		tick := time.NewTicker(cfg.Reconcile.Every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if st.Role() != status.Streaming {
				continue
			}
			result, err := reconcile.Run(ctx, o)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				st.Reconciled(nil, err)
				log.Warn().Err(err).Msg("the outbox could not be compared with Kafka")
			default:
				st.Reconciled(result.Mismatches, nil)
				if result.Differ() {
					log.Warn().Interface("mismatches", result.Mismatches).Msg("outbox and Kafka differ; `outboxd reconcile` shows examples")
				}
			}
		}
	}()
	return nil
}
