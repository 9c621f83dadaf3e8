package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// loads are those at which the guarantees' costs are compared, in events a second; from
// 12,000 on in transactions of ten rows, as in the scenarios of latency.
var loads = []struct{ rate, rowsPerTx int }{{10, 1}, {100, 1}, {1_000, 1}, {20_000, 10}}

// onceCost measures each guarantee's latency, and what the broker pays for it, at each load.
func onceCost(ctx context.Context, b *bench, s scenario) error {
	b.printf("\n## %s\n\n", s.title)
	contestants := s.who(b)
	if err := b.warmUp(func(int) error {
		_, err := b.latencyRun(ctx, contestants[0], 1_000, 1)
		return err
	}); err != nil {
		return err
	}
	var rows []string
	for _, load := range loads {
		results, err := inTurns(b, contestants, func(c contestant, _, _ int) (spread, string, error) {
			res, err := b.latencyRun(ctx, c, load.rate, load.rowsPerTx)
			return res, fmt.Sprintf("%s  broker %5.1f s/min  %.1f other records/s", res.line(), res.broker.Seconds(), res.others), err
		})
		if err != nil {
			return err
		}
		for i, c := range contestants {
			of := func(f func(spread) time.Duration) time.Duration {
				var values []time.Duration
				for _, r := range results[i] {
					values = append(values, f(r))
				}
				return median(values)
			}
			var others float64
			for _, r := range results[i] {
				others += r.others / float64(len(results[i]))
			}
			rows = append(rows, fmt.Sprintf("| %d | %s | %.2f ms | %.2f ms | %.1f | %.1f | %.0f |", load.rate, c.name,
				ms(of(func(r spread) time.Duration { return r.p50 })), ms(of(func(r spread) time.Duration { return r.p99 })),
				of(func(r spread) time.Duration { return r.cpu }).Seconds(), of(func(r spread) time.Duration { return r.broker }).Seconds(), others))
		}
	}
	b.printf("\n| events/s | contestant | p50 | p99 | CPU s a minute | broker's | other records/s |\n|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		b.printf("%s\n", row)
	}
	return nil
}

// records returns how many records there have been in a topic and in those in which
// positions and transactions are kept: events, control records, positions, states.
func (b *bench) records(ctx context.Context, topic string) (n int64, err error) {
	client, err := b.client()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic, "outboxd.positions", "__transaction_state")
	if err != nil {
		return 0, err
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil { // not there yet
			n += o.Offset
		}
	})
	return n, nil
}
