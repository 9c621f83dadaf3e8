package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	// retentionTurn is how long the load is measured without retention, then beside it,
	// then without again, and so on until the old rows are gone: other work on the
	// machine is in both.
	retentionTurn = 30 * time.Second
)

// retention measures what a writer feels while old rows are removed: the time of an
// insert with its commit, without retention and beside it, of the same table.
func retention(ctx context.Context, b *bench, s scenario) error {
	b.printf("\n## %s\n\n", s.title)
	// The other scenarios have it off, and here it is a part of the cost.
	for _, sql := range []string{"ALTER SYSTEM SET autovacuum = on", "ALTER SYSTEM SET autovacuum_naptime = '10s'", "SELECT pg_reload_conf()"} {
		if err := b.postgres.Exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	database, conn, err := b.outbox(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	n, err := s.fill(ctx, conn, b.events)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "VACUUM ANALYZE outbox"); err != nil {
		return err
	}
	t := target{database: database, slot: database, topic: database + ".placed", events: 1 << 62}
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", t.slot); err != nil {
		return err
	}
	defer dropSlots(context.WithoutCancel(ctx), conn, []string{t.slot})
	if err := b.createTopic(ctx, t.topic); err != nil {
		return err
	}
	b.printf("| | seconds | inserts | p50 | p99 | max | rows removed a second | CPU of outboxd, s a minute |\n|---|---|---|---|---|---|---|---|\n")
	type total struct {
		delays  []time.Duration
		p99s    []time.Duration
		took    time.Duration
		used    time.Duration
		removed int64
	}
	totals := make(map[string]*total)
	report := func(name string, t *total) {
		all := slices.Sorted(slices.Values(t.delays))
		b.printf("| %s | %.0f | %d, %.0f a second | %.2f ms | %.2f ms | %.1f ms | %.0f | %.1f |\n", name, t.took.Seconds(), len(all), float64(len(all))/t.took.Seconds(),
			ms(percentile(all, 50)), ms(percentile(all, 99)), ms(all[len(all)-1]), float64(t.removed)/t.took.Seconds(), t.used.Seconds()/t.took.Minutes())
	}
	measure := func(mode string, until func(context.Context) (bool, error)) error {
		c := b.outboxd(mode, b.binary, "retention: {mode: "+mode+", keep: 0s, interval: 1s}")
		var before int64
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM outbox").Scan(&before); err != nil {
			return err
		}
		running, err := c.start(ctx, b, t)
		if err != nil {
			return err
		}
		used, started := running.CPU(), time.Now()
		delays, took, err := b.besideWriters(ctx, database, func(ctx context.Context) (bool, error) {
			done, err := until(ctx)
			return done || time.Since(started) >= retentionTurn, err
		})
		used = running.CPU() - used
		if err == nil {
			err = running.Stop()
		}
		if err != nil {
			return err
		}
		var after int64
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM outbox").Scan(&after); err != nil {
			return err
		}
		turn := &total{delays: delays, took: took, used: used}
		if len(turn.delays) == 0 {
			return fmt.Errorf("%s: nothing was written", mode)
		}
		turn.removed = before + int64(len(turn.delays)) - after
		report("retention.mode: "+mode, turn)
		sum := totals[mode]
		if sum == nil {
			sum = new(total)
			totals[mode] = sum
		}
		sum.p99s = append(sum.p99s, percentile(turn.delays, 99))
		sum.delays = append(sum.delays, turn.delays...)
		sum.took, sum.used, sum.removed = sum.took+took, sum.used+used, sum.removed+turn.removed
		return nil
	}
	// By statistics: counting is what retention does not do.
	gone := false
	isGone := func(ctx context.Context) (bool, error) {
		var live int64
		err := conn.QueryRow(ctx, "SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'outbox'").Scan(&live)
		gone = live < int64(n)/100
		return gone, err
	}
	never := func(context.Context) (bool, error) { return false, nil }
	for !gone {
		if err := measure("off", never); err != nil {
			return err
		}
		if err := measure("delete", isGone); err != nil {
			return err
		}
	}
	for _, mode := range []string{"off", "delete"} {
		t := totals[mode]
		report(fmt.Sprintf("**%s, all %d turns**", mode, len(t.p99s)), t)
	}
	for _, mode := range []string{"off", "delete"} {
		t := totals[mode]
		slices.Sort(t.p99s)
		b.printf("\np99 of the turns with retention.mode %s: least %.2f ms, median %.2f ms, most %.2f ms\n", mode, ms(t.p99s[0]), ms(t.p99s[len(t.p99s)/2]), ms(t.p99s[len(t.p99s)-1]))
	}
	b.printf("\nload %s\n", loadAverage())
	return nil
}
