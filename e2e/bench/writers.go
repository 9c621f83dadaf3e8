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
	// writersRate is the load beside which rows are removed or compared, in transactions
	// a second, and writers from how many connections it comes.
	writersRate = 1000
	writers     = 4
)

// besideWriters lets the writers write until until says so, and returns how long each of
// their inserts took with its commit, in order of their length.
func (b *bench) besideWriters(ctx context.Context, database string, until func(context.Context) (bool, error)) (delays []time.Duration, took time.Duration, err error) {
	writing, stop := context.WithCancel(ctx)
	defer stop()
	all := make([][]time.Duration, writers)
	failed := make([]error, writers)
	var work sync.WaitGroup
	started := time.Now()
	for i := range writers {
		work.Go(func() { all[i], failed[i] = b.write(writing, database, writersRate/writers) })
	}
	for done := false; !done && err == nil; {
		time.Sleep(200 * time.Millisecond)
		done, err = until(ctx)
	}
	took = time.Since(started)
	stop()
	work.Wait()
	for _, e := range failed {
		if err == nil {
			err = e
		}
	}
	return slices.Sorted(slices.Values(slices.Concat(all...))), took, err
}

// percentile of delays that are in order, which there are.
func percentile(delays []time.Duration, of int) time.Duration { return delays[len(delays)*of/100] }

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
