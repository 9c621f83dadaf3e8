package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// retentionRate is the load beside which rows are removed, in transactions a second,
	// and retentionWriters from how many connections it comes.
	retentionRate    = 1000
	retentionWriters = 4
	// retentionQuiet is how long the load is measured without retention.
	retentionQuiet = 30 * time.Second
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
	b.counter++
	database := fmt.Sprintf("bench%d", b.counter)
	conn, err := b.outbox(ctx, database)
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
	b.printf("| | inserts | p50 | p99 | max | rows removed a second | CPU of outboxd, s a minute |\n|---|---|---|---|---|---|---|\n")
	measure := func(name, mode string, until func(context.Context) (bool, error)) error {
		c := b.outboxd(name, b.binary, "retention: {mode: "+mode+", keep: 0s, interval: 1s}")
		var before int64
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM outbox").Scan(&before); err != nil {
			return err
		}
		running, err := c.start(ctx, b, t)
		if err != nil {
			return err
		}
		writing, stop := context.WithCancel(ctx)
		defer stop()
		delays := make([][]time.Duration, retentionWriters)
		failed := make(chan error, retentionWriters)
		var work sync.WaitGroup
		for i := range retentionWriters {
			work.Go(func() {
				var err error
				delays[i], err = b.write(writing, database, retentionRate/retentionWriters)
				failed <- err
			})
		}
		used, started := running.CPU(), time.Now()
		for done := false; !done && err == nil; {
			time.Sleep(200 * time.Millisecond)
			done, err = until(ctx)
		}
		took := time.Since(started)
		used = running.CPU() - used
		stop()
		work.Wait()
		for range retentionWriters {
			if e := <-failed; err == nil {
				err = e
			}
		}
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
		all := slices.Sorted(slices.Values(slices.Concat(delays...)))
		if len(all) == 0 {
			return fmt.Errorf("%s: nothing was written", name)
		}
		b.printf("| %s | %d, %.0f a second | %.2f ms | %.2f ms | %.1f ms | %.0f | %.1f |\n", name, len(all), float64(len(all))/took.Seconds(),
			ms(all[len(all)/2]), ms(all[len(all)*99/100]), ms(all[len(all)-1]), float64(before+int64(len(all))-after)/took.Seconds(), used.Seconds()/took.Minutes())
		return nil
	}
	end := time.Now().Add(retentionQuiet)
	if err := measure("without retention", "off", func(context.Context) (bool, error) { return time.Now().After(end), nil }); err != nil {
		return err
	}
	return measure(fmt.Sprintf("while %d rows are removed", n), "delete", func(ctx context.Context) (bool, error) {
		// By statistics: counting is what retention does not do.
		var live int64
		err := conn.QueryRow(ctx, "SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'outbox'").Scan(&live)
		return live < int64(n)/100, err
	})
}

// write inserts so many rows a second until ctx ends, and returns how long each insert
// took with its commit.
func (b *bench) write(ctx context.Context, database string, rate int) (took []time.Duration, err error) {
	db, err := pgx.Connect(ctx, b.postgres.DSN(database))
	if err != nil {
		return nil, err
	}
	defer db.Close(context.WithoutCancel(ctx))
	began := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		if ahead := time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))); ahead > 0 {
			time.Sleep(ahead)
		}
		started := time.Now()
		if _, err := db.Exec(context.WithoutCancel(ctx), "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', $1, 'placed', jsonb_build_object('text', repeat('x', 240)))",
			fmt.Sprintf("order-%d", i%1000)); err != nil {
			return nil, err
		}
		took = append(took, time.Since(started))
	}
	return took, nil
}
